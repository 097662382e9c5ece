//! An interpreter that serves, and why another does not.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

/// The oldest Python that serves: the buffer protocol joined the stable ABI in 3.11.
pub const MINIMUM: PythonVersion = PythonVersion {
    major: 3,
    minor: 11,
    patch: 0,
};

/// A version of Python.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct PythonVersion {
    /// As the 3 in 3.11.2.
    pub major: u32,
    /// As the 11 in 3.11.2.
    pub minor: u32,
    /// As the 2 in 3.11.2.
    pub patch: u32,
}

impl PythonVersion {
    /// Reads `3.11.2`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('.').map(str::parse);
        let mut next = || parts.next()?.ok();
        let version = Self {
            major: next()?,
            minor: next()?,
            patch: next()?,
        };
        Some(version)
    }
}

impl fmt::Display for PythonVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// An interpreter that serves: CPython, new enough, and it answered.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Interpreter {
    pub(super) path: PathBuf,
    pub(super) version: PythonVersion,
    pub(super) free_threaded: bool,
    pub(super) site_dirs: Vec<PathBuf>,
}

impl Interpreter {
    /// The executable itself: Python's own `sys.executable`. Links of a virtual environment are not resolved, for
    /// its `python` finds its packages by the path it is started by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its version.
    pub fn version(&self) -> PythonVersion {
        self.version
    }

    /// Whether it is built without the GIL. Such a build cannot load the stable-ABI library that cargo builds; it
    /// needs the worker package's own wheel installed.
    pub fn is_free_threaded(&self) -> bool {
        self.free_threaded
    }

    /// The version of the package `snakepit` that is installed in it, by its metadata.
    pub(super) fn installed_package(&self) -> Option<InstalledPackage> {
        self.site_dirs.iter().find_map(|dir| {
            let version = std::fs::read_dir(dir).ok()?.flatten().find_map(|entry| {
                let name = entry.file_name();
                let version = name
                    .to_str()?
                    .strip_prefix("snakepit-")?
                    .strip_suffix(".dist-info")?;
                Some(version.to_owned())
            })?;
            Some(InstalledPackage {
                dir: dir.clone(),
                version,
            })
        })
    }
}

/// The package `snakepit` as pip installed it.
#[derive(Clone, Debug)]
pub(super) struct InstalledPackage {
    pub(super) dir: PathBuf,
    pub(super) version: String,
}

/// Why an interpreter does not serve.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unfit {
    /// There is no such file, or it may not be executed.
    #[error("cannot be executed: {0}")]
    NotExecutable(std::sync::Arc<io::Error>),
    /// A directory, and no virtual environment.
    #[error("is a directory without bin/python, and so no virtual environment")]
    NoEnvironment,
    /// There is no such name in `$PATH`.
    #[error("is not on PATH")]
    NotOnPath,
    /// Older than [`MINIMUM`].
    #[error("is Python {0}, too old: {minimum} or newer is needed", minimum = Short(MINIMUM))]
    TooOld(PythonVersion),
    /// Another implementation of Python.
    #[error("is {0}, but the worker package needs CPython")]
    NotCPython(String),
    /// It ran and did not do what Python does.
    #[error("does not work: {0}")]
    Broken(String),
    /// It did not answer.
    #[error("did not answer within {0:?}")]
    NoAnswer(Duration),
}

/// A version without its patch level.
struct Short(PythonVersion);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0.major, self.0.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_read_and_compare_as_numbers() {
        let version = |text| PythonVersion::parse(text).unwrap();
        assert!(version("3.9.18") < version("3.11.0"));
        assert!(version("3.11.2") >= MINIMUM);
        assert_eq!(version("3.12.1").to_string(), "3.12.1");
        for text in ["", "3", "3.11", "3.x.1", "Python 3.11.2"] {
            assert!(PythonVersion::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn an_old_version_is_told_with_the_minimum() {
        let old = Unfit::TooOld(PythonVersion {
            major: 3,
            minor: 9,
            patch: 1,
        });
        assert_eq!(
            old.to_string(),
            "is Python 3.9.1, too old: 3.11 or newer is needed"
        );
    }
}
