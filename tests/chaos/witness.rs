//! The process between the test and a host: everything that is left of the host comes to it, and it leaves when
//! nothing is.
//!
//! It is a subreaper, so that every orphan below it becomes its child, and it reaps until wait(2) answers `ECHILD`:
//! **that it exits is the proof that nothing is left**, whatever sessions, groups, names and environments were used.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use rustix::{
    io::Errno,
    process::{WaitOptions, set_child_subreaper, setsid, wait},
};
use serde::{Deserialize, Serialize};
use snakepit::core::process::{Member, Pidfd, cgroup::Cgroup, descendants};
use tokio::time::Instant;

use crate::orders::{self, Orders, tell};

/// Two looks at the tree while it is being ended.
const PAUSE: Duration = Duration::from_millis(2);
/// Rounds of stopping a tree that still grows before it is killed as it is.
const STOPS: u32 = 50;

/// A host to start, and where.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct WitnessOrders {
    /// The cgroup to start it in.
    pub(crate) cgroup: Option<PathBuf>,
    pub(crate) host: Orders,
}

/// The witness's whole life.
pub(crate) fn main() {
    let Some(WitnessOrders { cgroup, host }) = orders::taken() else {
        return;
    };
    // Ctrl-C at the test's terminal must not reach it: somebody has to end what the test leaves.
    setsid().unwrap();
    set_child_subreaper(rustix::process::Pid::from_raw(1)).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "host", "--nocapture"]);
    command
        .current_dir(crate::common::fixtures())
        .stdin(Stdio::piped());
    orders::give(&mut command, &host);
    host.contender.user.apply(&mut command);
    let mut child = match &cgroup {
        None => command.spawn(),
        Some(path) => {
            // A new process is in the cgroup of the one that makes it.
            let own = Cgroup::own().unwrap().unwrap();
            fs::write(path.join("cgroup.procs"), "0").unwrap();
            let spawned = command.spawn();
            fs::write(own.path().join("cgroup.procs"), "0").unwrap();
            spawned
        }
    }
    .unwrap();
    let host = rustix::process::Pid::from_child(&child);
    let mut commands = child.stdin.take().unwrap();
    thread::spawn(move || {
        for line in BufReader::new(std::io::stdin()).lines() {
            // The host may be dead, which it need not be told.
            let _ = line.and_then(|line| writeln!(commands, "{line}"));
        }
        end_below(&Pidfd::open(std::process::id()).unwrap(), || false);
    });
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == host => tell(format_args!("host ended: {status:?}")),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::CHILD) => break,
            Err(error) => panic!("{error}"),
        }
    }
    // Its cgroups are empty; a test that went away does not remove them.
    if let Some(path) = cgroup {
        Cgroup::at(path).remove(Duration::from_secs(5)).unwrap();
    }
    std::process::exit(0);
}

/// Kills everything below a process, which reaps it, until `done` or nothing is left.
pub(crate) fn end_below(root: &Pidfd, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() && began.elapsed() < Duration::from_secs(20) {
        // What forks as fast as it can is stopped first: stopped processes cannot take the place of killed ones.
        let mut known = Vec::new();
        for _ in 0..STOPS {
            let found = descendants(root).unwrap_or_default();
            let pids: Vec<_> = found.iter().map(|member| member.stat.pid).collect();
            found.iter().for_each(|member| send(member, libc::SIGSTOP));
            if pids == known {
                break;
            }
            known = pids;
        }
        let found = descendants(root).unwrap_or_default();
        found.iter().for_each(|member| send(member, libc::SIGKILL));
        if found.is_empty() {
            return;
        }
        thread::sleep(PAUSE);
    }
}

fn send(member: &Member, signal: i32) {
    // It may have ended meanwhile.
    let _ = member.pidfd.signal(signal);
}
