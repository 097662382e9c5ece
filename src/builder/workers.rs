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
        match &self.launcher {
            Some(launcher) => Ok(Arc::clone(launcher)),
            None => default_backend(self.backend).launcher(),
        }
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
