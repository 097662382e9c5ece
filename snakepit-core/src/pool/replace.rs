//! Replaces workers, few at a time: whoever wants one replaced goes through here.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Mutex as Lock, Semaphore, oneshot},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{cause::ReplaceCause, dispatch::Dispatch, scaling::Scaler, settings::PoolSettings};
use crate::{
    event::EventKind,
    id::{SlotId, WorkerId},
    supervision::{ReplaceError, Replacement, Shutdown, Supervisor},
    worker::WorkerFactory,
};

/// How long a worker that was replaced holds up the replacement of others. Most are gone in milliseconds; one with a call of an
/// hour must not keep a restart from going on.
const PATIENCE: Duration = Duration::from_secs(10);

/// Replaces workers. Shared by the recycler and restarts.
#[derive(Debug)]
pub(super) struct Replacer {
    supervisor: Arc<dyn Supervisor>,
    dispatch: Arc<Dispatch>,
    permits: Arc<Semaphore>,
    /// Locked from the request for another worker until the one before is gone.
    slots: Mutex<BTreeMap<SlotId, Arc<Lock<()>>>>,
    drain: Option<Duration>,
    shutdown: Shutdown,
    stopped: CancellationToken,
}

/// The end of a worker that was replaced.
#[derive(Debug)]
pub(super) struct Gone(oneshot::Receiver<bool>);

impl Gone {
    /// Resolves when it is gone, or has held up others for long enough; tells whether it is gone.
    pub(super) async fn in_time(self) -> bool {
        self.0.await.unwrap_or(true)
    }
}

impl Replacer {
    /// Replaces workers of the slots that this starts.
    pub(super) fn new(scaler: &Scaler, settings: &PoolSettings) -> Self {
        Self {
            supervisor: Arc::clone(&scaler.supervisor),
            dispatch: Arc::clone(&scaler.dispatch),
            permits: Arc::new(Semaphore::new(
                settings.replacements.clamp(1, Semaphore::MAX_PERMITS),
            )),
            slots: Mutex::default(),
            drain: settings.drain_timeout,
            shutdown: scaler.shutdown,
            stopped: CancellationToken::new(),
        }
    }

    pub(super) fn supervisor(&self) -> &Arc<dyn Supervisor> {
        &self.supervisor
    }

    pub(super) fn dispatch(&self) -> &Arc<Dispatch> {
        &self.dispatch
    }

    /// No worker is replaced from now on.
    pub(super) fn stop(&self) {
        self.stopped.cancel();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.is_cancelled()
    }

    pub(super) async fn stopped(&self) {
        self.stopped.cancelled().await;
    }

    fn slot(&self, slot: SlotId) -> Arc<Lock<()>> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(slots.entry(slot).or_default())
    }

    /// Whether a worker of the slot is being replaced, or was and is not gone.
    pub(super) fn is_busy(&self, slot: SlotId) -> bool {
        self.slot(slot).try_lock().is_err()
    }

    /// Replaces a slot's worker, as soon as the one that was replaced before it is gone. With `only`, nothing is done if
    /// another one serves by then; `None` says so.
    pub(super) async fn replace(
        self: &Arc<Self>,
        slot: SlotId,
        only: Option<WorkerId>,
        cause: ReplaceCause,
        workers: Option<Arc<dyn WorkerFactory>>,
    ) -> Result<Option<Gone>, ReplaceError> {
        let place = self.slot(slot).lock_owned().await;
        // Never closed; without it the replacement is merely not bounded.
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        let worker = self.dispatch.serves(slot).map(|(worker, _)| worker);
        if self.is_stopped() {
            return Err(ReplaceError::Ending(slot));
        }
        if only.is_some() && only != worker {
            return Ok(None);
        }
        self.dispatch
            .events()
            .emit(EventKind::ReplacementStarted { slot, worker, cause });
        let mut replacement = Replacement::default()
            .with_drain(self.drain)
            .with_shutdown(self.shutdown);
        replacement.workers = workers;
        self.dispatch.replacing(slot, cause);
        let replaced = self.supervisor.replace_child(slot, replacement).await;
        self.dispatch.replaced(slot);
        let mut replaced = replaced?;
        let (gone, told) = oneshot::channel();
        let replacer = Arc::clone(self);
        tokio::spawn(async move {
            let departure = &mut replaced.departure;
            let in_time = timeout(PATIENCE, departure.gone()).await.is_ok();
            drop(permit);
            // An error only says that nobody waits for it.
            let _ = gone.send(in_time);
            departure.gone().await;
            drop(place);
            replacer.dispatch.look_for_due();
        });
        Ok(Some(Gone(told)))
    }
}
