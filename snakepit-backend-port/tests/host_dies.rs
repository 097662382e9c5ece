//! What is left when the host is killed: the table in the crate's documentation, row by row. The Snakepit runtime's
//! row is for the tests that run it.

mod common;

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use common::launch;
use snakepit_core::process::{Pidfd, ProcessIdentity};

/// A copy of this program that runs [`host`].
struct Host {
    child: Child,
    worker: ProcessIdentity,
}

impl Host {
    fn start(fixture: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("a path"))
            .args(["--ignored", "--exact", "host", "--nocapture"])
            .env("HOST_FIXTURE", fixture)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let stdout = child.stdout.take().expect("a pipe");
        let pid = BufReader::new(stdout).lines().find_map(|line| {
            let line = line.expect("readable");
            Some(line.split_once("worker is ")?.1.parse().expect("a pid"))
        });
        let worker = ProcessIdentity::of_pid(pid.expect("it says so")).expect("it runs");
        Self { child, worker }
    }

    fn worker(&self) -> Option<Pidfd> {
        self.worker.open().expect("/proc is readable")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Both may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Ok(Some(worker)) = self.worker.open() {
            let _ = worker.signal(9);
        }
    }
}

#[tokio::test]
#[ignore = "run by the other tests of this file, as a host that gets killed"]
async fn host() {
    let Ok(fixture) = std::env::var("HOST_FIXTURE") else {
        return;
    };
    let launched = launch(&fixture).await;
    println!("worker is {}", launched.process().identity().pid);
    launched.process().exited().await;
}

#[test]
fn a_program_that_reads_its_standard_input_sees_the_end_of_it() {
    let mut host = Host::start("waits.py");
    let worker = host.worker().expect("it runs");
    host.child.kill().unwrap();
    assert!(worker.wait_blocking(Duration::from_secs(60)));
}

#[test]
fn a_program_that_does_not_is_left_for_the_next_start() {
    let mut host = Host::start("ignores_sigterm.py");
    host.child.kill().unwrap();
    host.child.wait().unwrap();
    let worker = host.worker().expect("nobody tells it anything");
    assert!(!worker.wait_blocking(Duration::from_millis(50)));
}
