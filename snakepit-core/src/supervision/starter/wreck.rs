//! What is left of a starter that was killed.

use std::sync::Arc;

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
    pub(super) worker: Option<Arc<dyn Worker>>,
    pub(super) keeper: Option<Keeper>,
}

impl Wreck {
    /// The same order as in life: start or resources, worker, report.
    pub(super) async fn clean_up(mut self) {
        if let Some(launch) = &mut self.launch {
            launch.cancel();
            if let Ok(Started::Ready(worker, _)) = launch.done().await {
                self.worker = Some(worker);
            }
        }
        if let Some(keeper) = &mut self.keeper {
            keeper.stop();
            keeper.ended().await;
        }
        if let Some(worker) = self.worker.take() {
            let times = self.shared.end_times(self.config.grace);
            let report = worker.end(times.drain, times.grace).await;
            self.config.events.emit(EventKind::WorkerEnded {
                slot: self.shared.slot,
                worker: worker.id(),
                report,
            });
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
