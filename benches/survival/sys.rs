//! System calls without a safe wrapper, for the kernel's own figure.

#![expect(
    unsafe_code,
    reason = "clone(2), unshare(2), mount(2) and prctl(2) have no safe wrapper here"
)]

use std::{ffi::CStr, io, ptr};

fn checked(answer: i64) -> io::Result<i64> {
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(answer)
    }
}

/// Forks the calling process, which has to be single-threaded, into a PID and a mount namespace of its own: 0 in the
/// child, which is that namespace's first process, and the child's pid in the parent.
pub(crate) fn fork_into_namespace() -> io::Result<i64> {
    let flags = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::SIGCHLD;
    // SAFETY: without CLONE_VM and without a stack this is fork(2); a single-threaded process may go on with
    // anything in its child.
    checked(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) })
}

/// Moves the calling process, which has to be single-threaded, into a user namespace of its own.
pub(crate) fn enter_user_namespace() -> io::Result<()> {
    // SAFETY: it takes no pointer.
    checked(unsafe { libc::unshare(libc::CLONE_NEWUSER) }.into())?;
    Ok(())
}

/// Gives the mount namespace of the calling process a `/proc` that shows its PID namespace.
pub(crate) fn mount_proc() -> io::Result<()> {
    let (none, flags) = (ptr::null::<libc::c_char>(), libc::MS_REC | libc::MS_PRIVATE);
    // SAFETY: the path is a C string, and what is null may be so for a change of propagation.
    checked(unsafe { libc::mount(none, c"/".as_ptr(), none, flags, ptr::null()) }.into())?;
    let proc: &CStr = c"proc";
    // SAFETY: source, target and type are C strings, and there is no data.
    checked(unsafe { libc::mount(proc.as_ptr(), c"/proc".as_ptr(), proc.as_ptr(), 0, ptr::null()) }.into())?;
    Ok(())
}

/// Has the kernel kill the calling process when the thread that forked it ends.
pub(crate) fn die_with_parent() -> io::Result<()> {
    // SAFETY: the option takes a signal number.
    checked(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) }.into())?;
    Ok(())
}
