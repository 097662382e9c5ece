//! Who takes part: backends, containment levels, users, and what each of them promises.
//!
//! This is the one place to change when a backend or a level joins: [`BACKENDS`] lists it, [`Contender::launcher`]
//! makes it, and [`Contender::promise`] and its like say what its documentation says.

use std::time::Duration;
use std::{
    fmt, fs, io,
    num::NonZeroUsize,
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, OnceLock},
};

use rustix::process::geteuid;
use serde::{Deserialize, Serialize};
use snakepit::core::process::ContainmentLevel;
use snakepit::{
    Backend, Pool, PoolBuilder, PythonEnv,
    core::{launch::Launcher, ledger::Ledger},
};
use snakepit_backend_exec::{ExecLauncher, ExecSettings};
use snakepit_backend_zygote::{ZygoteLauncher, ZygoteSettings};
use snakepit_registry::{Policy, Settings};

use crate::{common::fixtures, orders::Orders, round};

/// The backends and their levels, weakest first. `shared` is one namespace for all workers of a run, `nested` one for each worker
/// that is forked.
const BACKENDS: &[(&str, &[&str])] = &[
    ("port", &["none"]),
    ("exec", &["subreaper", "cgroup", "namespace", "shared"]),
    ("zygote+port", &["none", "nested"]),
    ("zygote+exec", &["namespace"]),
];

/// The application of all hosts. Those with the same state directory know each other.
const APP: &str = "chaos";

/// `nobody` on Debian and its relatives. It owns nothing and need not have a name.
const NOBODY: u32 = 65534;

/// Who runs the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum User {
    /// Whoever runs the tests.
    Own,
    /// An unprivileged user, where the tests are run by root.
    Nobody,
}

impl User {
    /// Whether the host has root's rights.
    pub(crate) fn is_root(self) -> bool {
        self == Self::Own && geteuid().is_root()
    }

    /// Lets a program that is to be started run as this user, with directories of its own.
    pub(crate) fn apply(self, command: &mut Command) {
        if self == Self::Nobody {
            let home = nobodys_home().unwrap();
            command.uid(NOBODY).gid(NOBODY);
            command.env("HOME", &home).env("XDG_CACHE_HOME", &home);
            for variable in ["XDG_STATE_HOME", "XDG_RUNTIME_DIR", "TMPDIR"] {
                command.env_remove(variable);
            }
        }
    }

    /// Hands a file or directory to this user.
    pub(crate) fn own(self, path: &Path) -> io::Result<()> {
        match self {
            Self::Own => Ok(()),
            Self::Nobody => chown(path, Some(NOBODY), Some(NOBODY)),
        }
    }
}

/// A home that stays from run to run, so that the worker package is laid into its cache once.
fn nobodys_home() -> io::Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("home-of-{NOBODY}"));
    fs::create_dir_all(&home)?;
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700))?;
    User::Nobody.own(&home)?;
    Ok(home)
}

/// What dies, besides workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    /// S1: the host.
    Host,
    /// S3: the guardian, and at once the host.
    GuardianThenHost,
    /// S3: the host, and at once the guardian.
    HostThenGuardian,
    /// S4: the host, after it was stopped.
    StoppedHost,
}

impl Death {
    /// Whether it concerns a guardian, so that a backend without one has no such death.
    pub(crate) fn needs_guardian(self) -> bool {
        !matches!(self, Self::Host | Self::StoppedHost)
    }
}

/// What a host was doing when something died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Start,
    Call,
    Recycle,
    Shutdown,
}

impl Phase {
    pub(crate) const ALL: [Self; 4] = [Self::Start, Self::Call, Self::Recycle, Self::Shutdown];
}

/// What may be left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    /// Nothing, within the grace and 100 ms.
    Nothing,
    /// What workers started that died at that very moment, never a worker; `snakepit cleanup` ends it.
    WhatDeadWorkersStarted,
    /// Workers and what they started; `snakepit cleanup` ends it.
    Anything,
}

/// A way to run workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Contender {
    /// The backend's name.
    pub(crate) backend: String,
    /// The containment level's name.
    pub(crate) level: String,
    /// Who runs the host.
    pub(crate) user: User,
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} as {:?}", self.backend, self.level, self.user)
    }
}

/// Every contender that this machine can run; the others are told on standard error.
pub(crate) fn contenders() -> Vec<Contender> {
    static CONTENDERS: OnceLock<Vec<Contender>> = OnceLock::new();
    CONTENDERS.get_or_init(survey).clone()
}

fn survey() -> Vec<Contender> {
    let mut all = Vec::new();
    for user in users() {
        for (backend, levels) in BACKENDS {
            all.extend(levels.iter().map(|level| Contender {
                backend: (*backend).to_owned(),
                level: (*level).to_owned(),
                user,
            }));
        }
    }
    if let Ok(only) = std::env::var("SNAKEPIT_CHAOS_ONLY") {
        all.retain(|contender| contender.to_string().contains(&only));
        assert!(
            !all.is_empty(),
            "SNAKEPIT_CHAOS_ONLY is `{only}`, which is in the name of none"
        );
    }
    all.retain(|contender| match round::trial(contender) {
        Ok(()) => true,
        Err(why) => {
            assert!(contender.may_be_absent(), "{contender} does not work:\n{why}");
            eprintln!("SKIPPED: {contender} cannot be had on this machine:\n{why}");
            false
        }
    });
    all
}

/// Those that have a guardian.
pub(crate) fn guarded() -> Vec<Contender> {
    let all: Vec<_> = contenders().into_iter().filter(Contender::has_guardian).collect();
    if all.is_empty() {
        eprintln!("SKIPPED: no backend with a guardian takes part");
    }
    all
}

/// Those whose host this very process can be.
pub(crate) fn own_contenders() -> impl Iterator<Item = Contender> {
    contenders()
        .into_iter()
        .filter(|contender| contender.user == User::Own)
}

fn users() -> Vec<User> {
    if can_be_nobody() {
        vec![User::Own, User::Nobody]
    } else {
        vec![User::Own]
    }
}

/// Whether a host can be run by an unprivileged user: by changing to it, and with the files it needs in its reach.
fn can_be_nobody() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        if !geteuid().is_root() {
            eprintln!(
                "SKIPPED: nothing is run as another user, for that takes root; everything runs unprivileged"
            );
            return false;
        }
        let mut command = Command::new(std::env::current_exe().unwrap());
        User::Nobody.apply(&mut command);
        command
            .args(["--list", "--exact", "no such test"])
            .current_dir(fixtures());
        match command.output() {
            Ok(output) if output.status.success() => true,
            other => {
                eprintln!("SKIPPED: nothing is run unprivileged, user {NOBODY} cannot run this: {other:?}");
                false
            }
        }
    })
}

impl Contender {
    /// Whether a guardian stands between the host and its workers.
    pub(crate) fn has_guardian(&self) -> bool {
        matches!(&*self.backend, "exec" | "zygote+exec")
    }

    /// Whether workers are forked from a template.
    pub(crate) fn has_template(&self) -> bool {
        self.backend.starts_with("zygote")
    }

    /// Whether a worker's own end is proved to be that of all it has started, by a keeper that has nobody else below it, or
    /// by a namespace that has nobody else in it.
    pub(crate) fn has_keepers(&self) -> bool {
        self.is_nested() || self.has_guardian() && !self.has_template()
    }

    /// Whether somebody besides workers and host sees to it that nothing outlives the host.
    pub(crate) fn has_trees_held(&self) -> bool {
        self.is_nested() || self.has_guardian()
    }

    fn is_nested(&self) -> bool {
        self.level == "nested"
    }

    /// Whether there are machines without it, for want of namespaces or cgroups.
    fn may_be_absent(&self) -> bool {
        !matches!(&*self.level, "none" | "subreaper")
    }

    /// The launcher of this backend at this level, which records in this ledger what it starts besides workers. **Levels
    /// are connected here.**
    pub(crate) fn launcher(&self, ledger: Arc<dyn Ledger>) -> Arc<dyn Launcher> {
        let launcher: Arc<dyn Launcher> = if self.has_guardian() {
            Arc::new(self.exec_launcher())
        } else {
            Backend::Port.launcher().unwrap()
        };
        if !self.has_template() {
            return launcher;
        }
        let command = PythonEnv::builder().build().unwrap().command(NonZeroUsize::MIN);
        let settings = ZygoteSettings::new(command.program, command.args)
            .with_env(command.env)
            .with_paths([fixtures()])
            .with_nested_namespaces(self.is_nested());
        Arc::new(ZygoteLauncher::new(launcher, settings).with_ledger(ledger))
    }

    fn exec_launcher(&self) -> ExecLauncher {
        // So that a guardian that hangs is noticed while a test waits for it.
        let settings = ExecSettings::default()
            .with_ping_interval(Duration::from_millis(200))
            .with_stuck_after(Duration::from_secs(2));
        let settings = match &*self.level {
            "shared" => settings
                .with_containment(ContainmentLevel::Namespace)
                .with_shared_namespace(true),
            level => settings.with_containment(level.parse().unwrap()),
        };
        ExecLauncher::new(settings)
    }

    /// A pool on a launcher, which is [`launcher`](Self::launcher) or a wrapper of it, with the fixtures in reach.
    pub(crate) fn pool(&self, launcher: Arc<dyn Launcher>, registry: &Settings) -> PoolBuilder {
        let pool = Pool::builder().name("chaos").path(fixtures());
        pool.launcher(launcher).registry(registry.clone())
    }

    /// What is left at most when the host, its guardian or both die in this phase.
    pub(crate) fn promise(&self, phase: Phase) -> Promise {
        match phase {
            // The worker was killed, and its host before it could look for what the worker had started.
            Phase::Recycle if !self.has_trees_held() => Promise::WhatDeadWorkersStarted,
            _ => Promise::Nothing,
        }
    }

    /// What is left at most of a program that is not our runtime when its host dies.
    pub(crate) fn promise_for_foreign_programs(&self) -> Promise {
        if self.has_trees_held() {
            Promise::Nothing
        } else {
            Promise::Anything
        }
    }

    /// What is left at most of a tree that has a member of another user, when its host dies.
    pub(crate) fn promise_for_other_users(&self) -> Promise {
        match &*self.level {
            "none" | "subreaper" => Promise::Anything,
            _ => Promise::Nothing,
        }
    }

    /// What is left at most of a tree that forks as fast as it can when its host dies.
    pub(crate) fn promise_for_runaways(&self) -> Promise {
        self.promise_for_foreign_programs()
    }
}

/// The registry of hosts with this state directory. One that cannot be written would hide what it is to show.
pub(crate) fn registry(state_dir: &Path) -> Settings {
    let settings = Settings::new().with_app(APP).with_state_dir(state_dir);
    settings.with_policy(Policy::Required)
}

impl Orders {
    /// The command that cleans up after hosts with these orders, run by their user.
    pub(crate) fn cleanup(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_snakepit"));
        self.contender.user.apply(&mut command);
        command.current_dir(fixtures());
        command
            .args(["cleanup", "--app", APP, "--state-dir"])
            .arg(&self.state_dir);
        command
    }

    /// Cleans up, and checks that it says so.
    #[track_caller]
    pub(crate) fn cleanup_succeeds(&self) {
        let output = self.cleanup().output().unwrap();
        assert!(output.status.success(), "{}: {}", self.contender, told(&output));
    }
}

fn told(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    format!(
        "{}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    )
}
