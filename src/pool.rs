//! The pool with its defaults filled in.

use std::ops::Deref;

use crate::{PoolBuilder, core, python_env::PythonEnv, record::Record};

/// A supervised pool of Python workers. Clones share it.
///
/// Everything a pool does is documented at [`core::pool::Pool`](snakepit_core::pool::Pool), to which this dereferences; what is added
/// here is the start, which chooses a backend and a Python environment.
#[derive(Clone, Debug)]
pub struct Pool {
    inner: core::pool::Pool,
    python: Option<PythonEnv>,
    record: Record,
}

impl Pool {
    /// Settings of a new pool.
    pub fn builder() -> PoolBuilder {
        PoolBuilder::new()
    }

    pub(crate) const fn new(inner: core::pool::Pool, python: Option<PythonEnv>, record: Record) -> Self {
        Self {
            inner,
            python,
            record,
        }
    }

    /// The environment its workers run on; `None` when they are another program.
    pub const fn python(&self) -> Option<&PythonEnv> {
        self.python.as_ref()
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
