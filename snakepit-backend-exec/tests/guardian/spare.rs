//! The keeper that is made ahead of the next worker.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};
use snakepit_core::process::Pidfd;

use crate::{
    client::{Guardian, LEVELS, PATIENCE, assert_ends, pair, program, shell},
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

fn kill(pid: u32) {
    let pidfd = pidfd_open(Pid::from_raw(pid.cast_signed()).unwrap(), PidfdFlags::empty()).unwrap();
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
    let pidfd = pidfd_open(Pid::from_raw(waits.cast_signed()).unwrap(), PidfdFlags::empty()).unwrap();
    assert!(mounted.in_its_mounts("umount", &[]));
    assert_ends(pidfd);
    guardian.assert_well();
    guardian.leave();
}
