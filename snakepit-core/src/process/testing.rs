//! Children for the unit tests of this module.

use std::{
    process::{ChildStdin, Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use super::Pidfd;

/// A shell script as our child, in a process group of its own; killed and reaped when dropped.
pub(super) struct Child {
    child: std::process::Child,
    pidfd: Pidfd,
    stdin: Mutex<Option<ChildStdin>>,
}

impl Child {
    pub(super) fn start(script: &str) -> Self {
        Self::start_with_env(script, &[])
    }

    pub(super) fn start_with_env(script: &str, env: &[(&str, String)]) -> Self {
        use std::os::unix::process::CommandExt;
        let mut child = Command::new("/bin/sh")
            .args(["-c", script])
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let pidfd = Pidfd::open(child.id()).unwrap();
        let stdin = Mutex::new(child.stdin.take());
        Self { child, pidfd, stdin }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn close_stdin(&self) {
        *self.stdin.lock().unwrap() = None;
    }

    /// Kills it and waits until it is a zombie.
    pub(super) fn kill_unreaped(&self) {
        self.pidfd.signal(libc::SIGKILL).unwrap();
        assert!(self.pidfd.wait_blocking(Duration::from_secs(10)));
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // The leader is not reaped yet, so its group number is its own.
        let group = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.child.wait();
    }
}

/// Waits for a condition, up to 10 seconds.
pub(super) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("{what}: still not so after 10 s");
}
