//! What to run, and how.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    time::Duration,
};

use snakepit_core::{
    RunId, WorkerId,
    launch::{
        ChannelForm, LaunchError, LaunchLimits, LaunchSpec, check_cwd, env, environment, resolve_program,
    },
};

use super::{
    error::RunError,
    route::Route,
    user::{self, Group, User},
};
use crate::request::{Program, os};

/// A program to run.
///
/// Standard input, output and error are the null device unless they are [routed](Route).
#[derive(Clone, Debug)]
pub struct Command {
    program: PathBuf,
    argv0: Option<OsString>,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    env_remove: Vec<OsString>,
    env_clear: bool,
    cwd: Option<PathBuf>,
    pub(super) routes: [Option<Route>; 3],
    limits: LaunchLimits,
    user: Option<User>,
    group: Option<Group>,
    groups: Option<Vec<Group>>,
    pub(super) stop_command: Option<Vec<OsString>>,
    pub(super) grace: Duration,
    success_codes: Vec<i32>,
}

impl Command {
    /// A program; a name without a slash is looked up in the host's `PATH`.
    pub fn new(program: impl AsRef<Path>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            argv0: None,
            args: Vec::new(),
            env: Vec::new(),
            env_remove: Vec::new(),
            env_clear: false,
            cwd: None,
            routes: [None, None, None],
            limits: LaunchLimits::default(),
            user: None,
            group: None,
            groups: None,
            stop_command: None,
            grace: Duration::from_secs(5),
            success_codes: vec![0],
        }
    }

    /// Adds an argument, passed as it is.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// The name by which the program sees itself called. Default: the path it was found at.
    #[must_use]
    pub fn argv0(mut self, name: impl AsRef<OsStr>) -> Self {
        self.argv0 = Some(name.as_ref().to_owned());
        self
    }

    /// Sets a variable. The host's are inherited beside it, and those by which everything of a run is found again are
    /// always set.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env
            .push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Does not pass a variable of the host on.
    #[must_use]
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.env_remove.push(name.as_ref().to_owned());
        self
    }

    /// Passes none of the host's variables on.
    #[must_use]
    pub fn env_clear(mut self) -> Self {
        self.env_clear = true;
        self
    }

    /// The working directory. Default: the host's.
    #[must_use]
    pub fn cwd(mut self, path: impl AsRef<Path>) -> Self {
        self.cwd = Some(path.as_ref().to_owned());
        self
    }

    /// Where standard input comes from. Default: [`Route::Null`].
    #[must_use]
    pub fn stdin(mut self, route: Route) -> Self {
        self.routes[0] = Some(route);
        self
    }

    /// Where standard output goes. Default: [`Route::Null`].
    #[must_use]
    pub fn stdout(mut self, route: Route) -> Self {
        self.routes[1] = Some(route);
        self
    }

    /// Where standard error goes. Default: [`Route::Null`].
    #[must_use]
    pub fn stderr(mut self, route: Route) -> Self {
        self.routes[2] = Some(route);
        self
    }

    pub(super) fn stderr_unless_routed(mut self, route: Route) -> Self {
        self.routes[2].get_or_insert(route);
        self
    }

    /// Niceness, resource limits, `oom_score_adj`, limits of the whole tree, and ids by number.
    #[must_use]
    pub fn limits(mut self, limits: LaunchLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Runs it as another user. By name: with the user's own group and supplementary groups, unless others are set.
    /// By number: with the host's group and no supplementary groups.
    #[must_use]
    pub fn user(mut self, user: impl Into<User>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Runs it with another group.
    #[must_use]
    pub fn group(mut self, group: impl Into<Group>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// Runs it with these supplementary groups and no others.
    #[must_use]
    pub fn groups(mut self, groups: impl IntoIterator<Item = impl Into<Group>>) -> Self {
        self.groups = Some(groups.into_iter().map(Into::into).collect());
        self
    }

    /// How it is asked to end, instead of by SIGTERM: a program and its arguments. Its variable `SNAKEPIT_STOP_PID` has
    /// the process id of what is to be stopped, its standard streams are the null device. It ends, at the latest, with
    /// the grace; where it cannot be run, SIGTERM is sent after all.
    #[must_use]
    pub fn stop_command(mut self, argv: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        let argv = argv.into_iter().map(|arg| arg.as_ref().to_owned());
        self.stop_command = Some(argv.collect());
        self
    }

    /// How long [`stop`](super::Running::stop) waits after asking before it uses force. Default: 5 s, as erlexec's
    /// `kill_timeout`.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// The exit codes that are a success. Default: 0.
    #[must_use]
    pub fn success_codes(mut self, codes: impl IntoIterator<Item = i32>) -> Self {
        self.success_codes = codes.into_iter().collect();
        self
    }

    pub(super) fn codes(&self) -> &[i32] {
        &self.success_codes
    }

    /// Looks up what has a name. Blocks on disks and directories.
    pub(super) fn resolve(&self) -> Result<Program, RunError> {
        if let Some(path) = &self.cwd {
            check_cwd(path).map_err(|source| LaunchError::Cwd {
                path: path.clone(),
                source,
            })?;
        }
        let path = resolve_program(&self.program).map_err(|source| LaunchError::Exec {
            program: self.program.clone(),
            source,
        })?;
        let first = self
            .argv0
            .clone()
            .unwrap_or_else(|| path.clone().into_os_string());
        let (run_id, worker_id) = (RunId::current(), WorkerId::next());
        let env_remove = if self.env_clear {
            std::env::vars_os().map(|(name, _)| name).collect()
        } else {
            self.env_remove.clone()
        };
        let mut environment = environment(&LaunchSpec {
            run_id,
            worker_id,
            program: self.program.clone(),
            args: Vec::new(),
            env: self.env.clone(),
            env_remove,
            cwd: None,
            channel: ChannelForm::Inherited,
            limits: LaunchLimits::default(),
        })
        .map_err(os("set the environment"))?;
        // It is no worker.
        environment.remove(OsStr::new(env::CHANNEL));
        Ok(Program {
            name: self.program.clone(),
            path,
            argv: std::iter::once(first).chain(self.args.iter().cloned()).collect(),
            environment,
            cwd: self.cwd.clone(),
            limits: self.limits_with_ids()?,
            run_id,
            worker_id,
        })
    }

    /// The limits, with the ids that users and groups have.
    fn limits_with_ids(&self) -> Result<LaunchLimits, RunError> {
        let mut limits = self.limits.clone();
        if let Some(user) = &self.user {
            let found = user::user(user)?;
            limits.uid = Some(found.uid);
            limits.gid = limits.gid.or(found.gid);
            limits.groups = limits.groups.or(found.groups);
        }
        if let Some(group) = &self.group {
            limits.gid = Some(user::group(group)?);
        }
        if let Some(groups) = &self.groups {
            limits.groups = Some(groups.iter().map(user::group).collect::<Result<_, _>>()?);
        }
        Ok(limits)
    }
}
