//! Programs as such: what erlexec does, and what it does not.

mod common;

use std::{
    io::Write,
    process::{Child, Stdio},
    sync::Arc,
    time::Duration,
};

use common::{LONG, NOBODY, eventually, fixture, is_root, python, settings};
use snakepit_backend_exec::exec::{
    Command, Exec, FileMode, ManageError, Output, OutputError, Route, RunError, Running,
};
use snakepit_core::{
    launch::{LaunchError, LaunchLimits},
    process::{EndStep, ExitOutcome, Pidfd, ProcessIdentity},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    time::{Instant, timeout},
};

at_every_level!();

fn exec() -> Exec {
    Exec::new(settings())
}

fn sh(script: &str) -> Command {
    Command::new("sh").args(["-c", script])
}

async fn output(command: Command) -> Output {
    exec().run_with_output(command).await.expect("it succeeds")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end().to_owned()
}

/// Waits for a line of its standard output.
async fn line(running: &mut Running) -> String {
    let mut line = String::new();
    let reading = async {
        let mut stdout = BufReader::new(running.take_stdout().expect("a pipe"));
        stdout.read_line(&mut line).await.expect("readable");
    };
    timeout(LONG, reading).await.expect("it says so");
    line.trim_end().to_owned()
}

#[tokio::test]
async fn output_is_collected_and_arguments_are_not_a_shells() {
    let output = output(
        Command::new("printf")
            .arg("%s|%s")
            .args(["$HOME", "a  b; exit 1"]),
    )
    .await;
    assert_eq!(text(&output.stdout), "$HOME|a  b; exit 1");
    assert!(output.outcome.is_success() && output.stderr.is_empty());
}

#[tokio::test]
async fn both_streams_are_collected_whole_and_apart_or_together() {
    let script = "i=0; while [ $i -lt 3000 ]; do echo 0123456789012345678901234567890123456789; \
                  echo x >&2; i=$((i+1)); done";
    let apart = output(sh(script)).await;
    assert_eq!((apart.stdout.len(), apart.stderr.len()), (3000 * 41, 3000 * 2));
    let together = output(sh(script).stderr(Route::Stdout)).await;
    assert_eq!((together.stdout.len(), together.stderr.len()), (3000 * 43, 0));
}

#[tokio::test]
async fn only_success_codes_are_a_success() {
    let error = exec()
        .run_with_output(sh("echo why >&2; exit 3"))
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "exited with code 3");
    let OutputError::Unsuccessful(failed) = error else {
        panic!("{error:?}");
    };
    assert_eq!(
        (failed.outcome, text(&failed.stderr)),
        (ExitOutcome::Exited(3), "why".into())
    );
    let fine = sh("exit 3").success_codes([0, 3]);
    assert_eq!(output(fine).await.outcome, ExitOutcome::Exited(3));
    let error = exec().run_with_output(sh("exit 0").success_codes([3])).await;
    assert!(matches!(error, Err(OutputError::Unsuccessful(_))));
    let error = exec().run_with_output(sh("kill -9 $$")).await.unwrap_err();
    assert_eq!(error.to_string(), "killed by SIGKILL");
}

#[tokio::test]
async fn output_does_not_wait_for_what_a_program_leaves_behind() {
    let ran = output(sh("sleep 600 & echo done").grace(Duration::ZERO));
    let ran = timeout(LONG, ran).await.unwrap();
    assert_eq!(text(&ran.stdout), "done");
}

#[tokio::test]
async fn a_program_that_cannot_be_executed_is_named_with_the_reason() {
    let error = exec()
        .run(Command::new("no-such-program-anywhere"))
        .await
        .unwrap_err();
    let RunError::Launch(LaunchError::Exec { program, source }) = error else {
        panic!("{error:?}");
    };
    assert_eq!(program.to_str(), Some("no-such-program-anywhere"));
    assert_eq!(source.kind(), std::io::ErrorKind::NotFound);
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("text");
    // By another process: a descriptor of ours would keep it busy in whatever another test is just starting.
    let writing = sh("echo no program >\"$1\" && chmod 755 \"$1\"")
        .arg("sh")
        .arg(&path);
    output(writing).await;
    let error = exec().run(Command::new(&path)).await.unwrap_err();
    let RunError::Launch(LaunchError::Exec { source, .. }) = error else {
        panic!("{error:?}");
    };
    // ENOEXEC.
    assert_eq!(source.raw_os_error(), Some(8));
    let error = exec().run(sh(":").cwd("/no/such/directory")).await.unwrap_err();
    assert!(matches!(error, RunError::Launch(LaunchError::Cwd { .. })));
}

#[tokio::test]
async fn the_environment_is_set_unset_and_cleared() {
    let show =
        "echo ${A-none} ${CARGO_MANIFEST_DIR+inherited} ${SNAKEPIT_RUN_ID+tagged} ${SNAKEPIT_CHANNEL-none}";
    let base = output(sh(show).env("A", "1")).await;
    assert_eq!(text(&base.stdout), "1 inherited tagged none");
    let removed = output(sh(show).env_remove("CARGO_MANIFEST_DIR")).await;
    assert_eq!(text(&removed.stdout), "none tagged none");
    let cleared = output(Command::new("env").env_clear().env("B", "2")).await;
    let cleared = text(&cleared.stdout);
    let names: Vec<&str> = cleared
        .lines()
        .filter_map(|line| Some(line.split_once('=')?.0))
        .collect();
    assert!(names.contains(&"B"));
    assert!(
        names
            .iter()
            .all(|name| *name == "B" || name.starts_with("SNAKEPIT_")),
        "{names:?}"
    );
}

#[tokio::test]
async fn it_has_the_directory_and_the_name_asked_for() {
    assert_eq!(
        text(&output(Command::new("pwd").cwd("/usr")).await.stdout),
        "/usr"
    );
    let named = output(sh("tr '\\0' ' ' < /proc/$$/cmdline").argv0("called")).await;
    assert!(text(&named.stdout).starts_with("called -c "));
}

#[tokio::test]
async fn files_are_read_truncated_and_appended_to() {
    let dir = tempfile::tempdir().unwrap();
    let (input, written) = (dir.path().join("in"), dir.path().join("out"));
    std::fs::write(&input, "one\n").unwrap();
    let run = async |mode| {
        let command = Command::new("cat")
            .stdin(Route::File(input.clone(), mode))
            .stdout(Route::File(written.clone(), mode));
        let running = exec().run(command).await.unwrap();
        assert!(running.exited().await.is_success());
    };
    run(FileMode::Append(0o600)).await;
    run(FileMode::Append(0o600)).await;
    assert_eq!(std::fs::read_to_string(&written).unwrap(), "one\none\n");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&written).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    run(FileMode::Truncate(0o600)).await;
    assert_eq!(std::fs::read_to_string(&written).unwrap(), "one\n");
    let missing = sh(":").stdin(Route::File("/no/such/file".into(), FileMode::Append(0)));
    let error = exec().run(missing).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot open /no/such/file");
    let error = exec().run(sh(":").stdout(Route::Stdout)).await.unwrap_err();
    assert_eq!(error.to_string(), "standard output cannot be routed so");
}

#[tokio::test]
async fn a_descriptor_of_ours_can_be_a_stream() {
    let file = tempfile::tempfile().unwrap();
    let fd = Arc::new(std::os::fd::OwnedFd::from(file.try_clone().unwrap()));
    let running = exec().run(sh("echo here").stdout(Route::Fd(fd))).await.unwrap();
    running.exited().await;
    let mut read = String::new();
    let mut file = file;
    std::io::Seek::rewind(&mut file).unwrap();
    std::io::Read::read_to_string(&mut file, &mut read).unwrap();
    assert_eq!(read, "here\n");
}

#[tokio::test]
async fn what_is_not_routed_is_the_null_device() {
    let script = "import os\nfor fd in (0, 2): print(os.readlink('/proc/self/fd/%d' % fd))";
    let command = Command::new(python())
        .args(["-I", "-S", "-c", script])
        .stderr(Route::Null);
    assert_eq!(text(&output(command).await.stdout), "/dev/null\n/dev/null");
}

#[tokio::test]
async fn send_waits_while_the_program_does_not_read() {
    const MIB: usize = 1 << 20;
    let command = sh("read line; wc -c").stdin(Route::Pipe).stdout(Route::Pipe);
    let mut running = exec().run(command).await.unwrap();
    running.signal(19).unwrap();
    let block = vec![b'x'; MIB];
    let stuck = timeout(Duration::from_millis(100), running.send(&block)).await;
    assert!(stuck.is_err(), "nobody reads");
    drop(running);

    let command = sh("wc -c").stdin(Route::Pipe).stdout(Route::Pipe);
    let mut running = exec().run(command).await.unwrap();
    for _ in 0..4 {
        timeout(LONG, running.send(&block)).await.unwrap().unwrap();
    }
    running.close_stdin();
    assert_eq!(line(&mut running).await, (4 * MIB).to_string());
    assert!(running.exited().await.is_success());
    let error = running.send(b"x").await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn a_pipe_that_nobody_reads_any_more_is_an_error() {
    let command = sh("exec <&-; echo closed; read never")
        .stdin(Route::Pipe)
        .stdout(Route::Pipe);
    let mut running = exec().run(command).await.unwrap();
    line(&mut running).await;
    let sending = async {
        loop {
            if let Err(error) = running.send(b"x").await {
                return error.kind();
            }
        }
    };
    assert_eq!(
        timeout(LONG, sending).await.unwrap(),
        std::io::ErrorKind::BrokenPipe
    );
}

#[tokio::test]
async fn stop_resolves_when_the_tree_is_empty() {
    let script = fixture("setsid_daemon.py");
    let command = Command::new(python())
        .args(["-I", "-S"])
        .arg(&script)
        .arg("ignore")
        .stdout(Route::Pipe)
        .grace(Duration::from_millis(200));
    let exec = exec();
    let mut running = exec.run(command).await.unwrap();
    line(&mut running).await;
    let keeper = running.containment().keeper.clone().unwrap();
    let report = running.stop().await;
    assert_eq!((report.step, report.swept), (EndStep::Kill, 1), "{report:?}");
    assert!(!keeper.is_alive().unwrap());
    assert_eq!(format!("{:?}", running.stop().await), format!("{report:?}"));
    assert_eq!(format!("{:?}", running.ended().await), format!("{report:?}"));
}

#[tokio::test]
async fn dropping_it_ends_it() {
    let exec = exec();
    let running = exec.run(Command::new("sleep").arg("600")).await.unwrap();
    let identity = running.identity().clone();
    drop(running);
    eventually("it has ended", || !identity.is_alive().unwrap()).await;
    assert!(exec.which_children().is_empty());
}

/// How long a shell may take to say which signal it got.
const AGAIN: Duration = Duration::from_secs(2);

#[tokio::test]
async fn signals_reach_the_program_its_group_or_its_tree() {
    // The member is in the group, the stray in a session of its own; each says which signal it got.
    let script = "trap 'echo leader; exit' USR1
        sh -c 'trap \"echo member; exit\" USR1; echo up; while :; do sleep 0.01; done' &
        setsid sh -c 'trap \"echo stray; exit\" USR1; echo up; while :; do sleep 0.01; done' &
        echo up; while :; do sleep 0.01; done";
    // Once they are up, only what a trap says is left to come.
    for (target, expected) in [(0, 1), (1, 2), (2, 3)] {
        let command = sh(script).stdout(Route::Pipe);
        let mut running = exec().run(command).await.unwrap();
        let mut lines = BufReader::new(running.take_stdout().unwrap()).lines();
        for _ in 0..3 {
            let up = timeout(LONG, lines.next_line()).await.unwrap().unwrap();
            assert_eq!(up.as_deref(), Some("up"));
        }
        let mut said = Vec::new();
        let until = Instant::now() + LONG;
        while said.len() < expected {
            // Again now and then: a shell of Debian loses a signal that comes in the moment in which it makes a process (it has
            // vfork(2) and a handler that returns at once meanwhile).
            match target {
                0 => running.signal(10).unwrap(),
                1 => running.signal_group(10),
                _ => running.signal_tree(10),
            }
            while said.len() < expected
                && let Ok(word) = timeout(AGAIN, lines.next_line()).await
            {
                said.push(word.unwrap().unwrap());
            }
            assert!(Instant::now() < until, "{target}: only {said:?}");
        }
        said.sort();
        let all = ["leader", "member", "stray"];
        assert_eq!(said, all[..expected]);
        running.end(Duration::ZERO).await;
        assert_eq!(lines.next_line().await.unwrap(), None, "nobody else got it");
    }
}

#[tokio::test]
async fn a_stop_command_is_told_whom_to_stop() {
    let dir = tempfile::tempdir().unwrap();
    let told = dir.path().join("told");
    let command = sh("trap '' TERM; trap 'exit 7' USR1; echo up; while :; do sleep 0.01; done")
        .stdout(Route::Pipe)
        .grace(LONG)
        .stop_command([
            "sh",
            "-c",
            "echo $SNAKEPIT_STOP_PID > \"$0\"; kill -USR1 $SNAKEPIT_STOP_PID",
            told.to_str().unwrap(),
        ]);
    let mut running = exec().run(command).await.unwrap();
    line(&mut running).await;
    let report = timeout(LONG, running.stop()).await.unwrap();
    assert_eq!(report.outcome, ExitOutcome::Exited(7), "{report:?}");
    assert!(report.is_complete());
    let pid = std::fs::read_to_string(told).unwrap();
    assert_eq!(pid.trim(), running.identity().pid.to_string());
}

#[tokio::test]
async fn a_stop_command_that_does_not_help_gives_way_to_force() {
    for argv in [["sleep", "600"], ["true", ""]] {
        let command = Command::new("sleep")
            .arg("600")
            .grace(Duration::from_millis(100))
            .stop_command(argv);
        let running = exec().run(command).await.unwrap();
        let report = timeout(LONG, running.stop()).await.unwrap();
        assert_eq!(report.step, EndStep::Kill, "{report:?}");
        assert!(matches!(report.outcome, ExitOutcome::Signaled { signal: 9, .. }));
    }
    // One that cannot be run is no worse than none.
    let command = Command::new("sleep")
        .arg("600")
        .grace(LONG)
        .stop_command(["/no/such/program"]);
    let running = exec().run(command).await.unwrap();
    let report = timeout(LONG, running.stop()).await.unwrap();
    assert_eq!(report.step, EndStep::Term, "{report:?}");
}

#[tokio::test]
async fn children_are_listed_and_their_ends_are_told() {
    let exec = exec();
    let mut monitor = exec.monitor();
    let first = exec.run(Command::new("sleep").arg("600")).await.unwrap();
    let second = exec.run(Command::new("cat").stdin(Route::Pipe)).await.unwrap();
    let children = exec.which_children();
    let listed: Vec<_> = children.iter().map(|child| child.identity.pid).collect();
    assert_eq!(listed, [first.identity().pid, second.identity().pid]);
    assert_eq!(children[0].program.as_deref(), Some("sleep".as_ref()));
    first.signal(15).unwrap();
    let exit = timeout(LONG, monitor.next()).await.unwrap().unwrap();
    assert_eq!(&exit.identity, first.identity());
    assert!(matches!(exit.outcome, ExitOutcome::Signaled { signal: 15, .. }));
    assert_eq!(exec.which_children().len(), 1);
    drop(second);
    timeout(LONG, monitor.next()).await.unwrap().unwrap();
    assert!(exec.which_children().is_empty());
    drop((first, exec));
    assert!(timeout(LONG, monitor.next()).await.unwrap().is_none());
}

/// A process that nobody of ours started through the guardian.
struct Stranger(Child);

impl Stranger {
    fn new() -> Self {
        let mut command = std::process::Command::new("sleep");
        command.arg("600").stdin(Stdio::null()).stdout(Stdio::null());
        Self(command.spawn().expect("it starts"))
    }

    fn identity(&self) -> ProcessIdentity {
        ProcessIdentity::of_pid(self.0.id()).expect("it runs")
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_is_managed_by_identity_until_it_is_released() {
    let mut stranger = Stranger::new();
    let exec = exec();
    let mut monitor = exec.monitor();
    let managed = exec.manage(&stranger.identity()).await.unwrap();
    assert_eq!(exec.which_children()[0].program, None);
    managed.release();
    exec.shutdown(Duration::ZERO).await;
    assert!(stranger.0.try_wait().unwrap().is_none(), "it was released");

    let managed = exec.manage(&stranger.identity()).await.unwrap();
    managed.signal(15).unwrap();
    let mut child = std::mem::replace(&mut stranger, Stranger::new());
    let reaper = tokio::task::spawn_blocking(move || child.0.wait().unwrap());
    let outcome = timeout(LONG, managed.exited()).await.unwrap();
    assert!(
        matches!(
            outcome,
            ExitOutcome::Signaled { signal: 15, .. } | ExitOutcome::Unknown
        ),
        "{outcome}"
    );
    assert_eq!(
        &timeout(LONG, monitor.next()).await.unwrap().unwrap().identity,
        managed.identity()
    );
    reaper.await.unwrap();
    let gone = exec.manage(managed.identity()).await.unwrap_err();
    assert!(matches!(gone, ManageError::Gone), "{gone:?}");

    let managed = exec.manage(&stranger.identity()).await.unwrap();
    let outcome = timeout(LONG, managed.end(LONG)).await.unwrap();
    assert!(!matches!(outcome, ExitOutcome::Exited(_)), "{outcome}");
}

#[tokio::test]
#[ignore = "run by another test of this file, as a host that gets killed"]
async fn host_that_manages() {
    let pid = std::env::var("STRANGER").expect("set").parse().expect("a pid");
    let exec = exec();
    let managed = exec.manage(&ProcessIdentity::of_pid(pid).unwrap()).await.unwrap();
    // The guardian reads its messages in order, so that it has heard of the stranger by now.
    exec.run_with_output(Command::new("true")).await.unwrap();
    println!("\nmanaged");
    managed.exited().await;
    std::future::pending::<()>().await;
}

#[test]
fn a_managed_process_ends_with_the_host() {
    use std::io::BufRead;
    let stranger = Stranger::new();
    let pidfd = Pidfd::open(stranger.0.id()).unwrap();
    let mut host = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "host_that_manages", "--nocapture"])
        .env("STRANGER", stranger.0.id().to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufReader::new(host.stdout.take().unwrap()).lines();
    let ready = lines.map_while(Result::ok).any(|line| line == "managed");
    let lived = !pidfd.has_exited();
    host.kill().unwrap();
    host.wait().unwrap();
    assert!(ready && lived);
    assert!(pidfd.wait_blocking(LONG));
}

#[tokio::test]
async fn a_program_runs_as_another_user_with_that_users_groups() {
    if !is_root() {
        let error = exec().run(sh(":").user("root")).await.unwrap_err();
        let error = format!("{error:?}");
        assert!(error.contains("group") || error.contains("uid"), "{error}");
        return;
    }
    let ids = output(sh("id -u; id -g; id -G").user(NOBODY).group(NOBODY)).await;
    let nobody = NOBODY.to_string();
    assert_eq!(text(&ids.stdout).lines().collect::<Vec<_>>(), [&nobody; 3]);
    let named = output(sh("id -un; id -G").user("root").groups([0_u32, 7])).await;
    assert_eq!(text(&named.stdout), "root\n0 7");
    let error = exec().run(sh(":").user("no such user")).await.unwrap_err();
    assert_eq!(error.to_string(), "there is no user `no such user`");
    let error = exec().run(sh(":").group("no such group")).await.unwrap_err();
    assert_eq!(error.to_string(), "there is no group `no such group`");
}

#[tokio::test]
async fn limits_are_those_of_the_launcher() {
    let nice = output(Command::new("nice").limits(LaunchLimits::default().with_nice(3))).await;
    assert_eq!(text(&nice.stdout), "3");
}

#[tokio::test]
async fn shutting_down_ends_programs_and_their_stop_commands_guardian() {
    let exec = exec();
    let running = exec
        .run(
            Command::new("sleep")
                .arg("600")
                .grace(LONG)
                .stop_command(["sleep", "600"]),
        )
        .await
        .unwrap();
    let stopping = async {
        let stopped = running.stop().await;
        assert!(stopped.is_complete());
    };
    let shutdown = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        exec.shutdown(Duration::from_millis(50)).await
    };
    let ((), shutdown) = timeout(LONG, async { tokio::join!(stopping, shutdown) })
        .await
        .unwrap();
    assert!(shutdown.remaining.is_empty(), "{shutdown:?}");
    assert!(!running.identity().is_alive().unwrap());
}

#[tokio::test]
async fn inherited_streams_are_the_hosts() {
    let running = exec()
        .run(sh("echo inherited >&2").stderr(Route::Inherit))
        .await
        .unwrap();
    assert!(running.exited().await.is_success());
    std::io::stderr().flush().unwrap();
}
