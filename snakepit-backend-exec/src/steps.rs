//! What the guardian was doing when it failed, in words and as errors.

use std::io;

use snakepit_core::launch::LaunchError;

use crate::{request::Program, wire::Step};

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

    /// What whoever launched `program` is told. In a user namespace some settings cannot be had at all.
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
            Step::Uid | Step::Gid | Step::Groups if user_namespace => LaunchError::Unavailable {
                setting: match self.step {
                    Step::Uid => "uid",
                    Step::Gid => "gid",
                    _ => "groups",
                },
                reason: "the host is not privileged, and in its user namespace there is only its own user and group; \
                         leave it unset or run the host as root"
                    .to_owned(),
                source: Some(source),
            },
            step => LaunchError::Os {
                step: words(step),
                source,
            },
        }
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
