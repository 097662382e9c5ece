//! What can go wrong before a worker can be started, with what would help.

use std::{
    fmt::{self, Write as _},
    io,
    path::PathBuf,
    sync::Arc,
};

use super::{find::Candidate, interpreter::Unfit};

/// No usable Python environment. The text names what was tried and what would help; it may have several lines.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PythonEnvError {
    /// No interpreter was given, and none that was found serves.
    #[error("no usable Python found{}\nhelp: install Python 3.11 or newer (Debian: apt install python3), or name an interpreter with --python or SNAKEPIT_PYTHON", list(.rejected))]
    NoInterpreter {
        /// What was looked at, in order.
        rejected: Vec<Candidate>,
    },
    /// The interpreter that was asked for does not serve.
    #[error("{origin} {} {unfit}", .interpreter.display())]
    Interpreter {
        /// The interpreter as given.
        interpreter: PathBuf,
        /// Who asked for it, as in `SNAKEPIT_PYTHON`.
        origin: &'static str,
        /// Why it does not serve.
        unfit: Unfit,
    },
    /// The worker package was found nowhere.
    #[error("no worker package for {}{}\nhelp: {}", .interpreter.display(), bullets(.looked), package_help())]
    NoWorkerPackage {
        /// The interpreter that was to run it.
        interpreter: PathBuf,
        /// Where it was looked for, and what was wrong there.
        looked: Vec<String>,
    },
    /// `$SNAKEPIT_WORKER_PACKAGE` does not hold the package.
    #[error("SNAKEPIT_WORKER_PACKAGE={} does not hold the package: there is no {missing}\nhelp: name the directory that contains the directory `snakepit`", .dir.display())]
    BadWorkerPackage {
        /// The directory as given.
        dir: PathBuf,
        /// What is not there.
        missing: &'static str,
    },
    /// The worker package, which has a native module, lies where the system loads none from.
    #[error("the worker package in {} cannot be loaded: that file system is mounted noexec\nhelp: put the package elsewhere", .dir.display())]
    NoexecWorkerPackage {
        /// The directory that holds the package.
        dir: PathBuf,
    },
    /// There is nowhere to keep things.
    #[error("no usable cache directory{}\nhelp: set XDG_CACHE_HOME to a directory that is yours, writable and not mounted noexec", bullets(.tried))]
    NoCacheDir {
        /// Each directory that was tried, and what was wrong with it.
        tried: Vec<String>,
    },
    /// A file operation failed.
    #[error("cannot {step} {}", .path.display())]
    File {
        /// What was tried, as in `write`.
        step: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system answered.
        #[source]
        source: Arc<io::Error>,
    },
    /// A package was asked for in a way that cannot be one.
    #[error("`{spec}` is not a package: {why}")]
    BadPackage {
        /// As given.
        spec: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The virtual environment could not be made.
    #[error("cannot make a virtual environment with {tool}: {output}\nhelp: {remedy}")]
    Venv {
        /// By `uv` or by `python -m venv`.
        tool: &'static str,
        /// What it said last.
        output: String,
        /// What would help.
        remedy: String,
    },
    /// The packages could not be installed.
    #[error("cannot install {} with {tool}: {output}", .packages.join(", "))]
    Install {
        /// By `uv` or by pip.
        tool: &'static str,
        /// What was asked for.
        packages: Vec<String>,
        /// What it said last.
        output: String,
    },
}

impl PythonEnvError {
    /// Whether the same attempt may succeed later without anybody changing anything: a download may.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Install { .. })
    }

    pub(super) fn file(step: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File {
            step,
            path,
            source: Arc::new(source),
        }
    }
}

fn list(candidates: &[Candidate]) -> String {
    if candidates.is_empty() {
        return ": there is no python3 in PATH".to_owned();
    }
    bullets(candidates)
}

fn bullets<T: fmt::Display>(lines: &[T]) -> String {
    lines.iter().fold(String::new(), |mut text, line| {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n  - {line}");
        text
    })
}

fn package_help() -> String {
    format!(
        "install the wheel into that interpreter (pip install snakepit=={version}), or set SNAKEPIT_WORKER_PACKAGE to a \
         directory that holds the package, or run from a checkout (cargo builds the package there)",
        version = env!("CARGO_PKG_VERSION")
    )
}
