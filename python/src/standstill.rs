//! Bringing all other threads to a halt, for good: a process that ends its descendants is not to start new ones meanwhile.
//!
//! Each is sent a signal whose handler does not return. A thread that is in fork(2) or vfork(2) takes it afterwards, so that
//! once all have halted, every child that there will ever be is there. Where a thread was stopped is not known, it may hold any lock:
//! from here on nothing may be done that allocates memory or prints.

use std::{ffi::CStr, mem::MaybeUninit, os::fd::OwnedFd, time::Duration};

use rustix::{
    fs::{CWD, Mode, OFlags, RawDir, openat},
    io::read,
    path::Arg,
    thread::gettid,
};
use tokio::time::Instant;

use crate::{control_thread, sys};

/// Where `/proc` tells of the threads of this process.
pub(crate) const OWN_THREADS: &CStr = c"/proc/self/task";

/// The longest name of a thread that the kernel keeps, pthread_setname_np(3).
const LONGEST_NAME: usize = 15;

/// Halts the others, as far as they do so in time. A thread that blocks the signal does not.
pub(crate) fn halt_others(deadline: Instant) {
    sys::halt_at_signal();
    let own = gettid().as_raw_nonzero().get();
    let main = std::process::id().cast_signed();
    loop {
        let before = sys::halted();
        let mut others = 0;
        each_thread(OWN_THREADS, |thread, directory| {
            if thread != own && (thread == main || !is_control_thread(directory)) {
                others += 1;
                sys::send_halt(thread);
            }
        });
        // A thread that starts another one halts after that, so that the next look finds it.
        if before >= others || Instant::now() >= deadline {
            return;
        }
        std::thread::sleep(Duration::from_micros(20));
    }
}

/// Visits the threads that `/proc` lists in a directory, with that of each.
pub(crate) fn each_thread(tasks: impl Arg, mut visit: impl FnMut(i32, &OwnedFd)) {
    let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(tasks) = openat(CWD, tasks, directory, Mode::empty()) else {
        return;
    };
    let mut buffer = [MaybeUninit::uninit(); 2048];
    let mut entries = RawDir::new(&tasks, &mut buffer);
    while let Some(Ok(entry)) = entries.next() {
        let name = entry.file_name();
        let thread = name.to_str().ok().and_then(|name| name.parse().ok());
        if let Some(thread) = thread
            && let Ok(opened) = openat(&tasks, name, directory, Mode::empty())
        {
            visit(thread, &opened);
        }
    }
}

/// Reads a file of a thread in pieces.
pub(crate) fn each_piece(directory: &OwnedFd, file: &CStr, mut visit: impl FnMut(&[u8])) {
    let Ok(file) = openat(directory, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) else {
        return;
    };
    let mut buffer = [0; 1024];
    while let Ok(len @ 1..) = read(&file, &mut buffer) {
        visit(&buffer[..len]);
    }
}

/// That one blocks all signals, and starts no processes.
fn is_control_thread(directory: &OwnedFd) -> bool {
    let mut is_it = false;
    each_piece(directory, c"comm", |name| {
        is_it |= name.trim_ascii_end() == &control_thread::NAME.as_bytes()[..LONGEST_NAME];
    });
    is_it
}
