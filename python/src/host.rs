//! Noticing the end of the host that started this worker.
//!
//! On an inherited channel its end is end-of-file, and that is the faster way. But a Unix path says nothing about who
//! started us, and a fork of the host that does not execute another program holds the host's end of the channel open.
//! A host therefore names itself in the environment, and its process is watched.

use std::{fs, io, os::fd::OwnedFd, os::unix::fs::MetadataExt as _};

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};
use snakepit_proto::env;

use crate::{
    shared::{EXIT_LOST, Shared},
    sys, tree,
};

/// What is known of the host.
#[derive(Debug)]
pub(crate) enum Host {
    /// None is named, or one whose pid means nothing here: on another machine, in another PID namespace.
    Unknown,
    /// It has ended already.
    Gone,
    /// It lives; this is a pidfd of it.
    Alive(OwnedFd),
}

impl Host {
    /// Looks for the host that the environment names.
    pub(crate) fn find() -> Self {
        let named = std::env::var(env::HOST).unwrap_or_default();
        let Some((pid, start)) = here(&named) else {
            return Self::Unknown;
        };
        match Pid::from_raw(pid).map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
            // The start is read while the process is held: it is the one that was named, or another one with its pid.
            Some(Ok(pidfd)) => match tree::start_of(pid) {
                Some(found) if found == start => Self::Alive(pidfd),
                _ => Self::Gone,
            },
            Some(Err(Errno::SRCH)) => Self::Gone,
            Some(Err(_)) | None => Self::Unknown,
        }
    }

    /// Ends the worker, with everything it started, when the host has ended.
    pub(crate) async fn watch(self, shared: &Shared) {
        let ended = match self {
            Self::Unknown => return,
            Self::Gone => Ok(()),
            Self::Alive(pidfd) => end_of(pidfd).await,
        };
        match ended {
            Ok(()) => shared.leave(EXIT_LOST),
            Err(error) => eprintln!("snakepit: cannot watch the host: {error}"),
        }
    }
}

async fn end_of(pidfd: OwnedFd) -> io::Result<()> {
    let pidfd = sys::watch_readable(pidfd)?;
    // A pidfd is readable when its process has ended, and only then (pidfd_open(2)).
    pidfd.readable().await.map(|_| ())
}

/// Pid and start time from `PID.START_TICKS.PID_NAMESPACE.BOOT_ID`, if both are ours to look at.
fn here(named: &str) -> Option<(i32, u64)> {
    let mut parts = named.splitn(4, '.');
    let (pid, start) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let (namespace, boot): (u64, _) = (parts.next()?.parse().ok()?, parts.next()?);
    let ours = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    if boot != ours.trim_end() || namespace != fs::metadata("/proc/self/ns/pid").ok()?.ino() {
        return None;
    }
    // Without a fresh mount a new namespace sees the old one's `/proc`, where every pid means another process.
    let shown = fs::read_link("/proc/self").ok()?;
    (shown.to_str()? == std::process::id().to_string()).then_some((pid, start))
}
