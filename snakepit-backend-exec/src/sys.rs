//! Library calls without a safe wrapper.

#![expect(
    unsafe_code,
    reason = "looking up users and groups, and watching descriptors, have no safe wrapper"
)]

use std::{
    ffi::CStr,
    io,
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
    ptr,
};

use tokio::io::{Interest, unix::AsyncFd};

/// What the text of an entry may take at first, and at most: a group may have many members.
const FIRST: usize = 1024;
const MOST: usize = 1 << 20;
/// Supplementary groups at first, and at most: `NGROUPS_MAX` of Linux.
const GROUPS_FIRST: usize = 64;
const GROUPS_MOST: usize = 65_536;

/// Watches a descriptor for something to read.
///
/// # Errors
/// What epoll_ctl(2) answers.
pub(crate) fn watch_readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor names the same open file for as long as it lives, and the watch owns it.
    let watched = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    Ok(watched?)
}

/// Watches a descriptor for room to write.
///
/// # Errors
/// What epoll_ctl(2) answers.
pub(crate) fn watch_writable(fd: BorrowedFd<'_>) -> io::Result<AsyncFd<BorrowedFd<'_>>> {
    // SAFETY: a borrowed descriptor names one open file for as long as the borrow lasts, and the watch cannot outlive
    // the borrow.
    let watched = unsafe { AsyncFd::register_with_interest(fd, Interest::WRITABLE) };
    Ok(watched?)
}

/// (user, group, supplementary groups) of the user with this name: getpwnam_r(3), getgrouplist(3).
///
/// # Errors
/// What the look-up answers.
pub(crate) fn user(name: &CStr) -> io::Result<Option<(u32, u32, Vec<u32>)>> {
    let found = entry(|text: &mut [libc::c_char], found: *mut *mut libc::passwd| {
        let mut entry = MaybeUninit::<libc::passwd>::uninit();
        // SAFETY: the name is a C string; `entry`, `text` with its length, and `found` are writable and outlive the call.
        let error = unsafe {
            libc::getpwnam_r(
                name.as_ptr(),
                entry.as_mut_ptr(),
                text.as_mut_ptr(),
                text.len(),
                found,
            )
        };
        // SAFETY: the caller passes a pointer to a pointer, which the call has set.
        let is_found = error == 0 && !unsafe { *found }.is_null();
        // SAFETY: the entry was found, so that the call has filled it in.
        let ids = is_found
            .then(|| unsafe { entry.assume_init_ref() })
            .map(|entry| (entry.pw_uid, entry.pw_gid));
        (error, ids)
    })?;
    let Some((uid, gid)) = found else {
        return Ok(None);
    };
    Ok(Some((uid, gid, groups_of(name, gid)?)))
}

/// The number of the group with this name: getgrnam_r(3).
///
/// # Errors
/// What the look-up answers.
pub(crate) fn group(name: &CStr) -> io::Result<Option<u32>> {
    entry(|text: &mut [libc::c_char], found: *mut *mut libc::group| {
        let mut entry = MaybeUninit::<libc::group>::uninit();
        // SAFETY: the name is a C string; `entry`, `text` with its length, and `found` are writable and outlive the call.
        let error = unsafe {
            libc::getgrnam_r(
                name.as_ptr(),
                entry.as_mut_ptr(),
                text.as_mut_ptr(),
                text.len(),
                found,
            )
        };
        // SAFETY: the caller passes a pointer to a pointer, which the call has set.
        let is_found = error == 0 && !unsafe { *found }.is_null();
        // SAFETY: the entry was found, so that the call has filled it in.
        let gid = is_found
            .then(|| unsafe { entry.assume_init_ref() })
            .map(|entry| entry.gr_gid);
        (error, gid)
    })
}

/// Looks an entry up with as much room for its text as it takes.
fn entry<E, T>(
    mut look: impl FnMut(&mut [libc::c_char], *mut *mut E) -> (libc::c_int, Option<T>),
) -> io::Result<Option<T>> {
    let mut size = FIRST;
    loop {
        let mut text = vec![0; size];
        let mut found = ptr::null_mut();
        match look(&mut text, &raw mut found) {
            (libc::ERANGE, _) if size < MOST => size *= 2,
            (libc::EINTR, _) => {}
            // What getpwnam(3) lists as ways to say that there is none.
            (0 | libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM, found) => return Ok(found),
            (error, _) => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

fn groups_of(name: &CStr, gid: u32) -> io::Result<Vec<u32>> {
    let mut size = GROUPS_FIRST;
    loop {
        let mut groups: Vec<libc::gid_t> = vec![0; size];
        let mut count = libc::c_int::try_from(size).unwrap_or(libc::c_int::MAX);
        // SAFETY: the name is a C string, and `groups` has room for `count` groups.
        let answer = unsafe { libc::getgrouplist(name.as_ptr(), gid, groups.as_mut_ptr(), &raw mut count) };
        if answer >= 0 {
            groups.truncate(usize::try_from(count).unwrap_or(0));
            return Ok(groups);
        }
        if size >= GROUPS_MOST {
            return Err(io::Error::from_raw_os_error(libc::ERANGE));
        }
        size = (size * 4).min(GROUPS_MOST);
    }
}
