//! The processes below this one: ending them all, and reaping the ones that were handed to us.
//!
//! A worker without a [`Keeper`] is a subreaper (`PR_SET_CHILD_SUBREAPER`, prctl(2)): a descendant whose parent dies becomes our
//! child, so everything a worker started stays below it in the tree, whatever sessions or double forks it used.

use std::{collections::HashSet, fs, time::Duration};

use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid};
use tokio::time::Instant;

use crate::nest;

/// How long ending the tree may take before the worker leaves regardless.
const END_LIMIT: Duration = Duration::from_millis(80);

/// What `/proc/PID/stat` says about a process.
#[derive(Clone, Copy, Debug)]
struct Stat {
    parent: i32,
    zombie: bool,
    start: u64,
}

/// One process below us and who its parent was when it was seen.
#[derive(Clone, Copy, Debug)]
struct Below {
    pid: i32,
    parent: i32,
}

fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name is in parentheses and may hold any character: what follows the last one is regular.
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
    let zombie = matches!(fields.next()?, "Z" | "X");
    let parent = fields.next()?.parse().ok()?;
    let start = fields.nth(17)?.parse().ok()?;
    Some(Stat {
        parent,
        zombie,
        start,
    })
}

/// When a process was started, in clock ticks since boot; a zombie still tells.
pub(crate) fn start_of(pid: i32) -> Option<u64> {
    stat(pid).map(|stat| stat.start)
}

/// Appends the children of all threads of `pid`.
fn children(pid: i32, out: &mut Vec<Below>) {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return;
    };
    for task in tasks.flatten() {
        let Ok(list) = fs::read_to_string(task.path().join("children")) else {
            continue;
        };
        let pids = list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok());
        out.extend(pids.map(|child| Below {
            pid: child,
            parent: pid,
        }));
    }
}

/// Everything below this process, parents before their children.
fn descendants() -> Vec<Below> {
    let mut found = Vec::new();
    children(std::process::id() as i32, &mut found);
    let mut seen: HashSet<i32> = found.iter().map(|below| below.pid).collect();
    let mut next = 0;
    while let Some(below) = found.get(next).copied() {
        let from = found.len();
        children(below.pid, &mut found);
        // A process that is handed over between two reads shows twice.
        let mut at = from;
        while at < found.len() {
            if seen.insert(found[at].pid) {
                at += 1;
            } else {
                found.swap_remove(at);
            }
        }
        next += 1;
    }
    found
}

/// Kills one process if it still is who it was: the pidfd pins the identity, and the parent read after it was
/// opened proves that the number had not been given to a stranger before.
fn kill(below: Below, own: i32) -> bool {
    let Some(pid) = Pid::from_raw(below.pid) else {
        return false;
    };
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else {
        return false;
    };
    let Some(stat) = stat(below.pid) else { return false };
    if stat.zombie || (stat.parent != below.parent && stat.parent != own) {
        return false;
    }
    pidfd_send_signal(&pidfd, Signal::KILL).is_ok()
}

/// The name of the process that the exec backend puts between its guardian and a worker.
const KEEPER: &str = "snakepit-keeper";

/// The process that looks after this one and all that it starts: a keeper, or the first process of its namespace. Orphans come
/// to it, and it ends everything below itself when the host is gone, more surely than we could.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keeper(Pid);

impl Keeper {
    /// The one as whose child this process was started.
    pub(crate) fn find() -> Option<Self> {
        let parent = rustix::process::getppid()?;
        let name = fs::read_to_string(format!("/proc/{parent}/comm")).ok()?;
        let keeps = [KEEPER.as_bytes(), nest::FIRST.to_bytes()].contains(&name.trim_end().as_bytes());
        keeps.then_some(Self(parent))
    }

    /// Whether it lives.
    pub(crate) fn is_there(self) -> bool {
        rustix::process::getppid() == Some(self.0)
    }
}

/// Kills every descendant, again and again until two passes in a row find nothing alive, or the time is over.
///
/// Needs neither Python nor a runtime. Zombies are left to the parent of this process, which gets them when
/// we exit.
pub(crate) fn end_descendants() {
    let own = std::process::id() as i32;
    let deadline = Instant::now() + END_LIMIT;
    let mut empty_passes = 0;
    while empty_passes < 2 && Instant::now() < deadline {
        let alive: Vec<Below> = descendants()
            .into_iter()
            .filter(|below| stat(below.pid).is_some_and(|stat| !stat.zombie))
            .collect();
        if alive.is_empty() {
            empty_passes += 1;
            continue;
        }
        empty_passes = 0;
        for below in alive {
            kill(below, own);
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Reaps orphans that were handed to this process, and never a child that Python started itself.
///
/// Both kinds are our children once the parent of an orphan is gone, and taking away an exit status that
/// `subprocess` waits for would lose it. The kernel does not tell them apart, but history does: a process that
/// was once seen with another parent was not started by us. So every look at the tree remembers who is
/// somebody else's child, and only those are reaped when they show up as our own zombies. An orphan that no
/// look ever saw under its first parent stays a zombie until the worker ends: a row in the process table, and
/// the safe side of the choice.
///
/// For a worker without a [`Keeper`] only. What was looked at below `/proc/PID/task` is walked through by the kernel when
/// its process is reaped, and by all others meanwhile that want to: a hundred workers that look at themselves take a tenth longer
/// to be killed at once.
#[derive(Debug, Default)]
pub(crate) struct OrphanReaper {
    /// Pid and start time of processes seen as another process's child.
    seen_below_others: HashSet<(i32, u64)>,
}

impl OrphanReaper {
    /// One look at the tree.
    pub(crate) fn look(&mut self) {
        let own = std::process::id() as i32;
        let mut still_there = HashSet::new();
        for below in descendants() {
            let Some(stat) = stat(below.pid) else { continue };
            let key = (below.pid, stat.start);
            if stat.parent != own {
                still_there.insert(key);
            } else if self.seen_below_others.contains(&key) {
                let reaped = stat.zombie
                    && Pid::from_raw(below.pid)
                        .is_some_and(|pid| matches!(waitpid(Some(pid), WaitOptions::NOHANG), Ok(Some(_))));
                if !reaped {
                    still_there.insert(key);
                }
            }
        }
        // One that is handed over between two reads of a pass shows in none of them.
        for key @ (pid, start) in self.seen_below_others.drain() {
            if !still_there.contains(&key) && start_of(pid) == Some(start) {
                still_there.insert(key);
            }
        }
        self.seen_below_others = still_there;
    }
}
