//! Signals to every descendant of this process.
//!
//! A look at `/proc` is never proof that nobody is left: processes come and go while it is read. Proof is wait4(2)
//! answering that there are no children, as the orphans of all descendants come to this process, a subreaper. A sweep
//! only brings that about, and is repeated until it is so.

use crate::{
    proc::{Stat, children},
    sys::{
        self, Pid,
        constants::{ESRCH, SIGKILL, SIGSTOP},
    },
};

/// Processes seen in one walk. When there are more, those seen are killed, and the next walk sees others.
const CAPACITY: usize = 4096;

/// Walks until everything that is seen has been told to stop. A bomb's last forks are over after a few.
const ROUNDS: usize = 32;

/// A descendant.
#[derive(Clone, Copy, Default)]
struct Entry {
    pid: Pid,
    parent: Pid,
    group: Pid,
    threads: u32,
}

/// The memory of sweeps. It is made once and does not grow; its pages are touched only by sweeps.
pub(crate) struct Sweep {
    seen: List,
    /// Those that have been told to stop, in order.
    stopped: Box<[Pid]>,
}

/// The living descendants of a process, parents before children.
struct List {
    entries: Box<[Entry]>,
    count: usize,
}

impl List {
    fn add(&mut self, parent: Pid, pid: Pid) {
        let Some(slot) = self.entries.get_mut(self.count) else {
            return;
        };
        // One whose parent is another by now is not ours, or is found where it is now. The dead have no children.
        if let Some(stat) = Stat::of(pid).filter(|stat| stat.parent == parent && !stat.is_dead()) {
            *slot = Entry {
                pid,
                parent,
                group: stat.group,
                threads: stat.threads,
            };
            self.count += 1;
        }
    }

    /// Lists what is below `root`, which is this process. `skip` names children of it that are left alone, with
    /// everything below them.
    fn walk(&mut self, root: Pid, skip: &dyn Fn(Pid) -> bool) {
        self.count = 0;
        children(root, 1, &mut |pid| {
            if !skip(pid) {
                self.add(root, pid);
            }
        });
        let mut next = 0;
        while next < self.count {
            let Entry { pid, threads, .. } = self.entries[next];
            children(pid, threads, &mut |child| self.add(pid, child));
            next += 1;
        }
    }

    fn as_slice(&self) -> &[Entry] {
        &self.entries[..self.count]
    }
}

impl Sweep {
    pub(crate) fn new() -> Self {
        Self {
            seen: List {
                entries: vec![Entry::default(); CAPACITY].into_boxed_slice(),
                count: 0,
            },
            stopped: vec![0; CAPACITY].into_boxed_slice(),
        }
    }

    /// Sends signals to every descendant outside the process group `group`, and says how many there were.
    pub(crate) fn signal_outside(&mut self, root: Pid, group: Pid, signals: &[i32]) -> u32 {
        self.seen.walk(root, &|_| false);
        let outside = self.seen.as_slice().iter().filter(|entry| entry.group != group);
        outside.for_each(|entry| {
            signals.iter().for_each(|signal| {
                entry.signal(root, *signal);
            })
        });
        self.outside(group)
    }

    /// Sends a signal to every descendant inside the process group `group`, children before parents: the child of one that
    /// has died of it would have another parent than it was seen with.
    pub(crate) fn signal_members(&mut self, root: Pid, group: Pid, signal: i32) {
        self.seen.walk(root, &|_| false);
        let members = self.seen.as_slice().iter().filter(|entry| entry.group == group);
        for entry in members.rev() {
            entry.signal(root, signal);
        }
    }

    /// How many descendants are outside the process group `group`.
    pub(crate) fn count_outside(&mut self, root: Pid, group: Pid) -> u32 {
        self.seen.walk(root, &|_| false);
        self.outside(group)
    }

    /// Stops every descendant until a walk finds nobody new, and then kills them all: the stopped cannot fork, and
    /// keep what they take of the limit on processes, so that a bomb has nothing left to grow by. Says how many were
    /// outside the process group `group`.
    pub(crate) fn kill(&mut self, root: Pid, group: Pid, skip: &dyn Fn(Pid) -> bool) -> u32 {
        let mut stopped = 0;
        for _ in 0..ROUNDS {
            self.seen.walk(root, skip);
            let mut new = 0;
            for entry in self.seen.as_slice() {
                if self.stopped[..stopped].binary_search(&entry.pid).is_err() {
                    new += usize::from(entry.signal(root, SIGSTOP));
                }
            }
            if new == 0 {
                break;
            }
            stopped = self.seen.count;
            let pids = self.seen.as_slice().iter().map(|entry| entry.pid);
            self.stopped
                .iter_mut()
                .zip(pids)
                .for_each(|(slot, pid)| *slot = pid);
            self.stopped[..stopped].sort_unstable();
        }
        let outside = self.outside(group);
        for entry in self.seen.as_slice() {
            entry.signal(root, SIGKILL);
        }
        outside
    }

    fn outside(&self, group: Pid) -> u32 {
        let seen = self.seen.as_slice().iter();
        seen.map(|entry| u32::from(entry.group != group)).sum()
    }
}

impl Entry {
    /// Signals this very process, if it is still there; whether it was.
    fn signal(&self, root: Pid, signal: i32) -> bool {
        // A child of ours keeps its number until we reap it.
        if self.parent == root {
            return sys::kill(self.pid, signal).is_ok();
        }
        // The number of another may have been given to a stranger by now. What a pidfd holds cannot change, so that a
        // look after it was opened tells.
        let pidfd = match sys::pidfd_open(self.pid) {
            Ok(pidfd) => Some(pidfd),
            Err(error) if error.raw_os_error() == Some(ESRCH) => return false,
            // Out of descriptors: nothing but the number is left to use.
            Err(_) => None,
        };
        let ours = |stat: Stat| stat.parent == self.parent || stat.parent == root;
        if !Stat::of(self.pid).is_some_and(ours) {
            return false;
        }
        match pidfd {
            Some(pidfd) => sys::pidfd_signal(&pidfd, signal, 0).is_ok(),
            None => sys::kill(self.pid, signal).is_ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        process::{Command, Stdio},
        thread,
        time::Duration,
    };

    use super::*;

    #[test]
    fn members_of_a_group_are_signalled_each_by_itself_and_nobody_else() {
        // All of them end with their standard input, however this ends.
        let script = "exec 3<&0
            setsid sh -c 'echo leader $$; (read line <&3) & echo member $!; read line <&3' &
            (read line <&3) & echo other $!
            read line <&3; exit 7";
        let mut root = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(root.stdout.take().unwrap()).lines();
        let mut named = std::collections::HashMap::new();
        while named.len() < 3 {
            let line = lines.next().unwrap().unwrap();
            let (name, pid) = line.split_once(' ').unwrap();
            named.insert(name.to_owned(), pid.parse::<Pid>().unwrap());
        }

        let root_pid = root.id().cast_signed();
        Sweep::new().signal_members(root_pid, named["leader"], SIGKILL);

        let is_gone = |name: &str| Stat::of(named[name]).is_none_or(|stat| stat.is_dead());
        let both_are_gone = (0..60_000).any(|_| {
            thread::sleep(Duration::from_millis(1));
            is_gone("leader") && is_gone("member")
        });
        assert!(both_are_gone, "{named:?}: a member is left");
        assert!(!is_gone("other"));
        drop(root.stdin.take());
        assert_eq!(root.wait().unwrap().code(), Some(7));
    }
}
