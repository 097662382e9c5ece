//! Processes in PID namespaces of their own, pid_namespaces(7), for templates whose workers shall see and end nobody else's.
//!
//! Three forks make one. A *helper* makes the namespace, for there is no way back into one's own without root's rights there; it ends
//! at once. Its child is the namespace's *first process*: it has the namespace's `/proc`, reaps what is orphaned, tells how the
//! worker ended, and ends when nobody is left in there, or the host is gone, or kills it at the end of the worker's time. All others
//! in the namespace are then ended by the kernel, whatever they did to hide. *Its* child is the worker, so that to user code it is
//! a process like any other: the first one of a namespace ignores signals that it has no handler for.
//!
//! All forks are those of the C library, so that libraries that have handlers for forks (pthread_atfork(3)) see each of them.

use std::{
    fs,
    io::{self, Read as _},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, memfd_create},
    io::{Errno, pread, pwrite, read, retry_on_intr, write},
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    pipe::pipe,
    process::{
        Pid, WaitOptions, WaitStatus, getegid, geteuid, getpid, set_child_subreaper, setpgid, wait, waitpid,
    },
    thread::{CapabilitySet, UnshareFlags, capabilities, set_name},
};

use crate::sys;

/// What a step answered that failed.
pub(crate) type Failed = (&'static str, io::Error);

/// The name of the first process of a namespace.
pub(crate) const FIRST: &std::ffi::CStr = c"snakepit-nest";

fn at<T>(step: &'static str, result: rustix::io::Result<T>) -> Result<T, Failed> {
    result.map_err(|error| (step, error.into()))
}

/// What a template needs to make them.
#[derive(Debug)]
pub(crate) struct Nests {
    /// Where a helper notes which process it has made, for the template, whose child that becomes.
    note: OwnedFd,
    /// A pidfd of the host: a socket whose end a fork of the host has inherited does not tell that it is gone.
    host: OwnedFd,
}

/// What a helper that has said why there is no namespace exits with.
const REFUSED: i32 = 1;

/// On which side of the forks we are.
pub(crate) enum Side {
    /// In the template, with the first process of the namespace; `None` where there is none, and why has been told.
    Template(Option<Pid>),
    Worker,
}

/// The same, a fork earlier.
enum Made {
    Template(Option<Pid>),
    First,
}

/// What is done with a reason why there is no process.
type Refuse<'a> = &'a dyn Fn(&'static str, &io::Error);

impl Nests {
    /// Prepares the calling process, which has one thread, for having its workers in namespaces, and tries one.
    ///
    /// # Errors
    /// What is not possible here.
    pub(crate) fn new(host: OwnedFd) -> Result<Self, Failed> {
        let may = at("read its capabilities", capabilities(None))?;
        if !may.effective.contains(CapabilitySet::SYS_ADMIN) {
            enter_user_namespace()?;
        }
        // What a helper leaves is its child then, and reaped by it.
        at("become a subreaper", set_child_subreaper(Some(getpid())))?;
        let nests = Self {
            note: at(
                "make a file",
                memfd_create(c"snakepit-nests", MemfdFlags::CLOEXEC),
            )?,
            host,
        };
        nests.try_one()?;
        Ok(nests)
    }

    fn try_one(&self) -> Result<(), Failed> {
        let (reading, writing) = at("make a pipe", pipe())?;
        let refuse = |step: &'static str, error: &io::Error| {
            // An error means that the template is gone, and nobody asks.
            let _ = write(&writing, format!("{step}: {error}").as_bytes());
        };
        match self.first(&refuse).map_err(|error| ("fork", error))? {
            Made::First => sys::exit_now(0),
            Made::Template(Some(first)) => {
                wait_for(first).map_err(|error| ("wait", error))?;
            }
            Made::Template(None) => {}
        }
        drop(writing);
        let mut why = String::new();
        let read = fs::File::from(reading).read_to_string(&mut why);
        read.map_err(|error| ("read a pipe", error))?;
        if why.is_empty() {
            return Ok(());
        }
        Err(("try it", io::Error::other(why)))
    }

    /// Forks a worker. `told` has a number for it, and takes why there is none, and how it ended.
    ///
    /// # Errors
    /// When the template could not be forked.
    pub(crate) fn fork(&self, told: &impl Told) -> io::Result<Side> {
        let refuse = |step: &'static str, error: &io::Error| told.refused(step, error);
        match self.first(&refuse)? {
            Made::Template(first) => Ok(Side::Template(first)),
            Made::First => match sys::fork() {
                Ok(None) => Ok(Side::Worker),
                Ok(Some(worker)) => look_after(worker, self.host.as_fd(), told),
                Err(error) => {
                    told.refused("fork", &error);
                    sys::exit_now(1);
                }
            },
        }
    }

    /// Forks a helper, and that the first process of a namespace.
    fn first(&self, refuse: Refuse<'_>) -> io::Result<Made> {
        pwrite(&self.note, &0_i32.to_ne_bytes(), 0)?;
        if let Some(helper) = sys::fork()? {
            let status = wait_for(helper)?;
            let mut noted = [0; size_of::<i32>()];
            pread(&self.note, &mut noted, 0)?;
            let first = Pid::from_raw(i32::from_ne_bytes(noted));
            if first.is_none() && status.and_then(WaitStatus::exit_status) != Some(REFUSED) {
                // It was killed, and has told nobody.
                refuse("make a PID namespace", &Errno::AGAIN.into());
            }
            return Ok(Made::Template(first));
        }
        let made = sys::unshare(UnshareFlags::NEWPID)
            .map_err(|error| ("make a PID namespace", error))
            .and_then(|()| sys::fork().map_err(|error| ("fork", error)));
        match made {
            Ok(Some(first)) => {
                let noted = pwrite(&self.note, &first.as_raw_nonzero().get().to_ne_bytes(), 0);
                sys::exit_now(if noted.is_err() { 2 } else { 0 });
            }
            Ok(None) => match furnish() {
                Ok(()) => Ok(Made::First),
                Err((step, error)) => {
                    refuse(step, &error);
                    sys::exit_now(1);
                }
            },
            Err((step, error)) => {
                refuse(step, &error);
                sys::exit_now(REFUSED);
            }
        }
    }
}

/// Whom the processes of a namespace tell what becomes of it, over a socket whose other end is the host's.
pub(crate) trait Told {
    /// There is no worker.
    fn refused(&self, step: &'static str, error: &io::Error);
    /// The worker has ended, with this wait status.
    fn exited(&self, status: i32);
    /// What closes when the host is gone.
    fn host(&self) -> BorrowedFd<'_>;
}

fn wait_for(child: Pid) -> io::Result<Option<WaitStatus>> {
    let ended = retry_on_intr(|| waitpid(Some(child), WaitOptions::empty()))?;
    Ok(ended.map(|(_, status)| status))
}

/// A user namespace in which user and group have their own numbers and may do everything else.
fn enter_user_namespace() -> Result<(), Failed> {
    // The effective ones, as they are what may be mapped without rights.
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    sys::unshare(UnshareFlags::NEWUSER).map_err(|error| ("make a user namespace", error))?;
    // Without rights, the group can be mapped only where supplementary groups can no longer be dropped.
    for (file, text) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{uid} {uid} 1")),
        ("gid_map", format!("{gid} {gid} 1")),
    ] {
        fs::write(format!("/proc/self/{file}"), text)
            .map_err(|error| ("map its user and group into a user namespace", error))?;
    }
    Ok(())
}

/// Gives the first process of a namespace a `/proc` that shows it, which nobody outside gets to see, and a group of its own: the
/// template's may be signalled.
fn furnish() -> Result<(), Failed> {
    at("make a process group", setpgid(None, None))?;
    sys::unshare(UnshareFlags::NEWNS).map_err(|error| ("make a mount namespace", error))?;
    // Only this one: whatever else is mounted later is to be seen by workers as well.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    at("keep the mounts of /proc apart", mount_change(c"/proc", private))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    at(
        "mount a fresh /proc",
        mount(c"proc", c"/proc", c"proc", flags, None),
    )
}

/// What the first process of a namespace does: reaps, until nobody is left, or the host is gone. Then it ends, and everything in
/// the namespace with it.
fn look_after(worker: Pid, host: BorrowedFd<'_>, told: &impl Told) -> ! {
    let connection = told.host();
    // By which its worker knows that it is looked after; without it the worker does what others do.
    let _ = set_name(FIRST);
    // The worker's channel has to close when the worker closes it.
    close_all_but(&[connection.as_raw_fd(), host.as_raw_fd()]);
    let Ok(children) = sys::child_signals() else {
        // The worker goes with us; there was no descriptor to be had, which the next one may have.
        told.exited(libc::SIGKILL);
        sys::exit_now(1);
    };
    loop {
        let done = reap(worker, told);
        let mut watched = [
            PollFd::new(&children, PollFlags::IN),
            PollFd::from_borrowed_fd(connection, PollFlags::empty()),
            PollFd::from_borrowed_fd(host, PollFlags::IN),
        ];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // Interrupted by nothing, as all signals are blocked; and looking once too often does no harm.
        let _ = poll(&mut watched, if done { None } else { Some(&at_once) });
        let [signals, connection, host] = watched.map(|watched| watched.revents());
        if connection.intersects(PollFlags::HUP | PollFlags::ERR) || !host.is_empty() {
            sys::exit_now(0);
        }
        if !signals.is_empty() {
            // What it says is of no interest: several signals are one.
            let _ = read(&children, &mut [0_u8; 128]);
        }
    }
}

/// Orphans that are reaped between two looks at the host.
const REAPED_AT_ONCE: usize = 64;

/// Reaps what has ended, tells of the worker, and ends when there is nobody any more; false when there may be more to reap.
fn reap(worker: Pid, told: &impl Told) -> bool {
    for _ in 0..REAPED_AT_ONCE {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == worker => {
                told.exited(status.as_raw());
            }
            Ok(Some(_)) | Err(Errno::INTR) => {}
            // What the worker has left may have a grace, which the host sees to.
            Ok(None) => return true,
            Err(_) => sys::exit_now(0),
        }
    }
    false
}

fn close_all_but(kept: &[i32]) {
    let open = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let open: Vec<i32> = open
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|fd| !kept.contains(fd))
        .collect();
    sys::close_in_child(&open);
}
