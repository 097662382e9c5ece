//! What the guardian was doing when it failed, in words and as errors.

use std::io;

use snakepit_core::launch::LaunchError;

use crate::{containment::is_passing, request::Program, wire::Step};

/// What failed in the guardian, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) step: Step,
    pub(crate) errno: i32,
}

impl Failure {
    /// From the numbers of a message; a step that is not known is one of the protocol.
    pub(crate) fn from_numbers(step: i64, errno: i64) -> Self {
        Self {
            step: Step::from_number(step).unwrap_or(Step::Protocol),
            errno: i32::try_from(errno).unwrap_or(libc::EPROTO),
        }
    }

    pub(crate) fn source(self) -> io::Error {
        io::Error::from_raw_os_error(self.errno)
    }

    /// What whoever launched `program` is told. A setting that is refused will be refused again.
    pub(crate) fn launch_error(self, program: &Program, user_namespace: bool) -> LaunchError {
        let source = self.source();
        match self.step {
            Step::Exec => LaunchError::Exec {
                program: program.name.clone(),
                source,
            },
            Step::Cwd => LaunchError::Cwd {
                path: program.cwd.clone().unwrap_or_default(),
                source,
            },
            step => match setting(step) {
                Some(setting) if !is_passing(&source) => LaunchError::Unavailable {
                    setting,
                    reason: self.reason(user_namespace),
                    source: Some(source),
                },
                _ => LaunchError::Os {
                    step: words(step),
                    source,
                },
            },
        }
    }

    /// Why a setting cannot be had, and what would help.
    fn reason(self, user_namespace: bool) -> String {
        let is_user = matches!(self.step, Step::Uid | Step::Gid | Step::Groups);
        match (is_user, self.errno) {
            (true, _) if user_namespace => {
                "the host is not privileged, and in its user namespace there is only its own user and group; \
                 leave it unset or run the host as root"
            }
            (_, libc::EPERM | libc::EACCES) => {
                "the host is not privileged to; leave it unset or run the host as root"
            }
            _ => "the system does not take this value",
        }
        .to_owned()
    }
}

/// The setting that a step puts into force, as named in [`snakepit_core::launch::LaunchLimits`].
const fn setting(step: Step) -> Option<&'static str> {
    match step {
        Step::Uid => Some("uid"),
        Step::Gid => Some("gid"),
        Step::Groups => Some("groups"),
        Step::Nice => Some("nice"),
        Step::OomScore => Some("oom_score_adj"),
        Step::Rlimits => Some("rlimits"),
        _ => None,
    }
}

/// Reads after "cannot".
pub(crate) const fn words(step: Step) -> &'static str {
    match step {
        Step::Protocol => "understand what the host sent",
        Step::Session => "make a session of its own",
        Step::Subreaper => "become a subreaper",
        Step::Signals => "read its signals from a descriptor",
        Step::UserNamespace => "make a user namespace",
        Step::IdMap => "map the user and group into a user namespace",
        Step::PidNamespace => "make a PID namespace",
        Step::MountProc => "mount a fresh /proc",
        Step::Fork => "create the process",
        Step::EnterCgroup => "put the process into its cgroup",
        Step::ReadSpec => "read what to execute",
        Step::WorkerSession => "make a session for the process",
        Step::Descriptors => "set the descriptors",
        Step::Rlimits => "set the resource limits",
        Step::Nice => "set the niceness",
        Step::OomScore => "set oom_score_adj",
        Step::Groups => "set the supplementary groups",
        Step::Gid => "set the group",
        Step::Uid => "set the user",
        Step::Cwd => "change the working directory",
        Step::DeathSignal => "bind the process to its keeper",
        Step::Exec => "execute the program",
        Step::Plumbing => "create the pipes of a keeper",
    }
}
