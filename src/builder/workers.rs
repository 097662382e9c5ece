//! What of a pool's settings makes its workers.

use std::{num::NonZeroUsize, path::PathBuf, sync::Arc};

use snakepit_core::{
    event::Events,
    launch::Launcher,
    pool::{PoolSettings, PoolStartError, SettingsError},
    worker::{GrpcWorkerFactory, GrpcWorkerSpec},
};

use super::{PoolBuilder, Python, StartError};
use crate::{Backend, BackendError, PythonEnv, python_env::THREADS, record::Record};

impl PoolBuilder {
    pub(super) fn launcher_of_workers(&self) -> Result<Arc<dyn Launcher>, BackendError> {
        match (&self.launcher, &self.template_launcher) {
            (Some(launcher), _) | (None, Some(launcher)) => Ok(Arc::clone(launcher)),
            (None, None) => default_backend(self.backend).launcher(),
        }
    }

    /// Whether the workers are forked from a template.
    fn is_zygote(&self) -> bool {
        self.launcher.is_none() && self.backend.is_some_and(Backend::is_zygote)
    }

    /// What is wrong with the settings of a template.
    pub(super) fn template_problems(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.is_zygote() {
            if self.program.is_some() {
                wrong.push(
                    "program runs another program than Python, and the zygote backend forks Python workers only"
                        .to_owned(),
                );
            }
            return wrong;
        }
        let settings = [
            ("preload", !self.preload.is_empty()),
            ("nested_namespaces", self.nested_namespaces),
            ("template_launcher", self.template_launcher.is_some()),
        ];
        for (name, _) in settings.into_iter().filter(|(_, is_set)| *is_set) {
            wrong.push(format!(
                "{name} belongs to the zygote backend: choose that, or leave it unset"
            ));
        }
        wrong
    }

    /// Puts the template between the workers and what would start them.
    #[cfg(feature = "backend-zygote")]
    fn fork(&self, spec: &mut GrpcWorkerSpec) {
        use snakepit_backend_zygote::{ZygoteLauncher, ZygoteSettings};

        let modules = self.preload.iter().chain(&self.adapters).cloned();
        let settings = ZygoteSettings::new(&spec.program, spec.args.iter().cloned())
            .with_env(spec.env.iter().cloned())
            .with_env_remove(spec.env_remove.iter().cloned())
            .with_paths(spec.paths.iter().cloned())
            .with_modules(modules)
            .with_limits(spec.limits.clone())
            .with_nested_namespaces(self.nested_namespaces)
            // Whoever grants a worker more for its imports grants it to what makes them.
            .with_start_deadline(self.start_deadline.max(ZygoteSettings::START_DEADLINE));
        let settings = match &spec.cwd {
            Some(cwd) => settings.with_cwd(cwd),
            None => settings,
        };
        let launcher = ZygoteLauncher::new(Arc::clone(&spec.launcher), settings);
        spec.launcher = Arc::new(launcher.with_ledger(Arc::clone(&spec.ledger)));
    }

    #[cfg(not(feature = "backend-zygote"))]
    fn fork(&self, _: &mut GrpcWorkerSpec) {
        unreachable!("a backend that is not compiled in has been refused");
    }

    /// How the workers are started, and the Python that they run on.
    pub(super) async fn workers_spec(
        &self,
        events: &Events,
        record: &Record,
        launcher: Arc<dyn Launcher>,
    ) -> Result<(GrpcWorkerSpec, Option<PythonEnv>), StartError> {
        let mut spec = GrpcWorkerSpec::new(events.clone(), launcher, record.ledger(), PathBuf::new());
        let python = match &self.program {
            Some((program, args)) => {
                (spec.program, spec.args) = (program.clone(), args.clone());
                None
            }
            None => {
                let python = discover(self.python.clone()).await?;
                // As many as there will be: their numeric libraries share the CPUs.
                let workers = NonZeroUsize::new(self.pool.workers).unwrap_or(NonZeroUsize::MIN);
                let command = python.command(workers);
                let command = if self.environment.sets(THREADS) {
                    command.without_thread_limits()
                } else {
                    command
                };
                (spec.program, spec.args, spec.env) = (command.program, command.args, command.env);
                Some(python)
            }
        };
        spec.env.extend(record.env());
        spec.per_slot.slots = self.pool.workers;
        self.environment.clone().fill_in(&mut spec.per_slot);
        spec.env_remove.clone_from(&self.env_remove);
        (spec.cwd, spec.limits) = (self.cwd.clone(), self.limits.clone());
        spec.adapters.clone_from(&self.adapters);
        spec.host_functions = self.host_functions.clone();
        spec.paths.clone_from(&self.paths);
        spec.channel = self.channel.clone();
        spec.concurrency = self.concurrency;
        spec.start_deadline = self.start_deadline;
        spec.heartbeat = self.heartbeat;
        spec.log_level = self.log_level;
        spec.arena = self.arena;
        if self.is_zygote() {
            self.fork(&mut spec);
        }
        Ok((spec, python))
    }

    /// The workers that these settings make, for a pool that has this name and these settings of its own.
    pub(crate) async fn workers_for(
        self,
        pool: &PoolSettings,
        events: &Events,
        record: &Record,
    ) -> Result<(GrpcWorkerFactory, Option<PythonEnv>), StartError> {
        self.check().map_err(PoolStartError::from)?;
        let mut wrong = Vec::new();
        if self.name != events.pool() {
            wrong.push(format!(
                "the name is `{}`: a restart cannot change that of pool `{}`",
                self.name,
                events.pool()
            ));
        }
        if self.pool != *pool {
            wrong.push(
                "the size, the queue, the budgets or the limits of the pool differ: a restart changes its workers only"
                    .to_owned(),
            );
        }
        if !wrong.is_empty() {
            return Err(PoolStartError::from(SettingsError(wrong)).into());
        }
        let launcher = self.launcher_of_workers()?;
        let (spec, python) = self.workers_spec(events, record, launcher).await?;
        Ok((GrpcWorkerFactory::new(spec), python))
    }
}

fn default_backend(chosen: Option<Backend>) -> Backend {
    // With none compiled in, the first one names the feature that brings it.
    chosen
        .or_else(|| Backend::compiled_in().next())
        .unwrap_or(Backend::Port)
}

async fn discover(python: Python) -> Result<PythonEnv, StartError> {
    let builder = match python {
        Python::Is(python) => return Ok(python),
        Python::WillBe(builder) => builder,
    };
    match tokio::task::spawn_blocking(|| builder.build()).await {
        Ok(found) => found.map_err(|error| StartError::Python(Box::new(error))),
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}
