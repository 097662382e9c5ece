//! The pool with its defaults filled in.

use std::{
    ops::Deref,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use snakepit_core::{
    event::Events,
    pool::{RestartError, Restarted},
};

use crate::{
    PoolBuilder, builder::StartError, core, python_env::PythonEnv, record::Record, reload::Reloading,
};

/// A supervised pool of Python workers. Clones share it.
///
/// Everything a pool does is documented at [`core::pool::Pool`](snakepit_core::pool::Pool), to which this dereferences; what is added
/// here is the start, which chooses a backend and a Python environment.
#[derive(Clone, Debug)]
pub struct Pool {
    inner: core::pool::Pool,
    python: Arc<Mutex<Option<PythonEnv>>>,
    record: Record,
    events: Events,
}

/// Why a pool was not restarted with other settings; the workers that it had serve on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReconfigureError {
    /// The settings.
    #[error("the new settings cannot be used")]
    Settings(#[from] StartError),
    /// The restart.
    #[error(transparent)]
    Restart(#[from] RestartError),
}

impl Pool {
    /// Settings of a new pool.
    pub fn builder() -> PoolBuilder {
        PoolBuilder::new()
    }

    pub(crate) fn new(
        inner: core::pool::Pool,
        python: Option<PythonEnv>,
        record: Record,
        events: Events,
    ) -> Self {
        Self {
            inner,
            python: Arc::new(Mutex::new(python)),
            record,
            events,
        }
    }

    /// The environment its workers run on; `None` when they are another program.
    pub fn python(&self) -> Option<PythonEnv> {
        self.python.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// [Restarts](core::pool::Pool::restart) the pool with workers as these settings make them: a changed configuration. A
    /// worker of the new kind has to become ready before anything else is touched.
    ///
    /// What concerns the workers is taken: adapters, host functions, concurrency, paths, environment, working directory, limits,
    /// Python or program, channel, backend, start deadline, heartbeat and log level. The name and all that
    /// [`PoolSettings`](core::pool::PoolSettings) has must be the pool's own. Resources, metrics and registry stay as they are.
    ///
    /// # Errors
    /// When the settings are wrong or not the pool's, no backend or Python is usable, or the restart fails.
    ///
    /// # Cancel safety
    /// A restart that has begun goes on when the future is dropped.
    pub async fn restart_with(&self, settings: PoolBuilder) -> Result<Restarted, ReconfigureError> {
        let (workers, python) = settings
            .workers_for(self.inner.settings(), &self.events, &self.record)
            .await?;
        let restarted = self.inner.restart_with(Arc::new(workers)).await?;
        *self.python.lock().unwrap_or_else(PoisonError::into_inner) = python;
        Ok(restarted)
    }

    /// Restarts the pool whenever a Python file in one of these files and directories has changed, and nothing more changes:
    /// for development. Directories are looked through twice a second, but for hidden ones and virtual environments.
    ///
    /// Files that do not load, because of a syntax error for example, leave the workers before serving, and the log has the
    /// traceback; the next change is the next try.
    ///
    /// What the files are like when this returns counts as loaded. What it returns keeps the pool alive; drop it to end the
    /// watch, which ends by itself when the pool is shut down.
    ///
    /// # Cancel safety
    /// Safe; nothing is watched when the future is dropped.
    pub async fn reload_on_change(&self, paths: impl IntoIterator<Item = impl Into<PathBuf>>) -> Reloading {
        let paths = paths.into_iter().map(Into::into).collect();
        Reloading::start(self.inner.clone(), paths).await
    }

    /// What was found and done about hosts of this application that had died, when the pool was started; `None` without a
    /// registry, and when nobody looked.
    #[cfg(feature = "registry")]
    pub fn cleaned(&self) -> Option<&snakepit_registry::cleanup::Report> {
        self.record.cleaned()
    }

    /// Ends the pool as [`core::pool::Pool::shutdown`](snakepit_core::pool::Pool::shutdown) does. The last pool of a registry
    /// also closes that, which removes its record unless something is left.
    ///
    /// # Cancel safety
    /// A dropped future leaves the pool draining; call again to go on.
    pub async fn shutdown(&self) {
        self.inner.shutdown().await;
        self.record.close().await;
    }

    /// Ends the pool at once, as [`core::pool::Pool::kill`](snakepit_core::pool::Pool::kill) does; the registry goes as with
    /// [`shutdown`](Self::shutdown).
    ///
    /// # Cancel safety
    /// The ending of the workers goes on when the future is dropped.
    pub async fn kill(&self) {
        self.inner.kill().await;
        self.record.close().await;
    }
}

impl Deref for Pool {
    type Target = core::pool::Pool;

    fn deref(&self) -> &core::pool::Pool {
        &self.inner
    }
}
