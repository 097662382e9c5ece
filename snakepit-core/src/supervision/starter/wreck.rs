//! What is left of a starter that was killed.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{
    Config, StarterExit,
    keeper::Keeper,
    launch::{Launch, Started},
    shared::Shared,
};
use crate::{event::EventKind, worker::Worker};

/// What a killed starter owned.
pub(super) struct Wreck {
    pub(super) shared: Arc<Shared>,
    pub(super) config: Arc<Config>,
    pub(super) launch: Option<Launch>,
    /// One that was replaced comes first.
    pub(super) occupants: Vec<Occupant>,
}

/// A worker in the slot, with its resources.
pub(super) struct Occupant {
    pub(super) worker: Arc<dyn Worker>,
    pub(super) keeper: Option<Keeper>,
    /// Dropped when nothing of it is left.
    pub(super) gone: Option<oneshot::Sender<()>>,
}

impl Occupant {
    pub(super) fn new(worker: Arc<dyn Worker>) -> Self {
        Self {
            worker,
            keeper: None,
            gone: None,
        }
    }
}

impl Wreck {
    /// The same order as in life: start or resources, worker, report.
    pub(super) async fn clean_up(mut self) {
        if let Some(launch) = &mut self.launch {
            launch.cancel();
            if let Ok(Started::Ready(worker, _)) = launch.done().await {
                self.occupants.push(Occupant::new(worker));
            }
        }
        for occupant in &mut self.occupants {
            if let Some(keeper) = &mut occupant.keeper {
                keeper.stop();
            }
        }
        for mut occupant in std::mem::take(&mut self.occupants) {
            if let Some(keeper) = &mut occupant.keeper {
                keeper.ended().await;
            }
            let times = self.shared.end_times(self.config.grace);
            let report = occupant.worker.end(times.drain, times.grace).await;
            self.config.events.emit(EventKind::WorkerEnded {
                slot: self.shared.slot,
                worker: occupant.worker.id(),
                report,
            });
            drop(occupant.gone);
        }
        self.config.workers.settle(self.shared.slot).await;
    }
}

impl Drop for Wreck {
    fn drop(&mut self) {
        // Also when the runtime is gone: whoever waits for the end must hear of it.
        self.shared.finish(StarterExit::Killed);
    }
}
