//! The command line and environment of a worker.

use std::{env, ffi::OsString, num::NonZeroUsize, path::PathBuf, thread};

use snakepit_core::launch::NUMERIC_THREADS;

use super::PythonEnv;

/// The variable that the others fall back on: a user who sets it has decided for all.
pub(crate) const THREADS: &str = NUMERIC_THREADS[0];

/// `-m snakepit` without `runpy`, whose imports take a fifth of a worker's start.
const RUN: &str = "import sys; from snakepit.__main__ import main; sys.exit(main(sys.argv[1:]))";

/// How a worker is started: what a launcher needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PythonCommand {
    /// The interpreter itself.
    pub program: PathBuf,
    /// Its arguments, ending in what `python -m snakepit` would do; adapters come after them.
    pub args: Vec<OsString>,
    /// Variables to set on top of this process's environment.
    pub env: Vec<(OsString, OsString)>,
}

impl PythonCommand {
    /// Leaves the number of threads to variables that are set elsewhere.
    pub(crate) fn without_thread_limits(mut self) -> Self {
        self.env
            .retain(|(name, _)| !NUMERIC_THREADS.iter().any(|limit| name == limit));
        self
    }
}

pub(super) fn worker_command(
    python: &PythonEnv,
    workers: NonZeroUsize,
    var: &dyn Fn(&str) -> Option<OsString>,
) -> PythonCommand {
    let mut env = Vec::new();
    if let Some(dir) = python.package.python_path() {
        env.push(("PYTHONPATH".into(), in_front(dir.into(), var("PYTHONPATH"))));
    }
    for (name, value) in [("PYTHONFAULTHANDLER", "1"), ("PYTHONUNBUFFERED", "1")] {
        if var(name).is_none() {
            env.push((name.into(), value.into()));
        }
    }
    if var(THREADS).is_none() {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let threads = (cores / workers).max(1).to_string();
        for name in NUMERIC_THREADS {
            if var(name).is_none() {
                env.push((name.into(), threads.clone().into()));
            }
        }
    }
    PythonCommand {
        program: python.interpreter.path().to_path_buf(),
        // -P: `-c` would put the working directory first on sys.path, where any file could pass for a module. It is
        // an option and not PYTHONSAFEPATH, which a Python started by user code would inherit.
        args: ["-P", "-c", RUN].map(OsString::from).to_vec(),
        env,
    }
}

fn in_front(dir: PathBuf, rest: Option<OsString>) -> OsString {
    let Some(rest) = rest.filter(|rest| !rest.is_empty()) else {
        return dir.into_os_string();
    };
    // An empty entry would mean the working directory to Python.
    let rest = env::split_paths(&rest).filter(|dir| !dir.as_os_str().is_empty());
    // Our directory's name has no colon unless the user's cache directory has one; then only ours can be given.
    env::join_paths([dir.clone()].into_iter().chain(rest)).unwrap_or_else(|_| dir.into_os_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_directory_comes_first_and_the_working_directory_not_at_all() {
        let path = |rest: Option<&str>| in_front("/ours".into(), rest.map(OsString::from));
        assert_eq!(path(None), "/ours");
        assert_eq!(path(Some("")), "/ours");
        assert_eq!(path(Some("/a:/b")), "/ours:/a:/b");
        assert_eq!(path(Some(":/a:")), "/ours:/a");
    }
}
