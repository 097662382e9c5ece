//! The directories of workers' cgroups: cgroups(7).

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, OwnedFd},
};

use crate::{
    failure::errno,
    proc::entries,
    sys::{
        self,
        constants::{DT_DIR, EBUSY},
    },
    text::Text,
};

/// Removes the directory of a cgroup, and those that were made in it: a worker that forks others has one for each.
///
/// `EBUSY` while a process is in one of them, also one that has just ended.
pub(crate) fn remove(run: &OwnedFd, name: &CStr) -> io::Result<()> {
    match sys::remove_dir(run, name) {
        Err(error) if errno(&error) == EBUSY => {
            // Without a descriptor left it stays busy, and is looked at again.
            let Ok(directory) = sys::open(Some(run.as_fd()), name, 0) else {
                return Err(error);
            };
            remove_below(&directory);
            sys::remove_dir(run, name)
        }
        removed => removed,
    }
}

fn remove_below(directory: &OwnedFd) {
    let mut buffer = [0; 1024];
    while let Ok(len @ 1..) = sys::entries(directory, &mut buffer) {
        entries(&buffer[..len], &mut |kind, name| {
            if kind == DT_DIR
                && !matches!(name, b"." | b"..")
                && let Some(name) = str::from_utf8(name).ok()
                && let Some(name) = Text::format(format_args!("{name}"))
            {
                // Where it is busy, so is the one above.
                let _ = sys::remove_dir(directory, name.as_c_str());
            }
        });
    }
}
