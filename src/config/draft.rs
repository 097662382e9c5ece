//! The settings of a pool while they are being read.

use std::{path::PathBuf, time::Duration};

use snakepit_core::process::ContainmentLevel;

use crate::{PoolBuilder, PythonEnv, builder::Python, python_env::PythonEnvBuilder};

/// Settings that are complete only together are kept apart from the builder until all have been read.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) builder: PoolBuilder,
    pub(super) python: PythonDraft,
    pub(super) exec: ExecDraft,
    pub(super) registry: RegistryDraft,
    /// The keys of what has been read.
    pub(super) set: Vec<&'static str>,
}

/// Which Python.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PythonDraft {
    pub(super) interpreter: Option<PathBuf>,
    pub(super) packages: Vec<String>,
}

/// Settings of the exec backend, in any build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExecDraft {
    pub(super) containment: Option<ContainmentLevel>,
    pub(super) shared_namespace: bool,
    pub(super) host_death_grace: Duration,
    pub(super) cgroup_parent: Option<PathBuf>,
    pub(super) ping_interval: Duration,
    pub(super) stuck_after: Duration,
    pub(super) request_deadline: Duration,
}

impl Default for ExecDraft {
    fn default() -> Self {
        Self {
            containment: None,
            shared_namespace: false,
            host_death_grace: Duration::ZERO,
            cgroup_parent: None,
            ping_interval: Duration::from_secs(2),
            stuck_after: Duration::from_secs(10),
            request_deadline: Duration::from_secs(5),
        }
    }
}

/// Settings of the registry, in any build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RegistryDraft {
    pub(super) enabled: bool,
    pub(super) app: Option<String>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) required: bool,
    pub(super) cleanup_bound: Duration,
    pub(super) write_bound: Duration,
}

impl Default for RegistryDraft {
    fn default() -> Self {
        Self {
            enabled: true,
            app: None,
            state_dir: None,
            required: false,
            cleanup_bound: Duration::from_secs(10),
            write_bound: Duration::from_secs(5),
        }
    }
}

impl Draft {
    /// What is read goes on top of these settings.
    pub(super) fn of(builder: PoolBuilder) -> Self {
        Self {
            builder,
            python: PythonDraft::default(),
            exec: ExecDraft::default(),
            registry: RegistryDraft::default(),
            set: Vec::new(),
        }
    }

    /// What the builder itself cannot see.
    pub(super) fn contradictions(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.exec != ExecDraft::default()
            && let Some(other) = self.builder.backend.filter(|backend| !backend.has_guardian())
        {
            wrong.push(format!(
                "the settings below exec belong to the exec backend, and backend is {other}"
            ));
        }
        if self.builder.program.is_some() && self.python != PythonDraft::default() {
            wrong.push(
                "program runs another program than Python, which has no use for python and packages"
                    .to_owned(),
            );
        }
        if let Err(error) = self.python.clone().builder().check() {
            wrong.push(error.to_string());
        }
        wrong
    }

    /// The builder with everything in it.
    pub(super) fn finish(self) -> PoolBuilder {
        let Self {
            mut builder,
            python,
            exec,
            registry,
            set: _,
        } = self;
        if python != PythonDraft::default() {
            builder.python = Python::WillBe(python.builder());
        }
        if exec != ExecDraft::default() {
            builder = exec.apply(builder);
        }
        if registry != RegistryDraft::default() {
            builder = registry.apply(builder);
        }
        builder
    }
}

impl PythonDraft {
    pub(super) fn builder(self) -> PythonEnvBuilder {
        let builder = PythonEnv::builder().with_packages(self.packages);
        match self.interpreter {
            Some(interpreter) => builder.interpreter(interpreter),
            None => builder,
        }
    }
}

#[cfg(feature = "backend-exec")]
impl ExecDraft {
    pub(super) fn settings(self) -> snakepit_backend_exec::ExecSettings {
        let settings = snakepit_backend_exec::ExecSettings::default()
            .with_shared_namespace(self.shared_namespace)
            .with_host_death_grace(self.host_death_grace)
            .with_ping_interval(self.ping_interval)
            .with_stuck_after(self.stuck_after)
            .with_request_deadline(self.request_deadline);
        let settings = match self.containment {
            Some(level) => settings.with_containment(level),
            None => settings,
        };
        match self.cgroup_parent {
            Some(parent) => settings.with_cgroup_parent(parent),
            None => settings,
        }
    }

    fn apply(self, builder: PoolBuilder) -> PoolBuilder {
        let launcher = std::sync::Arc::new(snakepit_backend_exec::ExecLauncher::new(self.settings()));
        if builder.backend.is_some_and(crate::Backend::is_zygote) {
            builder.template_launcher(launcher)
        } else {
            builder.launcher(launcher)
        }
    }
}

#[cfg(not(feature = "backend-exec"))]
impl ExecDraft {
    /// Its settings are refused when they are read.
    fn apply(self, builder: PoolBuilder) -> PoolBuilder {
        builder
    }
}

#[cfg(feature = "registry")]
impl RegistryDraft {
    fn apply(self, mut builder: PoolBuilder) -> PoolBuilder {
        let base = builder.registry.take();
        builder.registry = self.enabled.then(|| self.settings(base.unwrap_or_default()));
        builder
    }

    pub(super) fn settings(self, base: snakepit_registry::Settings) -> snakepit_registry::Settings {
        use snakepit_registry::Policy;

        let policy = if self.required {
            Policy::Required
        } else {
            Policy::BestEffort
        };
        let settings = base
            .with_policy(policy)
            .with_cleanup_bound(self.cleanup_bound)
            .with_write_bound(self.write_bound);
        let settings = match self.app {
            Some(app) => settings.with_app(app),
            None => settings,
        };
        match self.state_dir {
            Some(directory) => settings.with_state_dir(directory),
            None => settings,
        }
    }
}

#[cfg(not(feature = "registry"))]
impl RegistryDraft {
    /// Its settings are refused when they are read.
    fn apply(self, builder: PoolBuilder) -> PoolBuilder {
        builder
    }
}
