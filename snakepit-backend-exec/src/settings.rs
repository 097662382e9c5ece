//! What can be set about the backend.

use std::{path::PathBuf, time::Duration};

use snakepit_core::process::ContainmentLevel;

/// Settings of an [`ExecLauncher`](crate::ExecLauncher) or an [`Exec`](crate::exec::Exec).
///
/// ```
/// use std::time::Duration;
/// use snakepit_backend_exec::ExecSettings;
/// use snakepit_core::process::ContainmentLevel;
///
/// let settings = ExecSettings::default()
///     .with_containment(ContainmentLevel::Namespace)
///     .with_host_death_grace(Duration::from_millis(500));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecSettings {
    pub(crate) containment: Option<ContainmentLevel>,
    pub(crate) shared_namespace: bool,
    pub(crate) host_death_grace: Duration,
    pub(crate) cgroup_parent: Option<PathBuf>,
    pub(crate) ping_interval: Duration,
    pub(crate) stuck_after: Duration,
    pub(crate) request_deadline: Duration,
}

impl Default for ExecSettings {
    fn default() -> Self {
        Self {
            containment: None,
            shared_namespace: false,
            host_death_grace: Duration::ZERO,
            cgroup_parent: None,
            ping_interval: Duration::from_secs(2),
            stuck_after: Duration::from_secs(10),
            request_deadline: Duration::from_secs(5),
        }
    }
}

impl ExecSettings {
    /// Asks for one level and no other: where it is not available nothing is started, and the error says why. The
    /// default, [`with_auto_containment`](Self::with_auto_containment), takes the strongest there is.
    #[must_use]
    pub fn with_containment(self, level: ContainmentLevel) -> Self {
        let containment = Some(level);
        Self { containment, ..self }
    }

    /// Takes the strongest level that is available: namespace, then cgroup, then subreaper. Which one it was, and what
    /// stood in the way of the stronger ones, is in the [`ContainmentReport`](crate::ContainmentReport).
    #[must_use]
    pub fn with_auto_containment(self) -> Self {
        let containment = None;
        Self { containment, ..self }
    }

    /// At the namespace level: one PID namespace for all processes instead of one for each. For workers that need each
    /// other's pids, as sharing memory between GPU processes does. Default: off.
    ///
    /// They see each other and may signal each other then. All still end together with the guardian.
    #[must_use]
    pub fn with_shared_namespace(self, shared: bool) -> Self {
        let shared_namespace = shared;
        Self {
            shared_namespace,
            ..self
        }
    }

    /// How long trees get from SIGTERM to SIGKILL when the host dies. Default: zero, which is SIGKILL at once, as nobody
    /// is left to wait for what they would still do. Counted in milliseconds.
    #[must_use]
    pub fn with_host_death_grace(self, grace: Duration) -> Self {
        let host_death_grace = grace;
        Self {
            host_death_grace,
            ..self
        }
    }

    /// The cgroup (version 2) below which cgroups are made, as `/sys/fs/cgroup/my.slice/workers`. Default: the one the
    /// host is in.
    ///
    /// Limits of memory, processes and CPU need a parent whose controllers can be handed on, and the kernel refuses
    /// that to a cgroup which itself has processes: cgroups(7), "no internal processes". A service with
    /// `Delegate=yes` names a sibling of its own cgroup here.
    #[must_use]
    pub fn with_cgroup_parent(self, parent: impl Into<PathBuf>) -> Self {
        let cgroup_parent = Some(parent.into());
        Self {
            cgroup_parent,
            ..self
        }
    }

    /// How often the guardian is asked for a sign of life. Default: 2 s. At least a millisecond.
    #[must_use]
    pub fn with_ping_interval(self, interval: Duration) -> Self {
        let ping_interval = interval.max(Duration::from_millis(1));
        Self {
            ping_interval,
            ..self
        }
    }

    /// How long the guardian may be silent before it counts as hanging, and is killed: its workers end then, and the
    /// next launch starts another guardian. Default: 10 s, as a machine that swaps may stop a process for seconds.
    ///
    /// Its death, unlike its hanging, is noticed at once.
    #[must_use]
    pub fn with_stuck_after(self, silence: Duration) -> Self {
        let stuck_after = silence;
        Self { stuck_after, ..self }
    }

    /// How long a start, or the execution of a program, may take the guardian. Default: 5 s, where milliseconds are usual.
    /// When it has passed, and the guardian gives no sign of life either, it counts as hanging.
    #[must_use]
    pub fn with_request_deadline(self, deadline: Duration) -> Self {
        let request_deadline = deadline;
        Self {
            request_deadline,
            ..self
        }
    }

    /// So often that a request which runs out of time has seen a ping answered, if any is.
    pub(crate) fn ping_every(&self) -> Duration {
        let most = self.request_deadline / 2;
        self.ping_interval.min(most).max(Duration::from_millis(1))
    }
}
