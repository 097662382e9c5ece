//! What [`PythonEnv`](super::PythonEnv) is busy with, for a progress display.

use std::{fmt, path::PathBuf, sync::Arc};

/// A step that may take a moment. Each is told before it begins and lasts until the next one is told.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// An interpreter seen for the first time is asked what it is.
    AskInterpreter(PathBuf),
    /// The worker package is laid into the cache.
    LayWorkerPackage,
    /// Another process makes the same thing; we wait for it.
    WaitForOther(PathBuf),
    /// A virtual environment is made.
    MakeVenv {
        /// Where.
        dir: PathBuf,
        /// By `uv` or by `python -m venv`.
        tool: &'static str,
    },
    /// Packages are downloaded and installed.
    InstallPackages(Vec<String>),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AskInterpreter(path) => write!(f, "asking {} what it is", path.display()),
            Self::LayWorkerPackage => f.write_str("laying the worker package into the cache"),
            Self::WaitForOther(path) => write!(f, "waiting for another process to make {}", path.display()),
            Self::MakeVenv { tool, .. } => write!(f, "making a virtual environment with {tool}"),
            Self::InstallPackages(packages) => write!(f, "installing {}", packages.join(", ")),
        }
    }
}

/// What an observer of steps is.
type OnStep = dyn Fn(&Step) + Send + Sync;

/// Whoever is told of steps, if anybody.
#[derive(Clone, Default)]
pub(super) struct Observer(Option<Arc<OnStep>>);

impl Observer {
    pub(super) fn new(on_step: Arc<OnStep>) -> Self {
        Self(Some(on_step))
    }

    pub(super) fn tell(&self, step: Step) {
        if let Some(on_step) = &self.0 {
            on_step(&step);
        }
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "Observer(set)"
        } else {
            "Observer(none)"
        })
    }
}
