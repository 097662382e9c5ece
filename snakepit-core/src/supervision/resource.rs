//! Further children of a slot, living beside its worker.

use std::{fmt, sync::Arc};

use async_trait::async_trait;

use super::metrics::MetricsSample;
use crate::{id::SlotId, worker::Worker};

/// A further child of a starter, such as a metrics collector or a connection pool.
///
/// It is started after the worker is ready and ended before the worker is; it is never restarted by itself,
/// the slot's next worker gets a new one. Its failure is reported and the worker serves on.
#[async_trait]
pub trait Resource: Send + Sync + fmt::Debug {
    /// Resolves when it can do its work no more, with the cause for people. The default never does.
    ///
    /// # Cancel safety
    /// Must be safe: it is waited for repeatedly.
    async fn failed(&self) -> String {
        std::future::pending().await
    }

    /// Ends it. Called once, also after it failed. The starter waits for a bounded time, then goes on.
    async fn end(&self);

    /// What it has measured last, shown in the slot's status.
    fn metrics(&self) -> Option<MetricsSample> {
        None
    }
}

/// Makes the resource of each new worker of a slot.
#[async_trait]
pub trait ResourceFactory: Send + Sync + fmt::Debug {
    /// The resource's name in events and status.
    fn name(&self) -> Arc<str>;

    /// Starts the resource beside a worker that is ready.
    ///
    /// # Errors
    /// The cause, for people.
    ///
    /// # Cancel safety
    /// Dropping the future must end what it had started: it is dropped when the worker goes down meanwhile.
    async fn start(&self, slot: SlotId, worker: &Arc<dyn Worker>)
    -> Result<Arc<dyn Resource>, ResourceError>;
}

/// A resource did not start.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct ResourceError(pub String);
