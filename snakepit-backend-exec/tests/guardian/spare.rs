//! The keeper that is made ahead of the next worker.

use std::{process::Command, time::Duration};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use snakepit_core::process::Pidfd;

use crate::{
    client::{Guardian, LEVELS, PATIENCE, assert_ends, shell},
    wire::Level,
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

/// A file system that is mounted until this is dropped.
struct Mounted(tempfile::TempDir);

impl Mounted {
    fn new() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "none"]).arg(directory.path()).output();
        mounted
            .is_ok_and(|output| output.status.success())
            .then(|| Self(directory))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // The directory of the test goes when nothing is mounted there.
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn what_is_mounted_while_a_keeper_waits_is_there_for_its_worker() {
    // Only there has a worker mounts of its own.
    let Some(guardian) = Guardian::welcomed(Level::Namespace) else {
        return;
    };
    spare(&guardian, &[]);
    let Some(mounted) = Mounted::new() else {
        eprintln!("SKIPPED: nothing can be mounted here");
        return;
    };
    std::fs::write(mounted.0.path().join("file"), "").unwrap();
    let script = guardian.script(1, &format!("ls {}", mounted.0.path().display()));
    assert_eq!(script.line, "file");
    guardian.ended(1);
    guardian.leave();
}
