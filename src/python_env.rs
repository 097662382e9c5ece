//! Which interpreter the workers run on, and where they find the worker package.
//!
//! [`PythonEnv::discover`] takes what is there: it finds a Python and, in a checkout, lays the worker package that
//! cargo built into the user's cache. It never touches the network and never makes a virtual environment, so a
//! service may call it when it starts. Only [`with_packages`](PythonEnvBuilder::with_packages) does those two.
//!
//! - **Interpreter**: the one given; else `$SNAKEPIT_PYTHON`, the active `$VIRTUAL_ENV`, each `python3` on `$PATH`,
//!   each `python3.N` there. The first CPython of at least [`MINIMUM`] wins. What is found is always the
//!   interpreter itself, never a shim in front of it: a pyenv shim costs every start 70 ms and more.
//! - **Worker package**: `$SNAKEPIT_WORKER_PACKAGE`; else the one installed in a given interpreter, if it is of this
//!   version; else the one cargo built beside this program; else the one installed in the found interpreter.
//!
//! Everything here blocks: on files, and on short runs of an interpreter the first time it is seen. In async code
//! call it inside `spawn_blocking`. Results are kept in the cache, keyed by path and modification time, so a second
//! look takes well under a millisecond and starts no process.

mod cache;
mod command;
mod compile;
mod error;
mod find;
mod interpreter;
mod lay;
mod memo;
mod packages;
mod probe;
mod prune;
mod run;
mod step;
mod surroundings;
mod worker_package;

use std::{
    ffi::OsString,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use command::PythonCommand;
pub(crate) use command::THREADS;
pub use error::PythonEnvError;
pub use find::Candidate;
pub use interpreter::{Interpreter, MINIMUM, PythonVersion, Unfit};
pub use step::Step;

use step::Observer;
pub use worker_package::{WorkerPackage, WorkerPackageSource};

use cache::Cache;
use surroundings::Surroundings;

/// An interpreter together with the worker package it will run.
///
/// Cheap to clone. Keep it for as long as workers run: while it lives, nobody prunes the files it points to.
#[derive(Clone, Debug)]
pub struct PythonEnv {
    interpreter: Interpreter,
    package: WorkerPackage,
    venv: Option<PathBuf>,
}

impl PythonEnv {
    /// Finds an interpreter and the worker package, using only what this machine already has.
    ///
    /// # Errors
    /// When no interpreter serves (each candidate is listed with why not) or there is no worker package.
    pub fn discover() -> Result<Self, PythonEnvError> {
        Self::builder().build()
    }

    /// Further choices.
    pub fn builder() -> PythonEnvBuilder {
        PythonEnvBuilder::default()
    }

    /// Every interpreter [`discover`](Self::discover) would consider, in its order, and what is wrong with those
    /// that do not serve. It looks at all of them, so it may start several interpreters.
    pub fn candidates() -> Vec<Candidate> {
        let surroundings = Surroundings::of_process();
        let cache = Cache::locate(&surroundings).ok();
        find::survey(&surroundings, cache.as_ref())
    }

    /// The interpreter. With packages it is the virtual environment's.
    pub fn interpreter(&self) -> &Interpreter {
        &self.interpreter
    }

    /// The worker package.
    pub fn worker_package(&self) -> &WorkerPackage {
        &self.package
    }

    /// The virtual environment that was made for the packages asked for.
    pub fn venv(&self) -> Option<&Path> {
        self.venv.as_deref()
    }

    /// How a worker of a pool of this size is started.
    ///
    /// The size decides how many threads the numeric libraries of one worker may start: the machine's cores are
    /// shared out, so that a pool does not start cores times workers threads. A variable that is set in this
    /// process's environment is left as it is.
    pub fn command(&self, workers: NonZeroUsize) -> PythonCommand {
        command::worker_command(self, workers, &|name| std::env::var_os(name))
    }
}

/// Choices for a [`PythonEnv`].
#[derive(Clone, Debug, Default)]
#[must_use = "nothing happens before `build`"]
pub struct PythonEnvBuilder {
    interpreter: Option<PathBuf>,
    packages: Vec<String>,
    cache_dir: Option<PathBuf>,
    search_path: Option<OsString>,
    observer: Observer,
}

impl PythonEnvBuilder {
    /// Uses this interpreter: a path, the directory of a virtual environment, or a name to look up in `$PATH`.
    pub fn interpreter(mut self, interpreter: impl Into<PathBuf>) -> Self {
        self.interpreter = Some(interpreter.into());
        self
    }

    /// Makes these packages importable, given as `pip install` takes them (`numpy`, `pandas==2.3`).
    ///
    /// They are installed into a virtual environment in the cache: by `uv` where it is on `$PATH`, else by
    /// `python -m venv` and pip. The environment is keyed by interpreter and packages; the second time it is
    /// merely used, with no look at the network.
    pub fn with_packages<I, S>(mut self, packages: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        self.packages.extend(packages.into_iter().map(Into::into));
        self
    }

    /// Keeps everything below this directory instead of `$XDG_CACHE_HOME/snakepit` or `~/.cache/snakepit`.
    pub fn cache_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.cache_dir = Some(dir.into());
        self
    }

    /// Looks for interpreters and tools here instead of in `$PATH`, in the same form, and passes over
    /// `$SNAKEPIT_PYTHON` and `$VIRTUAL_ENV`.
    pub fn search_path(mut self, path: impl Into<OsString>) -> Self {
        self.search_path = Some(path.into());
        self
    }

    /// Is told of each step that may take a moment, before it begins.
    pub fn on_step(mut self, observer: impl Fn(&Step) + Send + Sync + 'static) -> Self {
        self.observer = Observer::new(Arc::new(observer));
        self
    }

    /// What can be said before anything is looked for.
    #[cfg(feature = "config")]
    pub(crate) fn check(&self) -> Result<(), PythonEnvError> {
        packages::validate(&self.packages)
    }

    /// Finds and prepares everything.
    ///
    /// # Errors
    /// Which step failed, and what would help: see [`PythonEnvError`].
    pub fn build(self) -> Result<PythonEnv, PythonEnvError> {
        let mut surroundings = Surroundings::of_process();
        if let Some(path) = self.search_path {
            surroundings.path = Some(path);
            surroundings.python = None;
            surroundings.virtual_env = None;
        }
        if let Some(dir) = self.cache_dir {
            surroundings.cache_dir = Some(dir);
        }
        packages::validate(&self.packages)?;
        // A machine on which nothing can be written still has a Python with the wheel installed.
        let cache = Cache::locate(&surroundings);
        let found = find::find(
            &surroundings,
            cache.as_ref().ok(),
            self.interpreter.as_deref(),
            &self.observer,
        )?;
        let (interpreter, venv) = if self.packages.is_empty() {
            (found, None)
        } else {
            let cache = cache.as_ref().map_err(Clone::clone)?;
            let made = packages::ensure(&surroundings, cache, &found, &self.packages, &self.observer)?;
            (made.interpreter, Some(made.dir))
        };
        let package = worker_package::choose(
            &surroundings,
            cache,
            &interpreter,
            self.interpreter.is_some() && venv.is_none(),
            &self.observer,
        )?;
        Ok(PythonEnv {
            interpreter,
            package,
            venv,
        })
    }
}
