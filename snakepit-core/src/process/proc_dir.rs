//! `/proc/PID`, held open: reads of it concern one process or fail, never a later one with the same pid.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, readlinkat, statat};

use super::Stat;

/// An open `/proc/PID`. The kernel binds it to the process, not to the number: once the process is reaped,
/// reads answer `ESRCH` or `ENOENT`.
#[derive(Debug)]
pub(super) struct ProcDir(OwnedFd);

impl ProcDir {
    /// Opens it; `None` when there is no such process.
    pub(super) fn open(pid: u32) -> io::Result<Option<Self>> {
        gone_is_none(open_dir(CWD, format!("/proc/{pid}")).map(Self))
    }

    /// The state of the process; `None` once it is reaped.
    pub(super) fn stat(&self) -> io::Result<Option<Stat>> {
        let mut buffer = Vec::with_capacity(512);
        match gone_is_none(read_at(&self.0, c"stat", &mut buffer))? {
            Some(()) => Stat::parse(&buffer).map(Some),
            None => Ok(None),
        }
    }

    /// The pids in the `children` files of all its threads, proc_tid_children(5). `None` when the process is
    /// gone; `Err(Unsupported)` when the kernel was built without `CONFIG_PROC_CHILDREN`.
    pub(super) fn children(&self) -> io::Result<Option<Vec<u32>>> {
        let Some(tasks) = gone_is_none(open_dir(&self.0, c"task"))? else {
            return Ok(None);
        };
        // The last thread may be reaped between two steps.
        let Some(tids) = gone_is_none(numbers_in(&tasks))? else {
            return Ok(None);
        };
        let mut pids = Vec::new();
        let mut text = Vec::new();
        for tid in tids {
            let Some(task) = gone_is_none(open_dir(&tasks, tid.to_string()))? else {
                continue;
            };
            text.clear();
            match read_at(&task, c"children", &mut text) {
                Ok(()) => pids.extend(parse_numbers(&text)),
                // The thread ended, or the file does not exist at all: its siblings tell which.
                Err(error) if is_gone(&error) => {
                    if statat(&task, c"stat", AtFlags::empty()).is_ok() {
                        return Err(io::ErrorKind::Unsupported.into());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Some(pids))
    }

    /// Its environment, appended to `buffer`; waits a moment for one that is executing a program.
    ///
    /// # Errors
    /// `EACCES` for another user's process.
    pub(super) fn environ(&self, buffer: &mut Vec<u8>) -> io::Result<Environ> {
        for _ in 0..EXEC_LOOKS {
            match gone_is_none(read_environ(&self.0, "", buffer))? {
                Some(Environ::Empty) => std::thread::sleep(EXEC_PAUSE),
                Some(other) => return Ok(other),
                None => return Ok(Environ::None),
            }
        }
        Ok(Environ::Empty)
    }
}

/// Between switching to a program's memory and filling in its environment execve(2) takes microseconds.
pub(super) const EXEC_PAUSE: Duration = Duration::from_micros(200);
/// How often to look again at a process that seems to be there.
pub(super) const EXEC_LOOKS: u32 = 5;

/// What reading an environment gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Environ {
    /// Variables ended by NUL, proc_pid_environ(5).
    Read,
    /// The process has memory but no environment: it was started without one, or is just executing a program.
    Empty,
    /// A zombie or a kernel thread, without memory of its own.
    None,
}

/// Appends to `buffer` the environment of the process at `prefix` (empty, or a directory with its slash) below
/// `dir`.
pub(super) fn read_environ(dir: &OwnedFd, prefix: &str, buffer: &mut Vec<u8>) -> io::Result<Environ> {
    let path = |tail: &str| format!("{prefix}{tail}");
    let start = buffer.len();
    read_at_str(dir, &path("environ"), buffer)?;
    if buffer.len() > start {
        return Ok(Environ::Read);
    }
    // Only what has memory has an executable: kernel threads and zombies answer ENOENT.
    if readlinkat(dir, path("exe"), Vec::new()).is_ok() {
        return Ok(Environ::Empty);
    }
    // The file shows the first thread's memory, and the other threads may outlive it. A directory has two links
    // of its own; a third is the first thread, a fourth one that goes on.
    if statat(dir, path("task"), AtFlags::empty())?.st_nlink <= 3 {
        return Ok(Environ::None);
    }
    for tid in numbers_in(&open_dir(dir, path("task"))?)? {
        let read = read_at_str(dir, &path(&format!("task/{tid}/environ")), buffer);
        if gone_is_none(read)?.is_some() && buffer.len() > start {
            return Ok(Environ::Read);
        }
    }
    Ok(Environ::None)
}

/// Opens `/proc`.
pub(super) fn open() -> io::Result<OwnedFd> {
    open_dir(CWD, c"/proc")
}

/// All pids in `/proc`, in ascending order.
pub(super) fn pids_in(proc: &OwnedFd) -> io::Result<Vec<u32>> {
    numbers_in(proc)
}

/// The state of a process by its pid; `None` when there is none.
pub(super) fn stat_of(proc: &OwnedFd, pid: u32, buffer: &mut Vec<u8>) -> io::Result<Option<Stat>> {
    buffer.clear();
    match gone_is_none(read_at_str(proc, &format!("{pid}/stat"), buffer))? {
        Some(()) => Stat::parse(buffer).map(Some),
        None => Ok(None),
    }
}

fn open_dir(dir: impl AsFd, path: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(dir, path, flags, Mode::empty())?)
}

fn read_at_str(dir: &OwnedFd, path: &str, buffer: &mut Vec<u8>) -> io::Result<()> {
    let file = openat(dir, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    read_all(&file, buffer)
}

fn read_at(dir: &OwnedFd, path: &CStr, buffer: &mut Vec<u8>) -> io::Result<()> {
    let file = openat(dir, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    read_all(&file, buffer)
}

fn read_all(file: &OwnedFd, buffer: &mut Vec<u8>) -> io::Result<()> {
    loop {
        buffer.reserve(4096);
        match rustix::io::read(file, rustix::buffer::spare_capacity(buffer)) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn numbers_in(dir: &OwnedFd) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if let Some(number) = entry.file_name().to_str().ok().and_then(|name| name.parse().ok()) {
            numbers.push(number);
        }
    }
    Ok(numbers)
}

fn parse_numbers(text: &[u8]) -> impl Iterator<Item = u32> {
    text.split(|byte| byte.is_ascii_whitespace())
        .filter_map(|word| std::str::from_utf8(word).ok()?.parse().ok())
}

/// Whether an error says that the process ended meanwhile.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

fn gone_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}
