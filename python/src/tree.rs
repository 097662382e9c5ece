//! The processes below this one: ending them all, and reaping the ones that were handed to us.
//!
//! A worker without a [`Keeper`] is a subreaper (`PR_SET_CHILD_SUBREAPER`, prctl(2)): a descendant whose parent dies becomes our
//! child, so everything a worker started stays below it in the tree, whatever sessions or double forks it used.

use std::{
    collections::HashSet,
    fs,
    os::fd::OwnedFd,
    sync::atomic::{AtomicI32, Ordering},
    time::Duration,
};

use rustix::{
    io::Errno,
    process::{
        Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, kill_process, pidfd_open,
        pidfd_send_signal, wait, waitid, waitpid,
    },
    thread::gettid,
};
use tokio::time::Instant;

use crate::{
    nest,
    standstill::{OWN_THREADS, each_piece, each_thread, halt_others},
    sys,
};

/// How long ending the tree may take before the worker leaves regardless.
const END_LIMIT: Duration = Duration::from_millis(80);
/// How long of that is waited for other threads.
const HALT_LIMIT: Duration = Duration::from_millis(20);

/// Also children that do not end with SIGCHLD, wait(2).
const WALL: u32 = libc::__WALL.cast_unsigned();

/// What `/proc/PID/stat` says about a process.
#[derive(Clone, Copy, Debug)]
struct Stat {
    parent: i32,
    zombie: bool,
    start: u64,
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
fn children(pid: i32, out: &mut Vec<i32>) {
    each_thread(format!("/proc/{pid}/task"), |_, directory| {
        each_child(directory, |child| out.push(child.as_raw_nonzero().get()));
    });
}

/// Everything below this process.
fn descendants() -> Vec<i32> {
    let mut found = Vec::new();
    children(std::process::id() as i32, &mut found);
    let mut seen: HashSet<i32> = found.iter().copied().collect();
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        let from = found.len();
        children(pid, &mut found);
        // A process that is handed over between two reads shows twice.
        let new = found.split_off(from);
        found.extend(new.into_iter().filter(|pid| seen.insert(*pid)));
        next += 1;
    }
    found
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

    /// What `/proc` tells of its only thread, if it lives.
    fn open(self) -> Option<OwnedFd> {
        let Self(pid) = self;
        let directory = fs::File::open(format!("/proc/{pid}/task/{pid}")).ok()?;
        // Our parent still, so that the number was its own when it was opened, and not a stranger's.
        self.is_there().then(|| directory.into())
    }

    /// Whether it lives.
    pub(crate) fn is_there(self) -> bool {
        rustix::process::getppid() == Some(self.0)
    }
}

/// The thread that ends the descendants, if one does.
static ENDS: AtomicI32 = AtomicI32::new(0);

/// Kills every descendant, so that the process can end; it can do nothing else afterwards. Nobody is left then, as wait(2) has
/// said, or the list of the keeper's children, or the time is over. Only the first thread that calls this returns.
///
/// Needs neither Python nor a runtime, and once other threads have halted no memory. Whoever dies leaves its children to us, a
/// subreaper, or to the keeper: so it is enough to kill our children, of which none can have another's number before it is reaped,
/// here, and the keeper's.
pub(crate) fn end_descendants(keeper: Option<Keeper>) {
    let own = gettid().as_raw_nonzero().get();
    match ENDS.compare_exchange(0, own, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => {}
        // It has failed on its way.
        Err(ends) if ends == own => return,
        Err(_) => sys::wait_for_the_end(),
    }
    let keeper = keeper.and_then(Keeper::open);
    let began = Instant::now();
    halt_others(began + HALT_LIMIT);
    // In this order: a child that is gone has left its own to the keeper.
    while (any_child() | keeper.as_ref().is_some_and(any_orphan)) && began.elapsed() < END_LIMIT {
        each_thread(OWN_THREADS, |_, directory| {
            each_child(directory, |child| {
                // One of another user, which nobody here can kill.
                let _ = kill_process(child, Signal::KILL);
            });
        });
        if let Some(keeper) = &keeper {
            kill_orphans(keeper);
        }
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// Whether the keeper, which looks after nobody else, has other children than us.
fn any_orphan(keeper: &OwnedFd) -> bool {
    let mut any = false;
    each_child(keeper, |child| any |= child != getpid());
    any
}

fn kill_orphans(keeper: &OwnedFd) {
    each_child(keeper, |child| {
        if child == getpid() {
            return;
        }
        let Ok(pidfd) = pidfd_open(child, PidfdFlags::empty()) else {
            return;
        };
        // The keeper may have reaped it before, and its number have gone to a stranger, which is not on the list.
        let mut is_it = false;
        each_child(keeper, |again| is_it |= again == child);
        if is_it {
            // It has ended, or is of another user.
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        }
    });
}

/// Reaps all children that have ended; whether there are others.
fn any_child() -> bool {
    let any = WaitOptions::NOHANG | WaitOptions::from_bits_retain(WALL);
    loop {
        match wait(any) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

/// Whether there is a child, living or not, and so any descendant: whoever loses its parent becomes our child.
fn has_children() -> bool {
    let any = WaitIdOptions::EXITED
        | WaitIdOptions::NOHANG
        | WaitIdOptions::NOWAIT
        | WaitIdOptions::from_bits_retain(WALL);
    waitid(WaitId::All, any).err() != Some(Errno::CHILD)
}

/// Visits the children of one thread, as far as they can be seen at once.
fn each_child(directory: &OwnedFd, mut visit: impl FnMut(Pid)) {
    let mut pid = 0;
    each_piece(directory, c"children", |text| {
        for byte in text {
            if byte.is_ascii_digit() {
                pid = pid * 10 + i32::from(byte - b'0');
            } else {
                Pid::from_raw(std::mem::take(&mut pid))
                    .into_iter()
                    .for_each(&mut visit);
            }
        }
    });
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
    /// One look at the tree, if there is one.
    pub(crate) fn look(&mut self) {
        if !has_children() {
            self.seen_below_others.clear();
            return;
        }
        let own = std::process::id() as i32;
        let mut still_there = HashSet::new();
        for pid in descendants() {
            let Some(stat) = stat(pid) else { continue };
            let key = (pid, stat.start);
            if stat.parent != own {
                still_there.insert(key);
            } else if self.seen_below_others.contains(&key) {
                let reaped = stat.zombie
                    && Pid::from_raw(pid)
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
