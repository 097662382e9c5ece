//! The backends under test.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use snakepit_backend_exec::{ExecLauncher, ExecSettings};
use snakepit_backend_port::PortLauncher;
use snakepit_core::{launch::Launcher, process::ContainmentLevel};

/// A backend, at one containment level where it has several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum System {
    /// Direct children.
    Port,
    /// Below the guardian, a PID namespace for each worker.
    Namespace,
    /// Below the guardian, one PID namespace for all.
    Shared,
    /// Below the guardian, a cgroup for each worker.
    Cgroup,
    /// Below the guardian, a subreaper for each worker.
    Subreaper,
}

impl System {
    /// Those of the exec backend, strongest first.
    pub(crate) const EXEC: [Self; 4] = [Self::Namespace, Self::Shared, Self::Cgroup, Self::Subreaper];

    /// All of them.
    pub(crate) const ALL: [Self; 5] = [
        Self::Namespace,
        Self::Shared,
        Self::Cgroup,
        Self::Subreaper,
        Self::Port,
    ];

    /// A launcher of its own.
    pub(crate) fn launcher(self) -> Arc<dyn Launcher> {
        let exec = |level| ExecSettings::default().with_containment(level);
        let settings = match self {
            Self::Port => return Arc::new(PortLauncher::new()),
            Self::Namespace => exec(ContainmentLevel::Namespace),
            Self::Shared => exec(ContainmentLevel::Namespace).with_shared_namespace(true),
            Self::Cgroup => exec(ContainmentLevel::Cgroup),
            Self::Subreaper => exec(ContainmentLevel::Subreaper),
        };
        Arc::new(ExecLauncher::new(settings))
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Port => "port",
            Self::Namespace => "exec, namespace",
            Self::Shared => "exec, shared namespace",
            Self::Cgroup => "exec, cgroup",
            Self::Subreaper => "exec, subreaper",
        })
    }
}
