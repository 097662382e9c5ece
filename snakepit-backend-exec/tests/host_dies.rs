//! What is left when the host is killed: nothing, at every level, whatever the worker does.

mod common;

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use common::{LONG, launch, settings};
use snakepit_backend_exec::ExecLauncher;
use snakepit_core::process::{Pidfd, ProcessIdentity};

at_every_level!();

/// Instead of a fixture: a host whose guardian has no workers.
const NOTHING: &str = "nothing";

/// A copy of this program that runs [`host`].
struct Host {
    child: Child,
    guardian: Pidfd,
    members: Vec<(String, ProcessIdentity)>,
    cgroup: Option<PathBuf>,
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
        let mut members = Vec::new();
        let (mut guardian, mut cgroup) = (None, None);
        for line in BufReader::new(stdout).lines() {
            let line = line.expect("readable");
            let words: Vec<&str> = line.split(' ').collect();
            let pid = |at: usize| words[at].parse::<u32>().expect("a pid");
            // The first line begins with what the test harness says.
            if let Some(at) = words.iter().position(|word| *word == "is:") {
                let identity = ProcessIdentity::of_pid(pid(at + 1)).expect("it runs");
                members.push((words[at - 1].to_owned(), identity));
            } else if words[0] == "cgroup" {
                cgroup = Some(PathBuf::from(words[1]));
            } else if let Some(at) = words.iter().position(|word| *word == "guarded") {
                guardian = Some(Pidfd::open(pid(at + 1)).expect("it runs"));
                break;
            }
        }
        Self {
            child,
            guardian: guardian.expect("it says so"),
            members,
            cgroup,
        }
    }

    fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it is ours");
    }

    fn nothing_is_left(&self) -> bool {
        self.guardian.wait_blocking(LONG)
            && self.members.iter().all(|(_, who)| {
                who.open()
                    .expect("/proc is readable")
                    .is_none_or(|pidfd| pidfd.wait_blocking(LONG))
            })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // All may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.guardian.signal(9);
        for (_, who) in &self.members {
            if let Ok(Some(member)) = who.open() {
                let _ = member.signal(9);
            }
        }
    }
}

#[tokio::test]
#[ignore = "run by the other tests of this file, as a host that gets killed"]
async fn host() {
    let Ok(fixture) = std::env::var("HOST_FIXTURE") else {
        return;
    };
    if fixture == NOTHING {
        let launcher = ExecLauncher::new(settings());
        launcher.ready().await.expect("there is a level");
        println!("guarded {}", launcher.guardian_pid().expect("it lives"));
        std::future::pending::<()>().await;
    }
    let launched = launch(&fixture).await;
    for (name, who) in &launched.named {
        println!("{name} is: {}", who.pid);
    }
    println!("keeper is: {}", launched.keeper().pid());
    if let Some(cgroup) = launched.process().containment().cgroup {
        println!("cgroup {}", cgroup.display());
    }
    println!("guarded {}", launched.guardian().pid());
    launched.process().exited().await;
    std::future::pending::<()>().await;
}

#[test]
fn nothing_is_left_of_whatever_ran() {
    for fixture in [
        "waits.py",
        "ignores_sigterm.py",
        "same_group_child.py",
        "setsid_daemon.py ignore detached",
        "setsid_child.py",
        "stops_itself.py",
        "many_daemons.py 20",
    ] {
        let mut host = Host::start(fixture);
        assert!(host.members.len() >= 2, "{fixture}");
        host.kill();
        assert!(host.nothing_is_left(), "{fixture}");
    }
}

#[test]
fn its_cgroups_are_removed() {
    let mut host = Host::start("setsid_daemon.py ignore");
    assert_eq!(host.cgroup.is_some(), common::level() == "cgroup");
    host.kill();
    assert!(host.nothing_is_left());
    let run = host.cgroup.as_deref().and_then(Path::parent);
    assert!(run.is_none_or(|run| !run.exists()), "{run:?}");
}

#[test]
fn nothing_is_left_when_host_and_guardian_are_killed_together() {
    for guardian_first in [false, true] {
        let mut host = Host::start("setsid_daemon.py ignore detached");
        if guardian_first {
            host.guardian.signal(9).unwrap();
            host.kill();
        } else {
            host.kill();
            // It may have left already.
            let _ = host.guardian.signal(9);
        }
        assert!(host.nothing_is_left(), "{guardian_first}");
    }
}

#[test]
fn nothing_is_left_when_the_guardian_was_stopped_before() {
    for fixture in [NOTHING, "waits.py", "setsid_daemon.py ignore detached"] {
        let mut host = Host::start(fixture);
        host.guardian.signal(19).unwrap();
        host.kill();
        // Nobody continues it but the kernel.
        assert!(host.nothing_is_left(), "{fixture}");
    }
}

#[test]
fn a_host_that_is_stopped_is_not_dead() {
    let mut host = Host::start("waits.py");
    let pidfd = Pidfd::open(host.child.id()).unwrap();
    pidfd.signal(19).unwrap();
    assert!(!host.guardian.wait_blocking(Duration::from_millis(100)));
    host.kill();
    assert!(host.nothing_is_left());
}
