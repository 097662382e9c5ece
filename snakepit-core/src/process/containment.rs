//! What keeps a process tree together.

use std::{fmt, path::PathBuf, str::FromStr};

use super::ProcessIdentity;

/// How firmly a process tree is held, weakest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ContainmentLevel {
    /// By nothing but its group, its ancestry and its environment.
    #[default]
    None,
    /// Below a subreaper of its own, prctl(2): orphans come back to it.
    Subreaper,
    /// In a cgroup of its own, besides a subreaper: the kernel kills it as a whole.
    Cgroup,
    /// In a PID namespace of its own, pid_namespaces(7): the kernel ends it with its first process.
    Namespace,
}

impl ContainmentLevel {
    /// Every level, weakest first.
    pub const ALL: [Self; 4] = [Self::None, Self::Subreaper, Self::Cgroup, Self::Namespace];

    /// The name by which users choose it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Subreaper => "subreaper",
            Self::Cgroup => "cgroup",
            Self::Namespace => "namespace",
        }
    }
}

impl fmt::Display for ContainmentLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no containment level has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no containment level `{0}`; there are: none, subreaper, cgroup, namespace")]
pub struct ParseLevelError(String);

impl FromStr for ContainmentLevel {
    type Err = ParseLevelError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|level| level.name() == name);
        found.ok_or_else(|| ParseLevelError(name.to_owned()))
    }
}

/// What keeps one process tree together, as far as somebody who finds it later can use it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Containment {
    /// How firmly.
    pub level: ContainmentLevel,
    /// The process that keeps it: the first process of its PID namespace, or its subreaper. Where the level is
    /// [`Namespace`](ContainmentLevel::Namespace) the tree dies with it.
    pub keeper: Option<ProcessIdentity>,
    /// The directory of its own cgroup.
    pub cgroup: Option<PathBuf>,
}

impl Containment {
    /// A level, with nothing known but that.
    pub fn new(level: ContainmentLevel) -> Self {
        Self {
            level,
            ..Self::default()
        }
    }

    /// Sets [`keeper`](Self::keeper).
    #[must_use]
    pub fn with_keeper(self, keeper: ProcessIdentity) -> Self {
        let keeper = Some(keeper);
        Self { keeper, ..self }
    }

    /// Sets [`cgroup`](Self::cgroup).
    #[must_use]
    pub fn with_cgroup(self, cgroup: impl Into<PathBuf>) -> Self {
        let cgroup = Some(cgroup.into());
        Self { cgroup, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_read_back_from_their_names() {
        for level in ContainmentLevel::ALL {
            assert_eq!(level.to_string().parse(), Ok(level));
        }
        let error = "jail".parse::<ContainmentLevel>().unwrap_err().to_string();
        assert!(error.contains("`jail`") && error.contains("namespace"), "{error}");
    }
}
