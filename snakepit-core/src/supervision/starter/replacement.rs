//! A request for another worker in a slot, and what comes of it.

use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;

use crate::{
    id::{SlotId, WorkerId},
    supervision::Shutdown,
    worker::{StartError, WorkerFactory},
};

/// Another worker for a slot: see [`Starter::replace`](super::Starter::replace).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Replacement {
    /// Makes the new worker and, once that was ready, all further ones of this starter. Default `None`: whatever makes the
    /// slot's workers so far.
    pub workers: Option<Arc<dyn WorkerFactory>>,
    /// How long the worker that is replaced may go on with its calls. Default `None`: until they are over.
    pub drain: Option<Duration>,
    /// How it is ended then: its stop hooks and what is left of its calls have `drain`, its processes `grace`.
    pub shutdown: Shutdown,
}

impl Replacement {
    /// Workers of another kind.
    #[must_use]
    pub fn with_workers(self, workers: Arc<dyn WorkerFactory>) -> Self {
        Self {
            workers: Some(workers),
            ..self
        }
    }

    /// Bounds how long the worker that is replaced may go on with its calls.
    #[must_use]
    pub fn with_drain(self, drain: Option<Duration>) -> Self {
        Self { drain, ..self }
    }

    /// Sets how the worker that is replaced is ended.
    #[must_use]
    pub fn with_shutdown(self, shutdown: Shutdown) -> Self {
        Self { shutdown, ..self }
    }
}

/// A slot's next worker is ready.
#[derive(Debug)]
#[non_exhaustive]
pub struct Replaced {
    /// The worker that serves now.
    pub worker: WorkerId,
    /// The one that served before, where there was one.
    pub before: Option<WorkerId>,
    /// From the start of its launch until the new one was ready.
    pub took: Duration,
    /// The end of the one before.
    pub departure: Departure,
}

/// The end of a worker that was replaced.
#[derive(Debug, Default)]
pub struct Departure(pub(super) Option<oneshot::Receiver<()>>);

impl Departure {
    /// Resolves when nothing of the worker is left; at once where there was none.
    ///
    /// # Cancel safety
    /// Safe; the end goes on.
    pub async fn gone(&mut self) {
        if let Some(gone) = &mut self.0 {
            // Dropped with the starter's account of the worker, which is what tells that it is gone.
            let _ = gone.await;
            self.0 = None;
        }
    }
}

/// Why a slot got no other worker. The one that serves, if there is one, serves on.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplaceError {
    /// The new worker did not become ready.
    #[error("the new worker of {slot} did not become ready")]
    Failed {
        /// The slot.
        slot: SlotId,
        /// Why.
        #[source]
        error: Arc<StartError>,
    },
    /// Another one was asked for already, and is being started.
    #[error("the worker of {0} is being replaced already")]
    UnderWay(SlotId),
    /// The worker that was replaced last still finishes its calls, and a third one would be too many.
    #[error("the worker that was replaced last in {0} still finishes its calls")]
    Draining(SlotId),
    /// The slot is being ended, or its starter has ended.
    #[error("{0} is being ended")]
    Ending(SlotId),
    /// There is no such slot.
    #[error("there is no {0}")]
    NotFound(SlotId),
    /// Its starter cannot do that.
    #[error("the starter of {0} cannot replace its worker")]
    Unsupported(SlotId),
}
