//! The pool with its defaults filled in.

use std::ops::Deref;

use crate::{PoolBuilder, core, python_env::PythonEnv};

/// A supervised pool of Python workers. Clones share it.
///
/// Everything a pool does is documented at [`core::pool::Pool`](snakepit_core::pool::Pool), to which this dereferences; what is added
/// here is the start, which chooses a backend and a Python environment.
#[derive(Clone, Debug)]
pub struct Pool {
    inner: core::pool::Pool,
    python: Option<PythonEnv>,
}

impl Pool {
    /// Settings of a new pool.
    pub fn builder() -> PoolBuilder {
        PoolBuilder::new()
    }

    pub(crate) const fn new(inner: core::pool::Pool, python: Option<PythonEnv>) -> Self {
        Self { inner, python }
    }

    /// The environment its workers run on; `None` when they are another program.
    pub const fn python(&self) -> Option<&PythonEnv> {
        self.python.as_ref()
    }
}

impl Deref for Pool {
    type Target = core::pool::Pool;

    fn deref(&self) -> &core::pool::Pool {
        &self.inner
    }
}
