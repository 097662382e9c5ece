//! Who a process is, beyond its pid.

use std::{io, os::unix::fs::MetadataExt, sync::OnceLock};

use rustix::fs::fstatfs;

use super::{Pidfd, Stat, proc_dir::is_gone, sys};

/// `PID_FS_MAGIC` of `linux/magic.h`: the file system of pidfds since Linux 6.9.
const PID_FS_MAGIC: rustix::fs::FsWord = 0x5049_4446;
/// `FILEID_KERNFS` of `linux/exportfs.h`, the type pidfs gives its handles (as kernfs does).
const PIDFS_HANDLE_TYPE: i32 = 0xfe;
/// A pidfs handle is the 64-bit inode number, `fs/pidfs.c`.
const PIDFS_HANDLE_LEN: usize = 8;

/// The pidfs file handle of a process (Linux 6.14 and later): unique for one boot, never reused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PidfsHandle {
    /// Handle type as given by name_to_handle_at(2).
    pub handle_type: i32,
    /// Handle bytes.
    pub bytes: Vec<u8>,
}

impl PidfsHandle {
    /// The handle of the process behind a pidfd; `None` where the kernel has none to give.
    pub fn of(pidfd: &Pidfd) -> Option<Self> {
        if !is_pidfs(pidfd) {
            return None;
        }
        let (handle_type, bytes) = sys::handle_of(std::os::fd::AsFd::as_fd(pidfd)).ok()?;
        let handle = Self { handle_type, bytes };
        handle.is_well_formed().then_some(handle)
    }

    /// Whether it can be the handle of a pidfd. Other kernel file systems use the same type, so that what was
    /// opened by a handle is still checked to be a pidfd.
    pub fn is_well_formed(&self) -> bool {
        self.handle_type == PIDFS_HANDLE_TYPE && self.bytes.len() == PIDFS_HANDLE_LEN
    }
}

/// Who a process is. A bare pid names whoever has that number now; this names one process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProcessIdentity {
    /// The pid in our PID namespace.
    pub pid: u32,
    /// Its process group when it was started.
    pub pgid: u32,
    /// Start time in clock ticks since boot, field 22 of proc_pid_stat(5).
    pub start_ticks: u64,
    /// The pidfs handle, where the kernel has it.
    pub handle: Option<PidfsHandle>,
    /// `/proc/sys/kernel/random/boot_id` when it was taken.
    pub boot_id: String,
    /// Inode of the PID namespace that `pid` and `handle` are valid in.
    pub pid_namespace: u64,
}

impl ProcessIdentity {
    /// The identity of the process that has this pid now. For a child that we have not reaped this is the
    /// child, whatever else happens.
    ///
    /// # Errors
    /// `ESRCH` when there is none; what reading `/proc` answers.
    pub fn of_pid(pid: u32) -> io::Result<Self> {
        Self::of(&Pidfd::open(pid)?)
    }

    /// The identity of the process behind a pidfd; a zombie still has one.
    ///
    /// # Errors
    /// `ESRCH` when it has been reaped; what reading `/proc` answers.
    pub fn of(pidfd: &Pidfd) -> io::Result<Self> {
        let stat = stat_of(pidfd)?.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
        Self::from_parts(pidfd, &stat)
    }

    /// The identity, its state being known already.
    pub(super) fn from_parts(pidfd: &Pidfd, stat: &Stat) -> io::Result<Self> {
        Ok(Self {
            pid: stat.pid,
            pgid: stat.pgrp,
            start_ticks: stat.start_ticks,
            handle: PidfsHandle::of(pidfd),
            boot_id: boot_id()?.to_owned(),
            pid_namespace: pid_namespace()?,
        })
    }

    /// Opens exactly this process, or nothing: `None` when it has ended (a zombie has), also when its pid has
    /// gone to another process or the machine was started anew.
    ///
    /// # Errors
    /// [`IdentifyError::Namespace`] when it was recorded in another PID namespace, where neither its pid nor
    /// its handle says anything to us; [`IdentifyError::Os`] when the system does not let us look.
    pub fn open(&self) -> Result<Option<Pidfd>, IdentifyError> {
        if self.boot_id != boot_id()? {
            return Ok(None);
        }
        let ours = pid_namespace()?;
        if self.pid_namespace != ours {
            return Err(IdentifyError::Namespace {
                recorded: self.pid_namespace,
                ours,
            });
        }
        let found = match &self.handle {
            Some(handle) => self.open_by_handle(handle)?,
            None => self.open_by_pid()?,
        };
        Ok(found.filter(|pidfd| !pidfd.has_exited()))
    }

    /// Whether exactly this process still runs.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn is_alive(&self) -> Result<bool, IdentifyError> {
        self.open().map(|found| found.is_some())
    }

    fn open_by_handle(&self, handle: &PidfsHandle) -> io::Result<Option<Pidfd>> {
        if !handle.is_well_formed() {
            return self.open_by_pid();
        }
        // Any pidfd tells the kernel which file system is meant; our own always exists.
        let own = Pidfd::open(std::process::id())?;
        let mount = std::os::fd::AsFd::as_fd(&own);
        match sys::open_handle(mount, handle.handle_type, &handle.bytes) {
            Ok(fd) => {
                let pidfd = Pidfd::from_parts(fd, self.pid);
                Ok(is_pidfs(&pidfd).then_some(pidfd))
            }
            Err(error) => match error.raw_os_error() {
                Some(libc::ESTALE) => Ok(None),
                // The handle came from a newer kernel than the one that runs now, or a filter forbids the call.
                Some(libc::EOPNOTSUPP | libc::EINVAL | libc::EPERM | libc::ENOSYS) => self.open_by_pid(),
                _ => Err(error),
            },
        }
    }

    /// Pid and start time together: a tick is 10 ms, and a pid comes round again after tens of thousands of
    /// forks, so that both agreeing by chance takes a full round within one tick.
    fn open_by_pid(&self) -> io::Result<Option<Pidfd>> {
        let pidfd = match Pidfd::open(self.pid) {
            Ok(pidfd) => pidfd,
            // EINVAL: the number now belongs to a thread that is no process.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ESRCH | libc::EINVAL | libc::ENOENT)
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let stat = stat_of(&pidfd)?;
        Ok(stat
            .filter(|stat| stat.start_ticks == self.start_ticks)
            .map(|_| pidfd))
    }
}

/// The state of the process behind a pidfd; `None` once it is reaped.
pub(super) fn stat_of(pidfd: &Pidfd) -> io::Result<Option<Stat>> {
    let stat = match Stat::read(pidfd.pid()) {
        Ok(stat) => stat,
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    // If ours still exists after the file was read, the file is its own: a pid has one owner at a time. Signal 0 sends
    // nothing; EPERM also says that it exists.
    match pidfd.signal(0) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        _ => Ok(Some(stat)),
    }
}

fn is_pidfs(pidfd: &Pidfd) -> bool {
    fstatfs(pidfd).is_ok_and(|found| found.f_type == PID_FS_MAGIC)
}

/// The boot id of the running system, read once.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn boot_id() -> io::Result<&'static str> {
    static BOOT_ID: OnceLock<String> = OnceLock::new();
    if let Some(id) = BOOT_ID.get() {
        return Ok(id);
    }
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(BOOT_ID.get_or_init(|| id.trim_end().to_owned()))
}

/// The inode of the PID namespace we are in. A process is in one for its life, so it is read once; after a fork(2), whose child
/// may be in another one (unshare(2)) and has another number, again. The first process of a namespace reads it each time: the
/// first of the next one has its number.
///
/// # Errors
/// When `/proc` is not mounted, or is that of another PID namespace (which unshare(2) without a fresh mount
/// leads to): every pid in it would mean another process than the same pid in a system call.
pub fn pid_namespace() -> io::Result<u64> {
    static OURS: OnceLock<(u32, u64)> = OnceLock::new();
    let own = std::process::id();
    match OURS.get() {
        Some((pid, inode)) if *pid == own && own != 1 => Ok(*inode),
        Some(_) => read_pid_namespace(own),
        None => {
            let inode = read_pid_namespace(own)?;
            Ok(OURS.get_or_init(|| (own, inode)).1)
        }
    }
}

fn read_pid_namespace(own: u32) -> io::Result<u64> {
    let shown = std::fs::read_link("/proc/self")?;
    if shown.to_str().and_then(|pid| pid.parse().ok()) != Some(own) {
        return Err(io::Error::other(
            "/proc shows another PID namespace than ours; a fresh one has to be mounted",
        ));
    }
    Ok(std::fs::metadata("/proc/self/ns/pid")?.ino())
}

/// Why a process could not be identified.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentifyError {
    /// It was recorded in another PID namespace.
    #[error("the process was recorded in PID namespace {recorded}, this is {ours}")]
    Namespace {
        /// Inode of the namespace it was recorded in.
        recorded: u64,
        /// Inode of our own.
        ours: u64,
    },
    /// The system does not let us look.
    #[error("cannot look for the process")]
    Os(#[from] io::Error),
}

#[cfg(test)]
mod tests {
    use super::{super::testing::Child, *};

    #[test]
    fn finds_the_process_again_until_it_ends() {
        let child = Child::start("read line");
        let identity = ProcessIdentity::of_pid(child.pid()).unwrap();
        let without_handle = ProcessIdentity {
            handle: None,
            ..identity.clone()
        };
        for identity in [&identity, &without_handle] {
            let found = identity.open().unwrap().expect("it lives");
            assert_eq!(found.pid(), child.pid());
            assert_eq!(
                ProcessIdentity::of(&found).unwrap().start_ticks,
                identity.start_ticks
            );
        }
        child.kill_unreaped();
        // A zombie is not alive, by either way.
        assert!(!identity.is_alive().unwrap() && !without_handle.is_alive().unwrap());
        drop(child);
        assert!(!identity.is_alive().unwrap() && !without_handle.is_alive().unwrap());
    }

    #[test]
    fn never_takes_another_process_for_it() {
        let (child, other) = (Child::start("read line"), Child::start("read line"));
        let identity = ProcessIdentity::of_pid(child.pid()).unwrap();
        let reused = ProcessIdentity {
            start_ticks: identity.start_ticks - 1,
            handle: None,
            ..identity.clone()
        };
        assert!(!reused.is_alive().unwrap());
        let other_boot = ProcessIdentity {
            boot_id: "another".into(),
            ..identity.clone()
        };
        assert!(!other_boot.is_alive().unwrap());
        if identity.handle.is_some() {
            // The pid of a living process, the handle of a dead one: the handle decides.
            let stale = ProcessIdentity {
                pid: other.pid(),
                ..identity.clone()
            };
            child.kill_unreaped();
            drop(child);
            assert!(!stale.is_alive().unwrap());
        }
    }

    #[test]
    fn refuses_another_pid_namespace() {
        let mut identity = ProcessIdentity::of_pid(std::process::id()).unwrap();
        identity.pid_namespace += 1;
        let error = identity.open().unwrap_err();
        assert!(matches!(error, IdentifyError::Namespace { .. }), "{error}");
    }

    #[test]
    fn other_files_with_the_same_kind_of_handle_are_not_taken_for_processes() {
        let mut identity = ProcessIdentity::of_pid(std::process::id()).unwrap();
        if let Some(handle) = &mut identity.handle {
            // An inode number that no pidfd has had yet.
            handle.bytes = (u64::MAX / 2).to_ne_bytes().to_vec();
            assert!(!identity.is_alive().unwrap());
        }
    }
}
