//! What makes a pool's workers now.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use crate::{
    id::SlotId,
    worker::{StartError, StartTurn, Worker, WorkerFactory},
};

/// The factory of all workers that are started from now on; a restart with another configuration changes it.
#[derive(Debug)]
pub(super) struct Version {
    current: Mutex<Arc<dyn WorkerFactory>>,
}

impl Version {
    pub(super) fn new(workers: Arc<dyn WorkerFactory>) -> Self {
        Self {
            current: Mutex::new(workers),
        }
    }

    pub(super) fn set(&self, workers: Arc<dyn WorkerFactory>) {
        // The old one is dropped outside of the lock: it is foreign code.
        let _old = std::mem::replace(&mut *self.lock(), workers);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Arc<dyn WorkerFactory>> {
        // Only ever assigned as a whole.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> Arc<dyn WorkerFactory> {
        Arc::clone(&self.lock())
    }
}

#[async_trait]
impl WorkerFactory for Version {
    async fn start(&self, slot: SlotId, turn: StartTurn) -> Result<Arc<dyn Worker>, StartError> {
        self.current().start(slot, turn).await
    }

    async fn settle(&self, slot: SlotId) {
        self.current().settle(slot).await;
    }

    fn renewed(&self) -> Option<Arc<dyn WorkerFactory>> {
        self.current().renewed()
    }

    async fn close(&self) {
        self.current().close().await;
    }
}
