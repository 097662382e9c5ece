//! Functions that may be executed only so many times at once.

use std::{collections::HashMap, sync::Arc};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The limits of a pool's functions.
#[derive(Debug, Default)]
pub(super) struct FunctionLimits {
    functions: HashMap<String, Arc<Semaphore>>,
}

/// Permission to execute a function that is limited; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Permit {
    _permit: OwnedSemaphorePermit,
}

impl FunctionLimits {
    pub(super) fn new(limits: impl IntoIterator<Item = (String, usize)>) -> Self {
        let semaphore = |(function, limit)| (function, Arc::new(Semaphore::new(limit)));
        Self {
            functions: limits.into_iter().map(semaphore).collect(),
        }
    }

    /// What bounds a function, where something does.
    pub(super) fn of(&self, function: &str) -> Option<Limit> {
        // A plain pool has none, and looks nothing up.
        if self.functions.is_empty() {
            return None;
        }
        let semaphore = self.functions.get(function).map(Arc::clone)?;
        Some(Limit { semaphore })
    }

    /// Nobody waits for a permit from now on.
    pub(super) fn close(&self) {
        for semaphore in self.functions.values() {
            semaphore.close();
        }
    }
}

/// The limit of one function.
#[derive(Debug)]
pub(super) struct Limit {
    semaphore: Arc<Semaphore>,
}

impl Limit {
    /// A permit that is there now.
    pub(super) fn try_acquire(&self) -> Option<Permit> {
        let permit = Arc::clone(&self.semaphore).try_acquire_owned().ok()?;
        Some(Permit { _permit: permit })
    }

    /// The next permit, in the order in which they were asked for; `None` when there will be none any more.
    pub(super) async fn acquire(&self) -> Option<Permit> {
        let permit = Arc::clone(&self.semaphore).acquire_owned().await.ok()?;
        Some(Permit { _permit: permit })
    }
}
