//! What the process's environment says, read once, so that the rules below are functions of values.

use std::{env, ffi::OsString, path::PathBuf};

/// The parts of the environment that decide what is found.
#[derive(Clone, Debug, Default)]
pub(super) struct Surroundings {
    /// `$PATH`.
    pub(super) path: Option<OsString>,
    /// `$SNAKEPIT_PYTHON`: the interpreter to use.
    pub(super) python: Option<OsString>,
    /// `$VIRTUAL_ENV`: the active virtual environment.
    pub(super) virtual_env: Option<PathBuf>,
    /// `$SNAKEPIT_WORKER_PACKAGE`: a directory that holds the package `snakepit`.
    pub(super) worker_package: Option<PathBuf>,
    /// A cache directory given by the caller.
    pub(super) cache_dir: Option<PathBuf>,
    /// `$XDG_CACHE_HOME`.
    pub(super) xdg_cache_home: Option<PathBuf>,
    /// `$HOME`.
    pub(super) home: Option<PathBuf>,
    /// The directory for temporary files.
    pub(super) temp: PathBuf,
    /// The working directory; shims may choose an interpreter by it.
    pub(super) cwd: Option<PathBuf>,
    /// `$PYENV_VERSION`; pyenv's shims choose an interpreter by it.
    pub(super) pyenv_version: Option<OsString>,
    /// The running executable.
    pub(super) exe: Option<PathBuf>,
}

impl Surroundings {
    /// Those of this process. An empty variable counts as one that is not set.
    pub(super) fn of_process() -> Self {
        let var = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        let dir = |name: &str| var(name).map(PathBuf::from);
        Self {
            path: var("PATH"),
            python: var("SNAKEPIT_PYTHON"),
            virtual_env: dir("VIRTUAL_ENV"),
            worker_package: dir("SNAKEPIT_WORKER_PACKAGE"),
            cache_dir: None,
            // The XDG specification tells us to ignore a relative path.
            xdg_cache_home: dir("XDG_CACHE_HOME").filter(|path| path.is_absolute()),
            home: dir("HOME").filter(|path| path.is_absolute()),
            temp: env::temp_dir(),
            cwd: env::current_dir().ok(),
            pyenv_version: var("PYENV_VERSION"),
            exe: env::current_exe().ok(),
        }
    }

    /// The directories of `$PATH`. Empty and relative entries mean the working directory, from which nothing is
    /// run by accident here.
    pub(super) fn path_dirs(&self) -> Vec<PathBuf> {
        let Some(path) = &self.path else {
            return Vec::new();
        };
        env::split_paths(path).filter(|dir| dir.is_absolute()).collect()
    }
}
