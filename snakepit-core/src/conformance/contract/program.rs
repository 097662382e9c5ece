//! What a program finds when it starts.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    io::{self, Read, Write},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::PathBuf,
    sync::Arc,
};

use crate::{
    conformance::{
        evidence::{Evidence, Finding, ensure},
        ground::{Ground, LONG, blocking},
        marks,
    },
    launch::{ChannelForm, LaunchSpec, environment},
};

async fn environment_of(
    ground: &Ground,
    spec: &LaunchSpec,
) -> Result<BTreeMap<OsString, OsString>, Evidence> {
    let mut launched = ground.launch(spec).await?;
    let (text, _) = launched.output().await?;
    launched.end(LONG).await?;
    let variables = text.split(|byte| *byte == 0).filter(|text| !text.is_empty());
    let pair = |text: &[u8]| {
        let at = text.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (&text[..at], &text[at + 1..]);
        Some((
            OsStr::from_bytes(name).to_owned(),
            OsStr::from_bytes(value).to_owned(),
        ))
    };
    Ok(variables.filter_map(pair).collect())
}

pub(super) async fn environment_is_exact(ground: Arc<Ground>) -> Finding {
    let mut spec = Ground::plain("env", &["-0"]);
    let odd = OsString::from_vec(b"two  words\n'$HOME' \xff = ".to_vec());
    spec.env = vec![
        ("SNAKEPIT_CONFORMANCE".into(), odd),
        ("SNAKEPIT_CONFORMANCE_EMPTY".into(), OsString::new()),
        ("SNAKEPIT_WORKER_ID".into(), "forged".into()),
    ];
    let removed = std::env::vars_os()
        .map(|(name, _)| name)
        .find(|name| name != "PATH");
    spec.env_remove = removed.into_iter().collect();
    let expected = environment(&spec)?;
    let found = environment_of(&ground, &spec).await?;
    let missing: Vec<_> = expected
        .iter()
        .filter(|(name, value)| found.get(*name) != Some(value))
        .collect();
    let beyond: Vec<_> = found
        .keys()
        .filter(|name| !expected.contains_key(*name))
        .collect();
    ensure!(missing.is_empty(), "not passed on as they are: {missing:?}");
    ensure!(beyond.is_empty(), "nobody asked for {beyond:?}");
    Ok(())
}

pub(super) async fn arguments(ground: Arc<Ground>) -> Finding {
    let odd = [
        "two words",
        "$HOME",
        "*",
        "`id`",
        "$(id)",
        "",
        "'\"\\",
        "-n",
        "a;b&c|d>e",
    ];
    let mut spec = Ground::plain("printf", &["[%s]\n"]);
    spec.args.extend(odd.map(Into::into));
    let output = ground.launch(&spec).await?.finish().await?;
    let expected: String = odd.iter().map(|arg| format!("[{arg}]\n")).collect();
    ensure!(output == expected, "the program was given {output:?}");
    Ok(())
}

pub(super) async fn look_up(ground: Arc<Ground>) -> Finding {
    let mut spec = Ground::plain("env", &["-0"]);
    spec.env = vec![("PATH".into(), "/nowhere".into())];
    let found = environment_of(&ground, &spec).await?;
    let path = found.get(OsStr::new("PATH"));
    ensure!(
        path.is_some_and(|path| path == "/nowhere"),
        "its PATH is {path:?}"
    );
    Ok(())
}

pub(super) async fn relative(ground: Arc<Ground>) -> Finding {
    // To the root, and no further: from a directory of the same depth below another one it leads to nothing.
    let up = |(at, _)| if at == 0 { "." } else { ".." };
    let host = std::fs::canonicalize(std::env::current_dir()?)?;
    let to_root: PathBuf = host.components().enumerate().map(up).collect();
    let deep: PathBuf = host.components().map(|_| "deep").collect();
    let mut spec = ground.spec(&ground.staying(""));
    spec.program = to_root.join("bin/sh");
    let directory = ground.marks.path("").join(deep);
    std::fs::create_dir_all(&directory)?;
    spec.cwd = Some(directory);
    let mut launched = ground.launch(&spec).await?;
    launched.until_ready().await?;
    launched.end(LONG).await?;
    Ok(())
}

pub(super) async fn directory(ground: Arc<Ground>) -> Finding {
    let mut spec = Ground::plain("/bin/sh", &["-c", "pwd -P"]);
    let wanted = std::fs::canonicalize(ground.marks.path(""))?;
    spec.cwd = Some(wanted.clone());
    let output = ground.launch(&spec).await?.finish().await?;
    ensure!(OsStr::new(output.trim_end()) == wanted, "it is in {output}");
    Ok(())
}

pub(super) async fn same_directory(ground: Arc<Ground>) -> Finding {
    let wanted = std::fs::canonicalize(std::env::current_dir()?)?;
    let spec = Ground::plain("/bin/sh", &["-c", "pwd -P"]);
    let output = ground.launch(&spec).await?.finish().await?;
    ensure!(OsStr::new(output.trim_end()) == wanted, "it is in {output}");
    Ok(())
}

pub(super) async fn group(ground: Arc<Ground>) -> Finding {
    let launched = ground.launch_staying("").await?;
    let worker = ground.one("worker").await?;
    let group = crate::process::Stat::read(worker.pid())?.pgrp;
    let own = crate::process::Stat::read(std::process::id())?.pgrp;
    ensure!(group != own, "it is in the host's group {own}");
    launched.end(LONG).await?;
    Ok(())
}

pub(super) async fn signals(ground: Arc<Ground>) -> Finding {
    let status = ground
        .launch(&Ground::plain("cat", &["/proc/self/status"]))
        .await?
        .finish()
        .await?;
    let own = std::fs::read_to_string("/proc/self/status")?;
    let set = |status: &str, name| {
        marks::signals(status, name).ok_or_else(|| Evidence(format!("no {name} in {status:?}")))
    };
    let blocked = set(&status, "SigBlk")?;
    ensure!(blocked == 0, "blocked signals: {blocked:016x}");
    // glibc's posix_spawn(3) leaves signal 33 ignored; 32 to 34 are the C libraries' own, signal(7), and no program's.
    let ours = !(0b111 << 31);
    // The Rust runtime ignores SIGPIPE for itself; a program expects to be ended by it.
    let inherited = set(&own, "SigIgn")? & !(1 << (libc::SIGPIPE - 1));
    let ignored = set(&status, "SigIgn")? & ours;
    ensure!(
        ignored & !inherited == 0,
        "ignored signals: {ignored:016x}, of the host {inherited:016x}"
    );
    Ok(())
}

pub(super) async fn output(ground: Arc<Ground>) -> Finding {
    let spec = Ground::plain("/bin/sh", &["-c", "echo to output; echo to error >&2"]);
    let mut launched = ground.launch(&spec).await?;
    let (output, errors) = launched.output().await?;
    launched.end(LONG).await?;
    let heard = (String::from_utf8_lossy(&output), String::from_utf8_lossy(&errors));
    ensure!(
        heard == ("to output\n".into(), "to error\n".into()),
        "heard {heard:?}"
    );
    Ok(())
}

/// Prints its descriptors; the shell's own, for listing them, is closed again when it is looked at.
const LIST: &str =
    r#"for fd in /proc/$$/fd/*; do [ -L "$fd" ] && echo "${fd##*/} $(readlink "$fd")"; done; :"#;

/// Descriptors above 2 that pass to every child, as whoever opened them has left out close-on-exec.
fn inheritable() -> io::Result<Vec<u32>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fdinfo")? {
        let name = entry?.file_name();
        let Some(fd) = name
            .to_str()
            .and_then(|name| name.parse().ok())
            .filter(|fd| *fd > 2)
        else {
            continue;
        };
        // Closed meanwhile: then it is not there to be inherited.
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
        if flags.is_some_and(|flags| flags & libc::O_CLOEXEC == 0) {
            all.push(fd);
        }
    }
    Ok(all)
}

pub(super) async fn descriptors(ground: Arc<Ground>) -> Finding {
    // Others come and go meanwhile, so that their pipes and channels are around to be leaked.
    let crowd: Vec<_> = (0..8)
        .map(|_| {
            let ground = Arc::clone(&ground);
            tokio::spawn(async move { ground.launch(&ground.spec(&ground.staying(""))).await })
        })
        .collect();
    for _ in 0..4 {
        let listed = ground
            .launch(&Ground::plain("/bin/sh", &["-c", LIST]))
            .await?
            .finish()
            .await?;
        let allowed = inheritable()?;
        let fd = |line: &str| line.split_once(' ').and_then(|(fd, _)| fd.parse::<u32>().ok());
        let beyond: Vec<_> = listed
            .lines()
            .filter(|line| fd(line).is_none_or(|fd| fd > 2 && !allowed.contains(&fd)))
            .collect();
        ensure!(beyond.is_empty(), "it has {beyond:?}");
        ensure!(listed.lines().count() >= 3, "it has only {listed:?}");
    }
    for one in crowd {
        one.await??.end(LONG).await?;
    }
    Ok(())
}

pub(super) async fn channel(ground: Arc<Ground>) -> Finding {
    let spec = ground.spec("readlink /proc/$$/fd/0; read word; echo \"got $word\" >&0");
    let mut launched = ground.launch(&spec).await?;
    let kind = launched.line().await?;
    ensure!(kind.starts_with("socket:"), "standard input is {kind}");
    let mut channel = launched
        .channel
        .take()
        .ok_or_else(|| Evidence("there is no channel".into()))?;
    let answer = blocking(move || {
        channel.set_nonblocking(false)?;
        channel.write_all(b"ping\n")?;
        let mut answer = String::new();
        // It ends when the program has, which held the only other end.
        channel.read_to_string(&mut answer).map(|_| answer)
    })
    .await?;
    ensure!(answer == "got ping\n", "the answer is {answer:?}");
    launched.finish().await?;
    Ok(())
}

pub(super) async fn channel_ends(ground: Arc<Ground>) -> Finding {
    let mut launched = ground.launch(&ground.spec("while read line; do :; done")).await?;
    ensure!(
        launched.process.try_exited().is_none(),
        "it ended before its channel did"
    );
    drop(launched.channel.take());
    // Were another end open somewhere, as in another worker, this would take forever.
    launched.finish().await?;
    Ok(())
}

pub(super) async fn other_channels(ground: Arc<Ground>) -> Finding {
    let unix = ChannelForm::Unix(ground.marks.path("socket"));
    let tcp = ChannelForm::Tcp(([127, 0, 0, 1], 1).into());
    for form in [unix, tcp] {
        let mut spec = Ground::plain(
            "/bin/sh",
            &["-c", "readlink /proc/$$/fd/0; echo \"$SNAKEPIT_CHANNEL\""],
        );
        spec.channel = form.clone();
        let launched = ground.launch(&spec).await?;
        ensure!(launched.channel.is_none(), "{form} comes with a channel");
        let seen = launched.finish().await?;
        ensure!(
            seen == format!("/dev/null\n{form}\n"),
            "with {form} it sees {seen:?}"
        );
    }
    Ok(())
}

pub(super) async fn handed_out_once(ground: Arc<Ground>) -> Finding {
    let launched = ground.launch_staying("").await?;
    ensure!(launched.channel.is_some(), "there is no channel");
    let again = launched.process.take_io();
    let none = again.channel.is_none() && again.stdout.is_none() && again.stderr.is_none();
    ensure!(none, "a second time: {again:?}");
    launched.end(LONG).await?;
    Ok(())
}
