//! Nonsense and scarcity: refused or ignored, and nothing is lost or left.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::{Command, Output, Stdio},
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, getpid, getrlimit, pidfd_open, prlimit};

use crate::{
    client::{Guardian, LEVELS, NOBODY, NONE, exited, memory_file, null, pair, program, send, shell},
    wire::{Event, LEN, Level, MAX_FDS, Message, Request, SPAWN_CGROUP, Spec, Step, VERSION},
    yard::Yard,
};

fn by_hand(stdin: Stdio, argument: Option<&str>) -> (Option<i32>, String, String) {
    let mut command = Command::new(program());
    command.args(argument).stdin(stdin);
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn started_by_hand_it_says_so_and_leaves() {
    let (reading, _writing) = rustix::pipe::pipe().unwrap();
    let (stream, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    for stdin in [Stdio::null(), reading.into(), OwnedFd::from(stream).into()] {
        let (code, stdout, stderr) = by_hand(stdin, None);
        assert_eq!((code, stdout.as_str()), (Some(2), ""));
        assert!(stderr.contains("started by a Snakepit host"), "{stderr}");
    }
    let (code, stdout, _) = by_hand(Stdio::null(), Some("--version"));
    let expected = format!(
        "snakepit-guardian {}, protocol {VERSION}\n",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!((code, stdout), (Some(0), expected));
}

#[test]
fn a_hello_that_is_none_is_refused() {
    let host = || pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    let hello = |version: u32, level, grace| {
        Message::new(Request::Hello, 0)
            .with(version.into(), level, grace)
            .encode()
            .to_vec()
    };
    let ping = Message::new(Request::Ping, 0).encode().to_vec();
    let cases = [
        (hello(VERSION + 1, 1, 0), vec![host()], libc::EPROTO),
        (ping, vec![host()], libc::EPROTO),
        (vec![7; LEN], vec![], libc::EPROTO),
        (vec![0; LEN + 9], vec![host()], libc::EPROTO),
        (vec![], vec![], libc::EPROTO),
        (hello(VERSION, 9, 0), vec![host()], libc::EINVAL),
        (hello(VERSION, 1, -1), vec![host()], libc::EINVAL),
        (hello(VERSION, 1, 0), vec![], libc::EINVAL),
        (hello(VERSION, 1, 0), vec![host(), null(), null()], libc::EINVAL),
        (hello(VERSION, 1, 0), vec![null()], libc::EBADF),
    ];
    for (bytes, fds, errno) in cases {
        let mut guardian = Guardian::started(Level::Subreaper).unwrap();
        guardian.say_bytes(&bytes, &fds);
        let refused = guardian.expect(Event::Refused, 0).message;
        let expected = (Step::Protocol as i64, i64::from(errno));
        assert_eq!((refused.a, refused.b), expected, "{bytes:?}");
        let mut text = String::new();
        guardian
            .process
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert!(text.contains("refuses to run"), "{text}");
        assert_eq!(guardian.process.wait().unwrap().code(), Some(2));
    }
}

/// How many descriptors a process has.
fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

#[test]
fn nonsense_is_ignored_or_refused_and_leaves_no_descriptors() {
    for level in LEVELS {
        let Some(guardian) = Guardian::welcomed(level) else {
            continue;
        };
        let other = guardian.script(1, "echo ready; exec sleep 1000");
        guardian.assert_well();
        let pid = guardian.process.id();
        let before = descriptors(pid);
        let refused = |id, step: Step, errno: i32| {
            let failed = guardian.expect(Event::SpawnFailed, id).message;
            assert_eq!((failed.a, failed.b), (step as i64, i64::from(errno)), "{level:?}");
        };

        for bytes in [
            vec![],
            vec![1],
            vec![2; LEN - 1],
            vec![0; LEN + 1],
            vec![255; LEN],
            vec![9; 4000],
        ] {
            guardian.say_bytes(&bytes, &[null(), null()]);
        }
        let hello = Message::new(Request::Hello, 0).with(VERSION.into(), 3, 0);
        guardian.say(hello, &[null()]);
        for request in [Request::Go, Request::Signal, Request::Stop, Request::Release] {
            guardian.say(Message::new(request, 99).with(9, 1, 0), &[null(), null()]);
        }
        // Nobody's id, and what is meant for the other kind.
        guardian.say(Message::new(Request::Release, 1), &NONE);
        guardian.go(1);
        // In use: not answered, as the answer would be about the one that lives.
        guardian.say(Message::new(Request::Spawn, 1), &NONE);
        guardian.say(Message::new(Request::Manage, 1), &[null()]);
        guardian.assert_well();

        for count in (0..=MAX_FDS).filter(|count| *count != 4) {
            let fds: Vec<_> = (0..count).map(|_| null()).collect();
            guardian.say(Message::new(Request::Spawn, 2), &fds);
            refused(2, Step::Protocol, libc::EINVAL);
        }
        let more: Vec<_> = (0..MAX_FDS + 5).map(|_| null()).collect();
        guardian.say(Message::new(Request::Spawn, 2), &more);
        refused(2, Step::Protocol, libc::EMFILE);
        guardian.say(
            Message::new(Request::Spawn, 2).with(2, 0, 0),
            &[null(), null(), null(), null()],
        );
        refused(2, Step::Protocol, libc::EINVAL);
        guardian.say(Message::new(Request::Manage, 2), &[null()]);
        refused(2, Step::Protocol, libc::EBADF);
        guardian.say(Message::new(Request::Manage, 2), &NONE);
        refused(2, Step::Protocol, libc::EINVAL);

        if level == Level::Cgroup {
            guardian.say(Message::new(Request::Spawn, 2), &[null(), null(), null(), null()]);
            refused(2, Step::EnterCgroup, libc::EINVAL);
            let spec = OwnedFd::from(memory_file(&shell("exit 0").encode()));
            let fds = [spec, null(), null(), null(), null()];
            guardian.say(Message::new(Request::Spawn, 2).with(SPAWN_CGROUP, 0, 0), &fds);
            refused(2, Step::EnterCgroup, libc::ENOTDIR);
        } else {
            let (reading, _writing) = rustix::pipe::pipe().unwrap();
            for (spec, errno) in [
                (reading, libc::ESPIPE),
                (pair().0, libc::ESPIPE),
                (fs::File::open("/").unwrap().into(), libc::EISDIR),
                (fs::File::open("/dev/zero").unwrap().into(), libc::E2BIG),
                (null(), libc::EINVAL),
                (memory_file(b"").into(), libc::EINVAL),
                (memory_file(&[255; 100]).into(), libc::EINVAL),
            ] {
                guardian.say(Message::new(Request::Spawn, 2), &[spec, null(), null(), null()]);
                refused(2, Step::ReadSpec, errno);
            }
        }
        guardian.assert_well();
        assert_eq!(descriptors(pid), before, "{level:?}");
        drop(other);
        guardian.stop(1, 0);
        guardian.ended(1);
        guardian.leave();
    }
}

#[test]
fn random_packets_do_no_harm() {
    // A generator of its own, so that a failure can be had again.
    let mut seed = u64::from(std::process::id()) << 20 | 1;
    eprintln!("seed {seed}");
    let mut random = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let Some(guardian) = Guardian::welcomed(Level::Subreaper) else {
        return;
    };
    guardian.script(1, "echo ready; exec sleep 1000");
    guardian.assert_well();
    let before = descriptors(guardian.process.id());
    for _ in 0..3000 {
        let mut bytes = [0; LEN + 2];
        bytes[0] = random(10) as u8;
        // Ids from two on, so that the one that lives is left alone.
        bytes[8] = 2 + random(8) as u8;
        for byte in &mut bytes[16..] {
            *byte = random(256) as u8;
        }
        let len = if random(10) == 0 {
            random(LEN as u64 + 3) as usize
        } else {
            LEN
        };
        let fds: Vec<_> = (0..random(7)).map(|_| null()).collect();
        guardian.say_bytes(&bytes[..len], &fds);
        while guardian.try_hear(Duration::ZERO).is_some() {}
    }
    // A pong may come before what was to be told earlier, but not before what an earlier pong left behind.
    for number in [-4711, -4712] {
        guardian.say(Message::new(Request::Ping, 0).with(number, 0, 0), &NONE);
        loop {
            let told = guardian.hear().message;
            assert!(!matches!(told.kind, Event::Held | Event::Exited), "{told:?}");
            if (told.kind, told.a) == (Event::Pong, number) {
                break;
            }
        }
    }
    // Keepers that were sent nonsense leave by themselves, and then there is one again that waits.
    let pause = Duration::from_millis(2);
    for _ in 0..crate::client::PATIENCE.as_millis() / pause.as_millis() {
        if descriptors(guardian.process.id()) == before {
            break;
        }
        while guardian.try_hear(pause).is_some() {}
    }
    assert_eq!(descriptors(guardian.process.id()), before);
    guardian.stop(1, 0);
    // A keeper that has not answered yet may stand in the count for the one that is to wait next.
    for kind in [Event::Exited, Event::Ended] {
        let told = loop {
            let told = guardian.hear().message;
            if told.kind != Event::SpawnFailed {
                break told;
            }
        };
        assert_eq!((told.kind, told.id), (kind, 1), "{told:?}");
    }
    guardian.leave();
}

#[test]
fn a_host_that_does_not_listen_loses_nothing() {
    let Some(guardian) = Guardian::welcomed(Level::Subreaper) else {
        return;
    };
    let broken = Spec {
        cwd: b"/nowhere/at/all".to_vec(),
        ..shell("exit 0")
    };
    let held = shell("exit 0");
    let count = 600;
    for id in 0..count {
        guardian.spawn(id, if id % 2 == 0 { &broken } else { &held });
        guardian.say(Message::new(Request::Ping, 0).with(id.cast_signed(), 0, 0), &NONE);
        guardian.go(id);
    }
    let mut told = BTreeMap::<u64, Vec<Event>>::new();
    let mut pong = -1;
    while told.len() < count as usize || told.values().any(|events| !is_complete(events)) {
        let message = guardian.hear().message;
        match message.kind {
            Event::Pong => {
                assert!(message.a > pong, "pongs in order");
                pong = message.a;
            }
            kind => told.entry(message.id).or_default().push(kind),
        }
        if message.kind == Event::Held {
            guardian.stop(message.id, 0);
        }
    }
    guardian.leave();
}

fn is_complete(events: &[Event]) -> bool {
    match events {
        [Event::SpawnFailed] => true,
        [Event::Held, .., Event::Exited, Event::Ended] => {
            assert!(events.len() <= 4, "{events:?}");
            true
        }
        [Event::Held, ..] => false,
        _ => panic!("{events:?}"),
    }
}

fn bound_descriptors(guardian: &Guardian, limit: u64) {
    let pid = Pid::from_child(&guardian.process);
    let maximum = getrlimit(Resource::Nofile).maximum;
    let new = Rlimit {
        current: Some(limit),
        maximum,
    };
    prlimit(Some(pid), Resource::Nofile, new).unwrap();
}

#[test]
fn without_descriptors_workers_are_refused_and_the_others_go_on() {
    for level in LEVELS {
        let Some(guardian) = Guardian::welcomed(level) else {
            continue;
        };
        guardian.script(1, "echo ready; exec sleep 1000");
        guardian.assert_well();
        let used = descriptors(guardian.process.id()) as u64;
        let mut refused = 0;
        for more in 0..16 {
            bound_descriptors(&guardian, used + more);
            guardian.spawn(2, &shell("exit 3"));
            let told = guardian.hear();
            let (told_fds, told) = (told.fds.len(), told.message);
            match told.kind {
                Event::SpawnFailed => {
                    assert_eq!(told.b, i64::from(libc::EMFILE), "{level:?} {more} {told:?}");
                    refused += 1;
                }
                Event::Held => {
                    assert_eq!(told_fds, 2, "{level:?} {more}");
                    guardian.stop(2, 0);
                    guardian.ended(2);
                }
                kind => panic!("{kind:?}"),
            }
        }
        assert!((1..16).contains(&refused), "{refused}");
        guardian.stop(1, 0);
        guardian.ended(1);
        guardian.leave();
    }
}

#[test]
fn where_no_process_can_be_made_workers_are_refused() {
    // Users of their own, so that the limit counts nobody else's processes.
    for (level, user) in [Level::Subreaper, Level::Namespace].into_iter().zip(54_330..) {
        let mut refused = 0;
        for limit in 1..=6 {
            let (socket, theirs) = pair();
            let yard = Yard::new();
            let mut command = Command::new("prlimit");
            command.args([&format!("--nproc={limit}"), program()]);
            command
                .uid(user)
                .gid(user)
                .stdin(theirs)
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            yard.mark(&mut command);
            let guardian = Guardian::from_parts(command.spawn().unwrap(), socket, level, yard);
            drop(command);
            guardian.hello(0, getpid());
            let told = guardian.hear().message;
            if told.kind == Event::Refused {
                // Not even a keeper can be tried out.
                assert_eq!(told.b, i64::from(libc::EAGAIN), "{level:?} {limit} {told:?}");
                continue;
            }
            guardian.spawn(2, &shell("exit 3"));
            let told = guardian.hear().message;
            match told.kind {
                Event::SpawnFailed => {
                    let expected = (Step::Fork as i64, i64::from(libc::EAGAIN));
                    assert_eq!((told.a, told.b), expected, "{level:?} {limit}");
                    refused += 1;
                }
                Event::Held => {
                    guardian.stop(2, 0);
                    guardian.ended(2);
                }
                kind => panic!("{kind:?}"),
            }
            guardian.assert_well();
            guardian.leave();
        }
        assert!(refused > 0, "{level:?}");
    }
}

#[test]
fn a_masked_proc_is_no_namespace_to_a_user_without_rights() {
    // As a container runtime does it: something lies over a part of /proc, so that a fresh one would show more.
    let yard = Yard::new();
    let (socket, theirs) = pair();
    let script = format!(
        "mount -t tmpfs none /proc/sys && exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups '{}'",
        program()
    );
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", &script])
        .stdin(theirs)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    yard.mark(&mut command);
    let mut process = match command.spawn() {
        Ok(process) => process,
        Err(error) => return eprintln!("SKIPPED: no unshare(1) here: {error}"),
    };
    yard.admit(process.id());
    drop(command);
    let hello = Message::new(Request::Hello, 0).with(VERSION.into(), Level::Namespace as i64, 0);
    send(
        &socket,
        &hello.encode(),
        &[pidfd_open(getpid(), PidfdFlags::empty()).unwrap()],
    );
    let told = crate::client::receive(&socket, crate::client::PATIENCE);
    let code = process.wait().unwrap().code();
    let Some(told) = told else {
        return eprintln!("SKIPPED: nothing can be mounted here: {code:?}");
    };
    let told = (told.message.kind, told.message.a, told.message.b, code);
    let expected = (
        Event::Refused,
        Step::MountProc as i64,
        i64::from(libc::EPERM),
        Some(2),
    );
    assert_eq!(told, expected);
}

#[test]
fn a_root_that_was_changed_stays_or_is_refused() {
    // A root that is no mount: all of the system's directories, and a mark.
    let script = format!(
        "mkdir \"$0\"/root && cd \"$0\"/root && mkdir proc tmp work && touch mark &&
        for name in bin dev etc lib lib64 sbin usr; do
            if [ -L /$name ]; then cp -P /$name .; elif [ -d /$name ]; then mkdir $name; mount --rbind /$name $name; fi
        done && mount --bind \"$1\" work && mount -t proc proc proc && mount --make-rshared / &&
        exec chroot . /work/{}",
        std::path::Path::new(program()).file_name().unwrap().to_str().unwrap()
    );
    for level in LEVELS.into_iter().filter(|level| *level != Level::Cgroup) {
        let place = tempfile::tempdir().unwrap();
        let yard = Yard::new();
        let (socket, theirs) = pair();
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script]).arg(place.path());
        command.arg(std::path::Path::new(program()).parent().unwrap());
        command.stdin(theirs).stdout(Stdio::null()).stderr(Stdio::null());
        yard.mark(&mut command);
        let process = match command.spawn() {
            Ok(process) => process,
            Err(error) => return eprintln!("SKIPPED: no unshare(1) here: {error}"),
        };
        drop(command);
        let guardian = Guardian::from_parts(process, socket, level, yard);
        guardian.hello(0, getpid());
        let Some(told) = guardian.try_hear(crate::client::PATIENCE) else {
            return eprintln!("SKIPPED: no root can be made here");
        };
        assert_eq!(told.message.kind, Event::Welcome, "{level:?} {told:?}");
        let scripted = guardian.script(
            1,
            "echo $(ls -d /mark) $(cat /proc/$$/comm) $(ls /root 2>/dev/null)",
        );
        assert_eq!(scripted.line, "/mark sh", "{level:?}");
        assert_eq!(guardian.ended(1).0, exited(0));
        guardian.leave();
    }
}
