//! How a process ended, and how its tree was brought to an end.

use std::{fmt, os::unix::process::ExitStatusExt, process::ExitStatus, time::Duration};

use super::ProcessIdentity;

/// How a process ended, as wait(2) tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExitOutcome {
    /// It called exit with this code.
    Exited(i32),
    /// A signal ended it.
    Signaled {
        /// The signal's number.
        signal: i32,
        /// Whether the kernel wrote a core dump.
        core_dumped: bool,
    },
    /// SIGKILL ended it, and its cgroup reports an OOM kill: the tree met the memory limit that was set for it, or the
    /// machine has no memory left. Told by launchers that give a process a cgroup with the memory controller.
    OutOfMemory,
    /// It is gone, and nobody could read how.
    Unknown,
}

impl ExitOutcome {
    /// Whether the process exited with code 0.
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Exited(0))
    }
}

impl From<ExitStatus> for ExitOutcome {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Exited(code),
            (None, Some(signal)) => Self::Signaled {
                signal,
                core_dumped: status.core_dumped(),
            },
            // Stopped or continued, which a wait for the exit does not report.
            (None, None) => Self::Unknown,
        }
    }
}

impl fmt::Display for ExitOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Exited(code) => write!(f, "exited with code {code}"),
            Self::Signaled { signal, core_dumped } => {
                match signal_name(signal) {
                    Some(name) => write!(f, "killed by {name}")?,
                    None => write!(f, "killed by signal {signal}")?,
                }
                if core_dumped {
                    write!(f, " (core dumped)")
                } else {
                    Ok(())
                }
            }
            Self::OutOfMemory => write!(f, "killed by SIGKILL; its cgroup reports an OOM kill"),
            Self::Unknown => write!(f, "gone, exit status unknown"),
        }
    }
}

/// The name of a signal that has one on Linux, as in signal(7).
fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGUSR1 => "SIGUSR1",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGUSR2 => "SIGUSR2",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGXFSZ => "SIGXFSZ",
        libc::SIGSYS => "SIGSYS",
        _ => return None,
    })
}

/// The step of an ending that was the last one needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndStep {
    /// The whole tree was gone before anything was sent.
    AlreadyGone,
    /// SIGTERM was enough.
    Term,
    /// SIGKILL was needed for at least one member.
    Kill,
    /// Something is left that no signal of ours ends (state D, or a permission we lack), or whether something is could not
    /// be found out: see [`EndReport::remaining`].
    Incomplete,
}

/// What it took to end a process and everything it started.
#[derive(Clone, Debug)]
pub struct EndReport {
    /// How the process itself ended.
    pub outcome: ExitOutcome,
    /// The last step that was needed.
    pub step: EndStep,
    /// From the request to the empty tree.
    pub took: Duration,
    /// Members that had left the group or session and were found by walking or sweeping.
    pub swept: u32,
    /// What is still there; empty unless `step` is [`EndStep::Incomplete`]. An incomplete end with nothing remaining
    /// means that emptiness could not be confirmed.
    pub remaining: Vec<ProcessIdentity>,
}

impl EndReport {
    /// Whether it is confirmed that nothing is left.
    pub fn is_complete(&self) -> bool {
        self.step != EndStep::Incomplete && self.remaining.is_empty()
    }
}
