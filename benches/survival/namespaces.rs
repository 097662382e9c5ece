//! The kernel's own figure: PID namespaces made directly, each with an init, a worker and its grandchild.
//!
//! A role of this program, run as a process of its own: the guardian's shape without the guardian. Each init is a
//! fork that executes nothing, as a keeper is.

use std::{fs, io::Read as _, process::Stdio};

use rustix::{
    io::Errno,
    process::{WaitOptions, getgid, getuid, wait},
};

use crate::{Result, host::Ready, sys, work};

/// Makes them, says so, and ends them by ending, at end-of-file on standard input.
pub(crate) fn run(count: usize) -> Result<()> {
    let (uid, gid) = (getuid(), getgid());
    if !uid.is_root() {
        sys::enter_user_namespace()?;
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("{0} {0} 1", uid.as_raw()))?;
        fs::write("/proc/self/gid_map", format!("{0} {0} 1", gid.as_raw()))?;
    }
    for _ in 0..count {
        if sys::fork_into_namespace()? == 0 {
            let failed = init();
            eprintln!("a namespace's init: {failed:?}");
            std::process::exit(1);
        }
    }
    println!("{}", serde_json::to_string(&Ready::default())?);
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Starts the worker and reaps for ever.
fn init() -> Result<()> {
    sys::die_with_parent()?;
    sys::mount_proc()?;
    let (program, args) = work::sleepers();
    let null = Stdio::null;
    let mut command = std::process::Command::new(program);
    command.args(args).stdin(null()).stdout(null()).stderr(null());
    // It is reaped below, whatever its handle would do.
    drop(command.spawn()?);
    loop {
        match wait(WaitOptions::empty()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
