//! How processes are contained here, and why not more firmly.

use std::{fmt, io, path::PathBuf, time::Duration};

use rustix::io::Errno;
use snakepit_core::{launch::LaunchError, process::ContainmentLevel};

use crate::{launcher::NAME, request::os, wire::Level};

/// How the processes of a launcher are contained, and why not more firmly.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ContainmentReport {
    /// The level in force.
    pub level: ContainmentLevel,
    /// One PID namespace for all of them.
    pub shared_namespace: bool,
    /// They are in a user namespace: the host is not privileged, and their user and group ids cannot be changed.
    pub user_namespace: bool,
    /// The stronger levels that were tried, strongest first.
    pub refused: Vec<LevelRefused>,
}

impl fmt::Display for ContainmentReport {
    /// As in `subreaper (no namespace: ...; no cgroup: ...)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.level)?;
        if self.shared_namespace {
            write!(f, ", one for all")?;
        }
        if self.user_namespace {
            write!(f, ", in a user namespace")?;
        }
        for (n, refused) in self.refused.iter().enumerate() {
            write!(f, "{}{refused}", if n == 0 { " (" } else { "; " })?;
        }
        if !self.refused.is_empty() {
            write!(f, ")")?;
        }
        Ok(())
    }
}

/// A level that is not available here.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LevelRefused {
    /// The level.
    pub level: ContainmentLevel,
    /// What stood in the way.
    pub reason: String,
    /// Whether trying again without a change cannot help.
    pub is_definite: bool,
}

impl fmt::Display for LevelRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no {}: {}", self.level, self.reason)
    }
}

/// Why there is no guardian.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContainmentError {
    /// The level that was asked for is not available. There is no other that is taken instead.
    #[error("containment level `{level}` is not available here")]
    Unavailable {
        /// The level.
        level: ContainmentLevel,
        /// What stood in the way.
        #[source]
        source: GuardianError,
    },
    /// Not even the weakest level is available.
    #[error("no containment level is available here: {}", refused.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    NoneAvailable {
        /// The levels that were tried, strongest first.
        refused: Vec<LevelRefused>,
    },
    /// A level that this backend does not have.
    #[error("the exec backend has no containment level `{0}`; there are: subreaper, cgroup, namespace")]
    NoSuchLevel(ContainmentLevel),
    /// A shared namespace was asked for with a level that has none.
    #[error("a shared namespace needs containment level `namespace`, and `{0}` was asked for")]
    NothingToShare(ContainmentLevel),
}

impl ContainmentError {
    /// Whether trying again without a change cannot help.
    pub fn is_definite(&self) -> bool {
        match self {
            Self::Unavailable { source, .. } => source.is_definite(),
            Self::NoneAvailable { refused } => refused.iter().all(|level| level.is_definite),
            Self::NoSuchLevel(_) | Self::NothingToShare(_) => true,
        }
    }

    /// What a launch makes of it.
    pub(crate) fn into_launch_error(self) -> LaunchError {
        if self.is_definite() {
            LaunchError::Backend {
                launcher: NAME.to_owned(),
                source: self.into(),
            }
        } else {
            os("start the guardian")(io::Error::other(self))
        }
    }
}

/// Why a guardian did not come to be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuardianError {
    /// A preparation in the host failed.
    #[error("cannot {step}")]
    Os {
        /// What was tried, as in `create the socket to the guardian`.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// There is no cgroup to be had.
    #[error("cannot create a cgroup below {}", parent.display())]
    Cgroup {
        /// The parent.
        parent: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It says what it cannot do.
    #[error("the guardian cannot {step}")]
    Refused {
        /// What it tried, as in `mount a fresh /proc`.
        step: &'static str,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// It gave no answer.
    #[error("the guardian gave no answer within {0:?}")]
    Silent(Duration),
    /// It ended without an answer.
    #[error("the guardian ended before it was ready{}{said}", if said.is_empty() { "" } else { ": " })]
    Ended {
        /// What it wrote to its standard error, as a loader does that misses a library; empty where it wrote nothing.
        said: String,
    },
    /// It said something that cannot be.
    #[error("the guardian does not speak this protocol")]
    Protocol,
}

impl GuardianError {
    /// Whether trying again without a change cannot help: the system said no, and not for being short of something.
    pub fn is_definite(&self) -> bool {
        match self {
            Self::Os { source, .. } | Self::Cgroup { source, .. } | Self::Refused { source, .. } => {
                !is_passing(source)
            }
            Self::Protocol => true,
            Self::Silent(_) | Self::Ended { .. } => false,
        }
    }
}

/// Whether an error tells of a shortage, or of bad timing.
pub(crate) fn is_passing(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::AGAIN
                | Errno::BUSY
                | Errno::DQUOT
                | Errno::INTR
                | Errno::MFILE
                | Errno::NFILE
                | Errno::NOBUFS
                | Errno::NOMEM
                | Errno::NOSPC
                | Errno::SRCH
                | Errno::TIMEDOUT
                | Errno::TXTBSY
        )
    )
}

/// The level by which users know what the guardian does.
pub(crate) fn level_of(level: Level) -> ContainmentLevel {
    match level {
        Level::Subreaper => ContainmentLevel::Subreaper,
        Level::Cgroup => ContainmentLevel::Cgroup,
        Level::Namespace | Level::SharedNamespace => ContainmentLevel::Namespace,
    }
}

/// An error and all its causes in one line.
pub(crate) fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_as_one_line() {
        let mut report = ContainmentReport {
            level: ContainmentLevel::Namespace,
            shared_namespace: true,
            user_namespace: true,
            refused: Vec::new(),
        };
        assert_eq!(report.to_string(), "namespace, one for all, in a user namespace");
        report = ContainmentReport {
            level: ContainmentLevel::Subreaper,
            shared_namespace: false,
            user_namespace: false,
            refused: [ContainmentLevel::Namespace, ContainmentLevel::Cgroup]
                .map(|level| LevelRefused {
                    level,
                    reason: in_full(&GuardianError::Refused {
                        step: "fly",
                        source: io::Error::other("no wings"),
                    }),
                    is_definite: true,
                })
                .into(),
        };
        assert_eq!(
            report.to_string(),
            "subreaper (no namespace: the guardian cannot fly: no wings; \
             no cgroup: the guardian cannot fly: no wings)"
        );
    }

    #[test]
    fn only_what_stays_as_it_is_makes_a_launch_definite() {
        let refused = |errno: Errno| GuardianError::Refused {
            step: "make a PID namespace",
            source: errno.into(),
        };
        for (source, definite) in [
            (refused(Errno::PERM), true),
            (refused(Errno::NOSYS), true),
            (refused(Errno::NOMEM), false),
            (refused(Errno::NOSPC), false),
            (GuardianError::Ended { said: String::new() }, false),
            (GuardianError::Silent(Duration::ZERO), false),
        ] {
            let level = ContainmentLevel::Namespace;
            let error = ContainmentError::Unavailable { level, source };
            let told = error.to_string();
            assert_eq!(error.is_definite(), definite, "{error:?}");
            let launch = error.into_launch_error();
            assert_eq!(launch.is_definite(), definite, "{launch:?}");
            assert!(in_full(&launch).contains(&told), "{launch:?}");
        }
    }
}
