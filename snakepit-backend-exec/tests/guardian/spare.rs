//! The keeper that is made ahead of the next worker.

use std::{
    os::fd::OwnedFd,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};
use snakepit_core::process::Pidfd;

use crate::{
    client::{Guardian, LEVELS, PATIENCE, assert_ends, null, pair, program, shell},
    wire::{Event, Level},
    yard::Yard,
};

/// The keeper that has no worker yet, once there is one beside those that are known.
fn spare(guardian: &Guardian, known: &[u32]) -> u32 {
    let pause = Duration::from_millis(2);
    for _ in 0..PATIENCE.as_millis() / pause.as_millis() {
        let (_, mut keepers) = guardian.yard.workers_and_keepers();
        keepers.retain(|keeper| !known.contains(keeper));
        if let [spare] = keepers[..] {
            return spare;
        }
        std::thread::sleep(pause);
    }
    panic!("no keeper waits for a worker");
}

/// The process that becomes the next worker, once there is one.
fn the_one_that_waits(guardian: &Guardian) -> OwnedFd {
    let pause = Duration::from_millis(2);
    for _ in 0..PATIENCE.as_millis() / pause.as_millis() {
        if let [waits] = guardian.yard.named("snakepit-worker")[..] {
            return open(waits);
        }
        std::thread::sleep(pause);
    }
    panic!("nobody waits to become a worker");
}

fn open(pid: u32) -> OwnedFd {
    pidfd_open(Pid::from_raw(pid.cast_signed()).unwrap(), PidfdFlags::empty()).unwrap()
}

fn kill(pid: u32) {
    let pidfd = open(pid);
    pidfd_send_signal(&pidfd, Signal::KILL).unwrap();
    assert_ends(pidfd);
}

#[test]
fn the_keeper_that_waits_is_the_next_workers_and_another_waits_then() {
    for level in LEVELS {
        let Some(guardian) = Guardian::welcomed(level) else {
            continue;
        };
        let first = spare(&guardian, &[]);
        let (_worker, keeper) = guardian.running(1, &shell("exec sleep 1000"));
        assert_eq!(Pidfd::from_fd(keeper).unwrap().pid(), first, "{level:?}");
        let second = spare(&guardian, &[first]);
        guardian.stop(1, 0);
        guardian.ended(1);
        // It is used where it is, and no third is made.
        assert_eq!(spare(&guardian, &[]), second, "{level:?}");
        guardian.leave();
    }
}

#[test]
fn a_keeper_that_was_killed_while_it_waited_is_not_missed() {
    for level in LEVELS {
        let Some(guardian) = Guardian::welcomed(level) else {
            continue;
        };
        kill(spare(&guardian, &[]));
        let (worker, keeper) = guardian.running(1, &shell("exec sleep 1000"));
        let keeper = Pidfd::from_fd(keeper).unwrap().pid();
        // It goes alone, also when another worker is being looked after.
        kill(spare(&guardian, &[keeper]));
        guardian.assert_well();
        guardian.stop(1, 0);
        assert_ends(worker);
        guardian.ended(1);
        guardian.leave();
    }
}

#[test]
fn a_worker_that_is_stopped_while_it_waits_to_be_asked_for_goes_on() {
    for level in LEVELS {
        let Some(guardian) = Guardian::welcomed(level) else {
            continue;
        };
        spare(&guardian, &[]);
        // There the keeper forks it when it is asked for.
        if level == Level::Cgroup {
            guardian.leave();
            continue;
        }
        let waits = the_one_that_waits(&guardian);
        pidfd_send_signal(&waits, Signal::STOP).unwrap();
        let (worker, _) = guardian.running(1, &shell("exec sleep 1000"));
        let [worker, waits] = [worker, waits].map(|fd| Pidfd::from_fd(fd).unwrap().pid());
        assert_eq!(worker, waits, "{level:?}");
        guardian.stop(1, 0);
        guardian.ended(1);
        guardian.leave();
    }
}

#[test]
fn the_next_worker_is_taken_to_need_a_cgroup_if_the_last_one_did() {
    let Some(guardian) = Guardian::welcomed(Level::Subreaper) else {
        return;
    };
    if !guardian.yard.has_cgroup() {
        return eprintln!("SKIPPED: no cgroup can be made here");
    }
    let mut running = Vec::new();
    for (id, in_cgroup, is_made_ahead) in [
        (1, true, false),
        (2, true, true),
        (3, false, false),
        (4, false, true),
    ] {
        let waits = spare(&guardian, &running);
        let standard = [(); 3].map(|()| null());
        guardian.spawn_where(id, &shell("exec sleep 1000"), standard, in_cgroup);
        let fds = guardian.expect(Event::Held, id).fds;
        guardian.go(id);
        guardian.expect(Event::Started, id);
        let [keeper, _worker] = fds.try_into().unwrap();
        let keeper = Pidfd::from_fd(keeper).unwrap().pid();
        assert_eq!(keeper == waits, is_made_ahead, "{id}");
        running.push(keeper);
    }
    for id in 1..=4 {
        guardian.stop(id, 0);
        guardian.ended(id);
    }
    guardian.leave();
}

#[test]
fn a_keeper_that_waits_goes_with_the_guardian() {
    for level in LEVELS {
        let Some(guardian) = Guardian::welcomed(level) else {
            continue;
        };
        spare(&guardian, &[]);
        kill(guardian.process.id());
        guardian.yard.assert_empty();
    }
}

/// A file system that is mounted where the guardian is.
struct Mounted {
    directory: tempfile::TempDir,
    guardian: u32,
}

impl Mounted {
    /// `None`, and loudly, where nothing can be mounted.
    fn new(guardian: u32) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Self { directory, guardian };
        if !mounted.in_its_mounts("mount", &["-t", "tmpfs", "none"]) {
            eprintln!("SKIPPED: nothing can be mounted here");
            return None;
        }
        Some(mounted)
    }

    fn path(&self) -> String {
        self.directory.path().display().to_string()
    }

    /// Runs a program there that is told of the directory; whether it succeeds.
    fn in_its_mounts(&self, program: &str, args: &[&str]) -> bool {
        let mut command = Command::new("nsenter");
        command.args(["-m", "-t", &self.guardian.to_string(), program]);
        let output = command.args(args).arg(self.path()).output();
        output.is_ok_and(|output| output.status.success())
    }
}

/// A guardian with mounts of its own, so that those of other tests are none of its business.
fn guardian_with_mounts() -> Option<Guardian> {
    let (socket, theirs) = pair();
    let yard = Yard::new();
    let mut command = Command::new("unshare");
    command
        .args(["-m", program()])
        .stdin(theirs)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    yard.mark(&mut command);
    let guardian = Guardian::from_parts(command.spawn().unwrap(), socket, Level::Namespace, yard);
    drop(command);
    guardian.hello(0, getpid());
    match guardian.try_hear(PATIENCE).map(|told| told.message.kind) {
        Some(Event::Welcome) => Some(guardian),
        other => {
            eprintln!("SKIPPED: no guardian with mounts of its own: {other:?}");
            None
        }
    }
}

#[test]
fn what_is_mounted_while_a_worker_waits_to_be_asked_for_is_there_for_it() {
    let Some(guardian) = guardian_with_mounts() else {
        return;
    };
    spare(&guardian, &[]);
    let Some(mounted) = Mounted::new(guardian.process.id()) else {
        return;
    };
    let script = guardian.script(1, &format!("grep -c ' {} ' /proc/self/mountinfo", mounted.path()));
    assert_eq!(script.line, "1");
    guardian.ended(1);
    guardian.leave();
}

#[test]
fn who_waits_to_be_asked_for_keeps_no_file_system_busy() {
    let Some(guardian) = guardian_with_mounts() else {
        return;
    };
    let Some(mounted) = Mounted::new(guardian.process.id()) else {
        return;
    };
    // Its mounts are those of now.
    guardian.running(1, &shell("exit 0"));
    guardian.ended(1);
    let waits = spare(&guardian, &[]);
    let pidfd = open(waits);
    assert!(mounted.in_its_mounts("umount", &[]));
    assert_ends(pidfd);
    guardian.assert_well();
    // And another one is made, as nothing more changes.
    assert_ne!(spare(&guardian, &[]), waits);
    guardian.leave();
}
