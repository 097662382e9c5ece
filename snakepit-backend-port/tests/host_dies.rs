//! A program that is not our runtime notices the death of its host by its standard input, if it reads that.

mod common;

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use common::{LONG, launch};
use snakepit_core::process::Pidfd;

const IS_HOST: &str = "TEST_IS_HOST";

/// A copy of this program that runs [`host`], and its worker.
struct Host {
    child: Child,
    worker: Option<Pidfd>,
}

impl Drop for Host {
    fn drop(&mut self) {
        // Both may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(worker) = &self.worker {
            let _ = worker.signal(9);
        }
    }
}

#[tokio::test]
#[ignore = "run by the other test of this file, as a host that gets killed"]
async fn host() {
    if std::env::var_os(IS_HOST).is_none() {
        return;
    }
    let launched = launch("waits.py").await;
    println!("worker is {}", launched.process().identity().pid);
    launched.process().exited().await;
}

#[test]
fn a_program_that_reads_its_standard_input_sees_the_end_of_it() {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "host", "--nocapture"])
        .env(IS_HOST, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut host = Host { child, worker: None };
    let mut lines = BufReader::new(host.child.stdout.take().unwrap()).lines();
    let pid = lines.find_map(|line| Some(line.unwrap().split_once("worker is ")?.1.parse().unwrap()));
    let worker = host.worker.insert(Pidfd::open(pid.unwrap()).unwrap());
    host.child.kill().unwrap();
    assert!(worker.wait_blocking(LONG));
}
