//! `snakepit cleanup`, and the cleanup at a pool's start.

#![cfg(feature = "registry")]
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in its helpers"
)]

#[path = "cli/support.rs"]
mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use snakepit::{
    EventKind, Pool,
    core::process::{Pidfd, ProcessIdentity, Stat},
    registry::Settings,
};
use support::{Home, Ran, finish, read_when_there, signal, wait_for};
use tokio::time::Instant;

/// Starts a process that outlives its worker when that is killed, and tells both pids.
const LEAVES: &str = "\
import os, subprocess, time
def go(path, leave=False):
    daemon = subprocess.Popen(['sleep', '600'], start_new_session=True)
    with open(path + '.part', 'w') as file:
        file.write(f'{os.getpid()} {daemon.pid}')
    os.rename(path + '.part', path)
    time.sleep(600)
";

/// A `snakepit call` that leaves a daemon when it and its worker are killed.
struct Caller {
    child: Child,
    worker: ProcessIdentity,
    daemon: ProcessIdentity,
}

impl Caller {
    fn start(home: &Home, name: &str) -> Self {
        home.module("leaves", LEAVES);
        let pids = home.dir().join(name);
        let argument = serde_json::to_string(&pids).unwrap();
        let child = home
            .command(&["call", "leaves:go", &argument, "--path", home.path()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pids = read_when_there(&pids);
        let mut pids = pids
            .split(' ')
            .map(|pid| ProcessIdentity::of_pid(pid.parse().unwrap()).unwrap());
        Self {
            child,
            worker: pids.next().unwrap(),
            daemon: pids.next().unwrap(),
        }
    }

    /// Kills worker and host so that neither can do anything about the daemon: the worker while the host is stopped.
    fn kill(&mut self) {
        signal(self.child.id(), "STOP");
        let began = Instant::now();
        while !is_stopped(self.child.id()) {
            assert!(began.elapsed() < Duration::from_secs(60), "it does not stop");
        }
        let worker = self.worker.open().unwrap().unwrap();
        worker.signal(libc::SIGKILL).unwrap();
        assert!(worker.wait_blocking(Duration::from_secs(60)));
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        assert!(self.daemon.is_alive().unwrap());
    }
}

/// Whether every thread of a process has stopped; only then has the process.
fn is_stopped(pid: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let stats = tasks.map(|task| fs::read(task.unwrap().path().join("stat")).unwrap());
    stats
        .map(|stat| Stat::parse(&stat).unwrap())
        .all(|stat| stat.state == b'T')
}

impl Drop for Caller {
    fn drop(&mut self) {
        // They may be dead already, which is what the tests are about.
        let _ = self.child.kill();
        let _ = self.child.wait();
        for who in [&self.worker, &self.daemon] {
            if let Ok(Some(pidfd)) = who.open() {
                let _ = pidfd.signal(libc::SIGKILL);
            }
        }
    }
}

#[track_caller]
fn exits_with(ran: &Ran, code: i32, told: &[&str]) {
    let text = format!("{}{}", ran.stdout, ran.stderr);
    assert_eq!(ran.code, code, "{text}");
    for part in told {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

/// What is left in the state directory of an application.
fn records(home: &Home, app: &str) -> usize {
    let directory = home.dir().join("state/snakepit").join(app);
    fs::read_dir(directory).map_or(0, Iterator::count)
}

#[test]
fn what_a_killed_command_has_left_is_shown_ended_and_gone() {
    let home = Home::new();
    exits_with(&home.run(&["cleanup"]), 0, &["No run of snakepit on record"]);
    let mut caller = Caller::start(&home, "pids");
    let living = Caller::start(&home, "living");
    exits_with(&home.run(&["cleanup"]), 0, &["2 alive, 0 dead"]);
    caller.kill();
    let daemon = caller.daemon.pid.to_string();
    let looked = home.run(&["cleanup", "--dry-run"]);
    exits_with(&looked, 1, &["1 alive, 1 dead", &daemon, "would be ended"]);
    assert!(caller.daemon.is_alive().unwrap());
    let json = home.run(&["cleanup", "--dry-run", "--json"]);
    let report: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((json.code, &report["dry_run"]), (1, &Value::Bool(true)));
    let done = home.run(&["cleanup"]);
    exits_with(
        &done,
        0,
        &["1 alive, 1 dead: 1 process ended", &daemon, "worker 1", "sleep"],
    );
    assert!(!caller.daemon.is_alive().unwrap());
    let json = home.run(&["cleanup", "--json"]);
    let report: Value = serde_json::from_str(&json.stdout).unwrap();
    let runs = report["runs"].as_array().unwrap();
    assert_eq!(
        (json.code, runs.len(), &runs[0]["state"]),
        (0, 1, &Value::from("alive"))
    );
    assert!(living.worker.is_alive().unwrap() && living.daemon.is_alive().unwrap());
}

#[test]
fn the_next_call_ends_what_a_killed_one_has_left() {
    let home = Home::new();
    let mut caller = Caller::start(&home, "pids");
    caller.kill();
    let ran = finish(
        home.command(&["call", "math:hypot", "3", "4"])
            .env("RUST_LOG", "snakepit=info"),
    );
    exits_with(
        &ran,
        0,
        &[
            "5.0",
            "cleaned up after earlier runs: 1 process of 1 dead run ended",
        ],
    );
    assert!(!caller.daemon.is_alive().unwrap());
    let quiet = finish(
        home.command(&["call", "math:hypot", "3", "4"])
            .env("RUST_LOG", "snakepit=info"),
    );
    exits_with(&quiet, 0, &["5.0"]);
    assert!(!quiet.stderr.contains("cleaned"), "{}", quiet.stderr);
    assert_eq!(records(&home, "snakepit"), 0);
}

#[test]
fn an_interrupted_command_leaves_no_record() {
    let home = Home::new();
    for name in ["INT", "TERM"] {
        let mut caller = Caller::start(&home, name);
        assert_eq!(records(&home, "snakepit"), 1);
        signal(caller.child.id(), name);
        wait_for(&mut caller.child, Duration::from_secs(60));
        assert_eq!(records(&home, "snakepit"), 0);
    }
}

#[test]
fn a_start_that_is_interrupted_leaves_no_record() {
    let home = Home::new();
    home.module(
        "imports_for_long",
        "import os, time\nopen(os.environ['MARK'], 'w').write('here')\ntime.sleep(600)\n",
    );
    for name in ["INT", "TERM", "HUP"] {
        let mark = home.dir().join(name);
        let mut child = home
            .command(&[
                "call",
                "math:hypot",
                "--adapter",
                "imports_for_long",
                "--path",
                home.path(),
            ])
            .env("MARK", &mark)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        read_when_there(&mark);
        assert_eq!(records(&home, "snakepit"), 1);
        signal(child.id(), name);
        let status = wait_for(&mut child, Duration::from_secs(60));
        assert_eq!(
            (status.code(), records(&home, "snakepit")),
            (Some(1), 0),
            "{name}"
        );
    }
}

/// A dead run of an application, as a killed pool leaves it: nothing lives of it.
fn leave_record(home: &Home, app: &str) {
    let run = snakepit::core::RunId::random();
    let directory = home.dir().join(format!("state/snakepit/{app}/{run}"));
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("lock"), "").unwrap();
}

#[test]
fn other_applications_are_named_and_cleaned_up_after_when_asked() {
    let home = Home::new();
    leave_record(&home, "one");
    leave_record(&home, "two");
    exits_with(
        &home.run(&["cleanup"]),
        0,
        &["other applications have dead runs too: one, two"],
    );
    exits_with(
        &home.run(&["cleanup", "--app", "one"]),
        0,
        &["1 dead", "dead runs too: two"],
    );
    leave_record(&home, "one");
    exits_with(&home.run(&["cleanup", "--all", "--dry-run"]), 1, &["2 dead"]);
    let all = home.run(&["cleanup", "--all"]);
    exits_with(&all, 0, &["2 dead"]);
    assert!(!all.stderr.contains("other applications"), "{}", all.stderr);
    assert_eq!((records(&home, "one"), records(&home, "two")), (0, 0));
    let elsewhere = home.dir().join("state/snakepit");
    leave_record(&home, "one");
    let given = ["cleanup", "--all", "--state-dir", elsewhere.to_str().unwrap()];
    exits_with(&home.run(&given), 0, &["1 dead"]);
}

#[test]
fn wrong_usage_is_told_and_nothing_is_done() {
    let home = Home::new();
    for (args, told) in [
        (
            &["cleanup", "--app", "../x"][..],
            "cannot be the name of an application",
        ),
        (&["cleanup", "--app", "x", "--all"], "cannot be used with"),
        (&["cleanup", "--state-dir", "/nonexistent"], "No such file"),
        (&["cleanup", "everything"], "unexpected argument"),
    ] {
        exits_with(&home.run(args), 2, &[told]);
    }
}

#[test]
fn another_user_is_told_whose_records_they_are() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can be somebody else");
        return;
    }
    let home = Home::new();
    fs::set_permissions(home.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    leave_record(&home, "snakepit");
    let state = home.dir().join("state/snakepit");
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(env!("CARGO_BIN_EXE_snakepit"))
        .args(["cleanup", "--state-dir"])
        .arg(&state);
    let ran = finish(&mut command);
    let told = [
        state.to_str().unwrap(),
        "belongs to user 0 (this is user 65534)",
        "denied",
    ];
    exits_with(&ran, 1, &told);
    let json = finish(command.arg("--json"));
    exits_with(&json, 1, &told);
    let report: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(report["problems"].as_array().unwrap().len(), 1, "{report}");
    assert_eq!(records(&home, "snakepit"), 1);
}

#[test]
fn another_user_s_cleanup_does_not_claim_what_it_cannot_see() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can be somebody else");
        return;
    }
    let home = Home::new();
    leave_record(&home, "snakepit");
    fs::set_permissions(home.dir(), fs::Permissions::from_mode(0o777)).unwrap();
    let owner = ["-R", "65534:65534", home.path()];
    assert!(Command::new("chown").args(owner).status().unwrap().success());
    let cleanup = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(env!("CARGO_BIN_EXE_snakepit"))
            .args(["cleanup", "--state-dir"])
            .arg(home.dir().join("state/snakepit"))
            .args(args);
        finish(&mut command)
    };
    // The record tells no host, so that any of root's processes, this test among them, could be of the run.
    let json = cleanup(&["--dry-run", "--json"]);
    let report: Value = serde_json::from_str(&json.stdout).unwrap();
    assert!(report["runs"][0]["unseen"].as_u64().unwrap() > 0, "{report}");
    let told = [
        "could not be looked into",
        "nothing is left that this user can look into",
    ];
    exits_with(&cleanup(&[]), 0, &told);
    assert_eq!(records(&home, "snakepit"), 0);
    leave_record(&home, "snakepit");
    let as_root = home.run(&["cleanup"]);
    exits_with(&as_root, 0, &["nothing is left ("]);
}

fn settings(home: &Home) -> Settings {
    Settings::new()
        .with_app("snakepit")
        .with_state_dir(home.dir().join("state/snakepit"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_cleans_up_before_it_serves_and_takes_its_record_along() {
    let home = Home::new();
    let mut caller = Caller::start(&home, "pids");
    caller.kill();
    let builder = || Pool::builder().workers(1).registry(settings(&home));
    let pool = builder().start().await.unwrap();
    assert!(!caller.daemon.is_alive().unwrap());
    let report = pool.cleaned().unwrap();
    assert_eq!((report.ended(), report.is_clean()), (1, true), "{report:#?}");
    let app: String = pool.call("os:getenv", ("SNAKEPIT_APP",)).await.unwrap();
    assert_eq!(app, settings(&home).tag());
    let second = builder().start().await.unwrap();
    assert_eq!(records(&home, "snakepit"), 1, "the pools of a program share one");
    pool.shutdown().await;
    assert_eq!(records(&home, "snakepit"), 1);
    let answer: f64 = second.call("math:sqrt", (4.0,)).await.unwrap();
    assert_eq!(answer, 2.0);
    second.kill().await;
    assert_eq!(records(&home, "snakepit"), 0);
    let third = builder().start().await.unwrap();
    assert!(!third.cleaned().unwrap().has_findings());
    drop(third);
    let began = Instant::now();
    while records(&home, "snakepit") > 0 {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "a pool that was dropped goes too"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_cannot_record_says_so_once_and_serves() {
    let nowhere = Settings::new()
        .with_app("nowhere")
        .with_state_dir("/dev/null/state");
    let pool = Pool::builder()
        .workers(2)
        .registry(nowhere.clone())
        .start()
        .await
        .unwrap();
    let mut events = pool.events();
    let pid: u32 = pool.call("os:getpid", ()).await.unwrap();
    Pidfd::open(pid).unwrap().signal(libc::SIGKILL).unwrap();
    // The replacement is not recorded either.
    loop {
        match events.recv().await.unwrap().kind {
            EventKind::WorkerReady { .. } => break,
            EventKind::LedgerDegraded { .. } => panic!("it was told at the start"),
            _ => {}
        }
    }
    pool.shutdown().await;
    let required = nowhere.with_policy(snakepit::registry::Policy::Required);
    let error = Pool::builder().registry(required).start().await.unwrap_err();
    let text = snakepit::core::rpc::error_chain(&error);
    assert!(text.contains("/dev/null/state"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_without_a_registry_leaves_no_trace() {
    let pool = Pool::builder()
        .workers(1)
        .without_registry()
        .start()
        .await
        .unwrap();
    let app: Option<String> = pool.call("os:getenv", ("SNAKEPIT_APP",)).await.unwrap();
    assert_eq!((app, pool.cleaned()), (None, None));
    pool.shutdown().await;
}
