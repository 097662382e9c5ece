//! Where a test's processes are, whatever they do: a cgroup of its own. Where none can be made, what carries the test's
//! mark in its environment.

use std::{
    fs::{self, File},
    os::unix::fs::chown,
    process::Command,
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use snakepit_core::{id::RunId, process::cgroup::Cgroup};

use crate::client::PATIENCE;

pub(crate) struct Yard {
    mark: String,
    cgroup: Option<Cgroup>,
    is_ours: bool,
}

const VARIABLE: &str = "SNAKEPIT_TEST_YARD";

impl Yard {
    pub(crate) fn new() -> Self {
        let mark = format!("snakepit-guardian-test-{}", RunId::random());
        let cgroup = Cgroup::own().unwrap().map(|own| own.child(&mark));
        let cgroup = cgroup.filter(|cgroup| cgroup.create().is_ok());
        let is_ours = true;
        Self {
            mark,
            cgroup,
            is_ours,
        }
    }

    /// The one that another process made, which looks after it.
    pub(crate) fn of(description: &str) -> Self {
        let (mark, cgroup) = description.split_once(' ').unwrap();
        Self {
            mark: mark.to_owned(),
            cgroup: (!cgroup.is_empty()).then(|| Cgroup::at(cgroup)),
            is_ours: false,
        }
    }

    /// What [`of`](Self::of) takes.
    pub(crate) fn describe(&self) -> String {
        let cgroup = self
            .cgroup
            .as_ref()
            .map_or("", |cgroup| cgroup.path().to_str().unwrap());
        format!("{} {cgroup}", self.mark)
    }

    pub(crate) fn has_cgroup(&self) -> bool {
        self.cgroup.is_some()
    }

    pub(crate) fn directory(&self) -> Option<File> {
        self.cgroup
            .as_ref()
            .map(|cgroup| File::open(cgroup.path()).unwrap())
    }

    /// Lets this user make of it what it likes, as a service manager delegates a cgroup.
    pub(crate) fn delegate(&self, user: u32) {
        if let Some(cgroup) = &self.cgroup {
            delegate(cgroup, user);
        }
    }

    /// Makes the cgroup of a worker.
    pub(crate) fn make_leaf(&self, id: u64, user: Option<u32>) -> File {
        let leaf = self.cgroup.as_ref().unwrap().child(&id.to_string());
        leaf.create().unwrap();
        user.into_iter().for_each(|user| delegate(&leaf, user));
        File::open(leaf.path()).unwrap()
    }

    /// The cgroup of a worker, at the level that has one.
    pub(crate) fn leaf(&self, id: u64) -> Option<Cgroup> {
        self.cgroup.as_ref().map(|cgroup| cgroup.child(&id.to_string()))
    }

    pub(crate) fn has_leaf(&self, id: u64) -> bool {
        self.leaf(id).is_some_and(|leaf| leaf.exists())
    }

    /// Marks what a command starts.
    pub(crate) fn mark(&self, command: &mut Command) {
        command.env(VARIABLE, &self.mark);
    }

    /// The mark, for what a worker's environment holds.
    pub(crate) fn variable(&self) -> Vec<u8> {
        format!("{VARIABLE}={}", self.mark).into_bytes()
    }

    /// Everything that this process starts from now on is in here.
    pub(crate) fn admit(&self, pid: u32) {
        if let Some(cgroup) = &self.cgroup {
            fs::write(cgroup.path().join("cgroup.procs"), pid.to_string()).unwrap();
        }
    }

    /// The living in it.
    pub(crate) fn processes(&self) -> Vec<u32> {
        match &self.cgroup {
            // The numbers of zombies are there, too.
            Some(cgroup) => cgroup
                .processes()
                .unwrap()
                .into_iter()
                .filter(|pid| is_alive(*pid))
                .collect(),
            None => fs::read_dir("/proc")
                .unwrap()
                .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
                .filter(|pid| self.has_mark(*pid) && is_alive(*pid))
                .collect(),
        }
    }

    /// The living in it that are workers or were started by them, and the keepers.
    pub(crate) fn workers_and_keepers(&self) -> (Vec<u32>, Vec<u32>) {
        let (mut workers, mut keepers) = (Vec::new(), Vec::new());
        for pid in self.processes() {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            match name.trim_end() {
                "snakepit-keeper" => keepers.push(pid),
                name if name.starts_with("snakepit-") => {}
                _ => workers.push(pid),
            }
        }
        (workers, keepers)
    }

    /// The living in it that have this name.
    pub(crate) fn named(&self, name: &str) -> Vec<u32> {
        let mut all = self.processes();
        all.retain(|pid| {
            let found = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            found.trim_end() == name
        });
        all
    }

    fn has_mark(&self, pid: u32) -> bool {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|variable| variable == self.variable())
    }

    /// Nobody is in it any more, within a generous time.
    pub(crate) fn assert_empty(&self) {
        let pause = Duration::from_millis(2);
        for _ in 0..PATIENCE.as_millis() / pause.as_millis() {
            if self.processes().is_empty() {
                return;
            }
            std::thread::sleep(pause);
        }
        let left: Vec<_> = self.processes().into_iter().map(describe).collect();
        panic!("{} processes are left: {left:#?}", left.len());
    }

    /// Ends whatever is in it.
    pub(crate) fn clear(&self) {
        if !self.is_ours {
            return;
        }
        match &self.cgroup {
            Some(cgroup) => {
                let _ = cgroup.kill();
                let _ = cgroup.remove(PATIENCE);
            }
            None => {
                for pid in self.processes() {
                    let pid = Pid::from_raw(pid.cast_signed()).unwrap();
                    // Looked at again when it can no longer be another's number.
                    if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty())
                        && self.has_mark(pid.as_raw_pid().cast_unsigned())
                    {
                        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
                    }
                }
            }
        }
    }
}

impl Drop for Yard {
    fn drop(&mut self) {
        self.clear();
    }
}

fn delegate(cgroup: &Cgroup, user: u32) {
    for name in ["", "cgroup.procs", "cgroup.kill"] {
        chown(cgroup.path().join(name), Some(user), Some(user)).unwrap();
    }
}

/// The letter of proc_pid_stat(5).
pub(crate) fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

fn is_alive(pid: u32) -> bool {
    state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

fn describe(pid: u32) -> String {
    let read = |name| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    format!("{pid}: {} {:?}", read("stat").trim_end(), read("cmdline"))
}
