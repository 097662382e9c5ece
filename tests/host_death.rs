//! A host that is killed leaves nothing behind: its workers see end-of-file and end themselves, and what they started.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use common::{Undertaker, fixtures, is_gone};
use snakepit::core::process::{Pidfd, Stat};
use tokio::time::{Instant, sleep};

/// A host program in a process of its own, ended with the test.
struct Host(Child);

impl Host {
    fn calls(function: &str, args: &[String]) -> Self {
        // In a session of its own: whoever adopts a stopped worker is outside of it, so the kernel lets the worker go on.
        let child = Command::new("setsid")
            .args([env!("CARGO_BIN_EXE_snakepit"), "call", function])
            .args(args)
            .args(["--workers", "1", "--path"])
            .arg(fixtures())
            .env("XDG_STATE_HOME", common::STATE)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // It may be dead already, which is what most tests are about.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn pids_in(file: &Path) -> Vec<u32> {
    let began = Instant::now();
    loop {
        if let Ok(text) = fs::read_to_string(file) {
            return text.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
        }
        assert!(
            began.elapsed() < common::PATIENCE,
            "the worker never wrote {}",
            file.display()
        );
        sleep(Duration::from_millis(2)).await;
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

/// Kills the host in the middle of a call and returns how long it took until all of its processes were gone.
async fn time_to_vanish(function: &str, stopped: bool) -> Duration {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pids");
    let mut args = vec![serde_json::to_string(&file).unwrap()];
    if function.starts_with("holds_gil") {
        args.push("60".to_owned());
    }
    let mut host = Host::calls(function, &args);
    let pids = pids_in(&file).await;
    let mut undertaker = Undertaker::default();
    let alive: Vec<_> = pids.iter().map(|pid| Pidfd::open(*pid).unwrap()).collect();
    pids.iter().for_each(|pid| undertaker.add(*pid));
    // Long enough for the worker to be deep in its call.
    sleep(Duration::from_millis(100)).await;
    assert!(pids.iter().all(|pid| !is_gone(*pid)));
    if stopped {
        alive[0].signal(libc::SIGSTOP).unwrap();
        common::until("the worker is stopped", async || is_stopped(pids[0])).await;
    }
    host.kill();
    let began = Instant::now();
    while !alive.iter().all(Pidfd::has_exited) {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "{pids:?} outlived the host"
        );
        sleep(Duration::from_millis(1)).await;
    }
    began.elapsed()
}

/// The promise is 100 ms; a machine that is busy with other tests may delay some of them, hardly all.
async fn keeps_the_promise(function: &str, stopped: bool) {
    let mut times = Vec::new();
    for _ in 0..5 {
        times.push(time_to_vanish(function, stopped).await);
        if times
            .last()
            .is_some_and(|time| *time < Duration::from_millis(100))
        {
            return;
        }
    }
    panic!("never within 100 ms: {times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_c_code_holds_the_gil_goes_with_its_host() {
    keeps_the_promise("holds_gil:announce_and_hold", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_stopped_takes_its_children_along_too() {
    keeps_the_promise("forks:family", true).await;
}
