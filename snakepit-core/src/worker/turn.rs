//! The order in which starts do what costs much.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// Bounds how many starts may load their programs at the same time. Clones share the bound.
#[derive(Clone, Debug)]
pub struct StartTurns {
    starts: Arc<Semaphore>,
}

impl StartTurns {
    /// So many at a time; zero counts as one.
    pub fn new(at_a_time: usize) -> Self {
        let at_a_time = at_a_time.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            starts: Arc::new(Semaphore::new(at_a_time)),
        }
    }

    /// A turn for one start.
    pub fn turn(&self) -> StartTurn {
        StartTurn {
            starts: Some(Arc::clone(&self.starts)),
            waited: Arc::default(),
        }
    }
}

/// A start's turn among those that may load their programs at the same time.
///
/// A [`WorkerFactory`](super::WorkerFactory) [waits](Self::come) for it before it does what costs processor time, as running
/// an interpreter and its imports does; what only waits, as recording the worker does, can come before. One that never
/// waits for it starts without bound. Clones are the same turn.
#[derive(Clone, Debug)]
pub struct StartTurn {
    /// `None` where nothing bounds the starts.
    starts: Option<Arc<Semaphore>>,
    waited: Arc<OnceLock<Duration>>,
}

/// What is held while it is a start's turn; dropping it lets the next one go on.
#[derive(Debug)]
pub struct StartPermit {
    _permit: Option<OwnedSemaphorePermit>,
}

impl StartTurn {
    /// A turn that comes at once: nothing bounds the start.
    pub fn now() -> Self {
        Self {
            starts: None,
            waited: Arc::default(),
        }
    }

    /// Waits until it is this start's turn, in the order in which the starts ask.
    ///
    /// # Cancel safety
    /// A caller that leaves takes no permit along.
    pub async fn come(&self) -> StartPermit {
        let Some(starts) = &self.starts else {
            return StartPermit { _permit: None };
        };
        let asked = Instant::now();
        // Nobody closes the semaphore; without a permit a start is merely not bounded.
        let permit = Arc::clone(starts).acquire_owned().await.ok();
        // Only the first wait is told: a start has one turn.
        let _ = self.waited.set(asked.elapsed());
        StartPermit { _permit: permit }
    }

    /// How long the start has waited for its turn.
    pub(crate) fn waited(&self) -> Duration {
        self.waited.get().copied().unwrap_or_default()
    }
}
