//! System calls without a safe wrapper.

#![expect(
    unsafe_code,
    reason = "pidfd_send_signal with flags, file handles and watches of borrowed descriptors have no safe wrapper"
)]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
};

use tokio::io::{Interest, unix::AsyncFd};

/// `PIDFD_SIGNAL_PROCESS_GROUP`: the signal goes to the process group that the pidfd's process leads or led.
/// From `linux/pidfd.h`, Linux 6.9.
pub(super) const SIGNAL_PROCESS_GROUP: u32 = 1 << 2;

/// `MAX_HANDLE_SZ` of `linux/exportfs.h`.
const MAX_HANDLE: usize = 128;

/// `struct file_handle` of open_by_handle_at(2), with room for the largest handle.
#[repr(C)]
struct FileHandle {
    bytes: libc::c_uint,
    kind: libc::c_int,
    data: [u8; MAX_HANDLE],
}

/// pidfd_send_signal(2).
///
/// # Errors
/// What the system call answers; `EINVAL` for a flag the kernel does not know.
pub(super) fn pidfd_send_signal(fd: BorrowedFd<'_>, signal: i32, flags: u32) -> io::Result<()> {
    // SAFETY: the descriptor is open for the length of the borrow, and a null siginfo is allowed.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            fd.as_raw_fd(),
            signal,
            ptr::null::<libc::siginfo_t>(),
            flags,
        )
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// `struct pidfd_info` of `linux/pidfd.h` in its first version, 64 bytes.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// The pid of a process that was not reaped, in our PID namespace: `PIDFD_GET_INFO`, Linux 6.13.
///
/// # Errors
/// `ENOTTY` or `EINVAL` on older kernels, and for what is no pidfd; `ESRCH` for a process that was reaped or is not in our
/// PID namespace.
pub(super) fn pid_of(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = PidfdInfo {
        mask: u64::from(libc::PIDFD_INFO_PID),
        ..PidfdInfo::default()
    };
    // SAFETY: the request carries the size of the structure that `info` is, and `info` outlives the call.
    let answer = unsafe { libc::ioctl(fd.as_raw_fd(), libc::PIDFD_GET_INFO, &raw mut info) };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    // Of the thread, and of its process.
    let [_, pid, ..] = info.ids;
    Ok(pid)
}

/// The wait status of a process that has been reaped, by whomever: `PIDFD_GET_INFO` with `PIDFD_INFO_EXIT`, Linux
/// 6.15. `None` while it is not reaped.
///
/// # Errors
/// `ENOTTY` or `EINVAL` on older kernels.
pub(super) fn reaped_status(fd: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    let mut info = PidfdInfo {
        mask: u64::from(libc::PIDFD_INFO_EXIT),
        ..PidfdInfo::default()
    };
    // SAFETY: the request carries the size of the structure that `info` is, and `info` outlives the call.
    let answer = unsafe { libc::ioctl(fd.as_raw_fd(), libc::PIDFD_GET_INFO, &raw mut info) };
    if answer != 0 {
        let error = io::Error::last_os_error();
        // Not reaped yet, so that there is nothing to tell.
        return match error.raw_os_error() {
            Some(libc::ESRCH) => Ok(None),
            _ => Err(error),
        };
    }
    let known = info.mask & u64::from(libc::PIDFD_INFO_EXIT) != 0;
    Ok(known.then_some(info.exit_code))
}

/// Watches a descriptor for being readable.
///
/// # Errors
/// What epoll_ctl(2) answers; `AlreadyExists` when this descriptor number is being watched.
pub(super) fn watch_readable(fd: BorrowedFd<'_>) -> io::Result<AsyncFd<BorrowedFd<'_>>> {
    // SAFETY: a borrowed descriptor names one open file for as long as the borrow lasts, and the watch
    // cannot outlive the borrow.
    let watched = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    Ok(watched?)
}

/// The handle of an open file as (type, bytes): name_to_handle_at(2) with `AT_EMPTY_PATH`.
///
/// # Errors
/// What the system call answers; `EOPNOTSUPP` where the file system has no handles.
pub(super) fn handle_of(fd: BorrowedFd<'_>) -> io::Result<(i32, Vec<u8>)> {
    let mut handle = FileHandle {
        bytes: MAX_HANDLE as libc::c_uint,
        kind: 0,
        data: [0; MAX_HANDLE],
    };
    let mut mount = 0;
    // SAFETY: `handle` has the layout of `struct file_handle` with `bytes` bytes of room behind its header,
    // the path is a NUL-terminated string, and `mount` outlives the call.
    let answer = unsafe {
        libc::name_to_handle_at(
            fd.as_raw_fd(),
            c"".as_ptr(),
            (&raw mut handle).cast(),
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    let len = (handle.bytes as usize).min(MAX_HANDLE);
    Ok((handle.kind, handle.data[..len].to_vec()))
}

/// Opens the file that a handle names, on the file system that `mount` belongs to: open_by_handle_at(2).
///
/// # Errors
/// What the system call answers: `ESTALE` when the file is gone; `EINVAL` when the handle is too long.
pub(super) fn open_handle(mount: BorrowedFd<'_>, kind: i32, bytes: &[u8]) -> io::Result<OwnedFd> {
    if bytes.len() > MAX_HANDLE {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut handle = FileHandle {
        bytes: bytes.len() as libc::c_uint,
        kind,
        data: [0; MAX_HANDLE],
    };
    handle.data[..bytes.len()].copy_from_slice(bytes);
    // SAFETY: `handle` has the layout of `struct file_handle` and as many bytes as it says; the mount
    // descriptor is open for the length of the borrow.
    let answer =
        unsafe { libc::open_by_handle_at(mount.as_raw_fd(), (&raw mut handle).cast(), libc::O_CLOEXEC) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(answer) })
}
