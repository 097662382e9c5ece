//! What the template is, and how long it may take.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use snakepit_core::launch::LaunchLimits;

/// Native threads that are there after the import of well-known libraries and do no harm to a fork, by the name that the
/// kernel has for them: the purging thread of jemalloc, which PyArrow brings and which the library starts anew in the child.
const SAFE_THREADS: [&str; 1] = ["jemalloc_bg_thd"];

/// How a [`ZygoteLauncher`](crate::ZygoteLauncher) makes its template.
///
/// ```
/// use snakepit_backend_zygote::ZygoteSettings;
///
/// let settings = ZygoteSettings::new("/usr/bin/python3", ["-m", "snakepit"])
///     .with_modules(["numpy"])
///     .with_paths(["/srv/app"]);
/// assert_eq!(settings.modules(), ["numpy"]);
/// ```
#[derive(Clone, Debug)]
pub struct ZygoteSettings {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) env_remove: Vec<OsString>,
    pub(crate) cwd: Option<PathBuf>,
    pub(crate) paths: Vec<PathBuf>,
    pub(crate) modules: Vec<String>,
    pub(crate) safe_threads: Vec<String>,
    pub(crate) limits: LaunchLimits,
    pub(crate) nested: bool,
    pub(crate) start_deadline: Duration,
    pub(crate) fork_deadline: Duration,
}

impl ZygoteSettings {
    /// How long the template may take to import everything: 60 s, twice what a worker has, since it is done once.
    pub const START_DEADLINE: Duration = Duration::from_secs(60);
    /// How long a fork may take: 10 s. One takes about a millisecond; a template that has not answered by then hangs, and is
    /// replaced.
    pub const FORK_DEADLINE: Duration = Duration::from_secs(10);

    /// A template that runs this interpreter with the arguments that start a worker of our runtime. Launches of the same program
    /// whose arguments begin with the same ones are workers; others are forked and then executed. With a pool of the crate
    /// `snakepit` they are what its `PythonEnv::command` gives.
    pub fn new(program: impl Into<PathBuf>, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self {
            program: program.into(),
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            env_remove: Vec::new(),
            cwd: None,
            paths: Vec::new(),
            modules: Vec::new(),
            safe_threads: SAFE_THREADS.map(str::to_owned).to_vec(),
            limits: LaunchLimits::default(),
            nested: false,
            start_deadline: Self::START_DEADLINE,
            fork_deadline: Self::FORK_DEADLINE,
        }
    }

    /// Variables to set for the template, besides those of the host. A worker has those of its own spec, as ever; what a
    /// module reads while it is imported is the template's. Those that size the thread pools of numeric libraries are
    /// always 1: a library that starts threads when it is imported could not be forked.
    #[must_use]
    pub fn with_env(self, env: impl IntoIterator<Item = (impl Into<OsString>, impl Into<OsString>)>) -> Self {
        let env = env
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        Self { env, ..self }
    }

    /// Variables of the host that the template does not get.
    #[must_use]
    pub fn with_env_remove(self, names: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        let env_remove = names.into_iter().map(Into::into).collect();
        Self { env_remove, ..self }
    }

    /// The template's working directory. Default: the host's.
    #[must_use]
    pub fn with_cwd(self, cwd: impl Into<PathBuf>) -> Self {
        let cwd = Some(cwd.into());
        Self { cwd, ..self }
    }

    /// Directories in front of `sys.path` while the modules are imported.
    #[must_use]
    pub fn with_paths(self, paths: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        let paths = paths.into_iter().map(Into::into).collect();
        Self { paths, ..self }
    }

    /// Modules that the template imports, in this order. Default none.
    #[must_use]
    pub fn with_modules(self, modules: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let modules = modules.into_iter().map(Into::into).collect();
        Self { modules, ..self }
    }

    /// The modules that the template imports.
    pub fn modules(&self) -> &[String] {
        &self.modules
    }

    /// Adds a native thread that does no harm to a fork, by the name that the kernel has for it (`/proc/PID/task/TID/comm`,
    /// 15 bytes). With any other thread alive the template refuses to fork: whatever lock that thread holds would be held
    /// for ever in the worker.
    #[must_use]
    pub fn with_safe_thread(mut self, name: impl Into<String>) -> Self {
        self.safe_threads.push(name.into());
        self
    }

    /// Limits of the template and of each process that is forked from it, as far as the launcher of the template honours
    /// them. A launch has to ask for these, or for none. Those of a cgroup hold for all of them together, and are refused.
    #[must_use]
    pub fn with_limits(self, limits: LaunchLimits) -> Self {
        Self { limits, ..self }
    }

    /// Gives each worker a PID namespace of its own, pid_namespaces(7), whatever launcher starts the template. The kernel ends all
    /// that is in it with the worker, and with the host: also what has left its group, its session and its environment, and
    /// programs that watch for nothing. A start takes some milliseconds instead of one or two, and each worker has a
    /// small process above it.
    ///
    /// It takes root, or user namespaces (user_namespaces(7)): a template without root's rights goes into one of its own, in which
    /// its workers have their user and group, and no other. Where neither is to be had the template is refused. Default: workers
    /// share the template's namespaces.
    #[must_use]
    pub fn with_nested_namespaces(self, nested: bool) -> Self {
        Self { nested, ..self }
    }

    /// How long the template may take to import everything. Default [`START_DEADLINE`](Self::START_DEADLINE).
    #[must_use]
    pub fn with_start_deadline(self, start_deadline: Duration) -> Self {
        Self {
            start_deadline,
            ..self
        }
    }

    /// How long a fork may take. Default [`FORK_DEADLINE`](Self::FORK_DEADLINE).
    #[must_use]
    pub fn with_fork_deadline(self, fork_deadline: Duration) -> Self {
        Self {
            fork_deadline,
            ..self
        }
    }

    /// The arguments of a worker of our runtime, if this program with these arguments is one.
    pub(crate) fn of_worker<'a>(&self, program: &Path, args: &'a [OsString]) -> Option<&'a [OsString]> {
        if program == self.program {
            args.strip_prefix(&self.args[..])
        } else {
            None
        }
    }

    /// What the template cannot be told.
    pub(crate) fn unspeakable(&self) -> Option<String> {
        let paths = self.paths.iter().map(|path| path.as_os_str().as_bytes());
        let names = self
            .modules
            .iter()
            .chain(&self.safe_threads)
            .map(String::as_bytes);
        let found = paths.chain(names).find(|text| text.contains(&0))?;
        Some(String::from_utf8_lossy(found).into_owned())
    }
}
