//! Settings only some backends can honour.

/// Settings that need a backend able to honour them; one that cannot answers
/// [`LaunchError::Unsupported`](super::LaunchError::Unsupported), and so does one whose machine cannot.
///
/// ```
/// use snakepit_core::launch::LaunchLimits;
///
/// let limits = LaunchLimits::default().with_nice(10).with_memory_bytes(512 << 20);
/// assert_eq!(limits.named().collect::<Vec<_>>(), ["nice", "memory_bytes"]);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct LaunchLimits {
    /// Run as this user id, setresuid(2).
    pub uid: Option<u32>,
    /// Run as this group id, setresgid(2).
    pub gid: Option<u32>,
    /// Supplementary group ids, setgroups(2). Unset with a `uid` means none; unset without one, the host's.
    pub groups: Option<Vec<u32>>,
    /// Scheduling niceness, -20 to 19.
    pub nice: Option<i32>,
    /// Limits of setrlimit(2).
    pub rlimits: Vec<ResourceLimit>,
    /// How willingly the kernel kills it when memory runs out, -1000 to 1000: `oom_score_adj`, proc(5).
    pub oom_score_adj: Option<i32>,
    /// Memory of the whole process tree in bytes: `memory.max` of cgroup v2.
    pub memory_bytes: Option<u64>,
    /// Processes and threads of the whole tree: `pids.max` of cgroup v2.
    pub pids: Option<u64>,
    /// CPU of the whole tree in cores, as 1.5: `cpu.max` of cgroup v2.
    pub cpu_cores: Option<f64>,
}

/// One limit of setrlimit(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceLimit {
    /// Which, as in `RLIMIT_NOFILE`, by the number of the system's headers.
    pub resource: u32,
    /// The limit in force; `u64::MAX` is none.
    pub soft: u64,
    /// How far the process may raise it; `u64::MAX` is without end.
    pub hard: u64,
}

impl LaunchLimits {
    /// The names of the settings that are set.
    pub fn named(&self) -> impl Iterator<Item = &'static str> {
        let Self {
            uid,
            gid,
            groups,
            nice,
            rlimits,
            oom_score_adj,
            memory_bytes,
            pids,
            cpu_cores,
        } = self;
        [
            uid.map(|_| "uid"),
            gid.map(|_| "gid"),
            groups.as_ref().map(|_| "groups"),
            nice.map(|_| "nice"),
            rlimits.first().map(|_| "rlimits"),
            oom_score_adj.map(|_| "oom_score_adj"),
            memory_bytes.map(|_| "memory_bytes"),
            pids.map(|_| "pids"),
            cpu_cores.map(|_| "cpu_cores"),
        ]
        .into_iter()
        .flatten()
    }

    /// Whether one of the settings needs a cgroup.
    pub fn needs_cgroup(&self) -> bool {
        self.memory_bytes.is_some() || self.pids.is_some() || self.cpu_cores.is_some()
    }

    /// Sets [`uid`](Self::uid).
    #[must_use]
    pub fn with_uid(self, uid: u32) -> Self {
        let uid = Some(uid);
        Self { uid, ..self }
    }

    /// Sets [`gid`](Self::gid).
    #[must_use]
    pub fn with_gid(self, gid: u32) -> Self {
        let gid = Some(gid);
        Self { gid, ..self }
    }

    /// Sets [`groups`](Self::groups).
    #[must_use]
    pub fn with_groups(self, groups: impl IntoIterator<Item = u32>) -> Self {
        let groups = Some(groups.into_iter().collect());
        Self { groups, ..self }
    }

    /// Sets [`nice`](Self::nice).
    #[must_use]
    pub fn with_nice(self, nice: i32) -> Self {
        let nice = Some(nice);
        Self { nice, ..self }
    }

    /// Adds one of [`rlimits`](Self::rlimits).
    #[must_use]
    pub fn with_rlimit(mut self, limit: ResourceLimit) -> Self {
        self.rlimits.push(limit);
        self
    }

    /// Sets [`oom_score_adj`](Self::oom_score_adj).
    #[must_use]
    pub fn with_oom_score_adj(self, adj: i32) -> Self {
        let oom_score_adj = Some(adj);
        Self {
            oom_score_adj,
            ..self
        }
    }

    /// Sets [`memory_bytes`](Self::memory_bytes).
    #[must_use]
    pub fn with_memory_bytes(self, bytes: u64) -> Self {
        let memory_bytes = Some(bytes);
        Self { memory_bytes, ..self }
    }

    /// Sets [`pids`](Self::pids).
    #[must_use]
    pub fn with_pids(self, pids: u64) -> Self {
        let pids = Some(pids);
        Self { pids, ..self }
    }

    /// Sets [`cpu_cores`](Self::cpu_cores).
    #[must_use]
    pub fn with_cpu_cores(self, cores: f64) -> Self {
        let cpu_cores = Some(cores);
        Self { cpu_cores, ..self }
    }
}
