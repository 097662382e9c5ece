//! A worker that was replaced, until nothing of it is left.

use std::sync::Arc;

use tokio::{sync::oneshot, time::Instant};

use super::{Config, keeper::Keeper, shared::Shared, state};
use crate::{
    process::EndReport,
    supervision::Shutdown,
    worker::{Down, Worker},
};

/// A worker that was replaced, with its resources.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) worker: Arc<dyn Worker>,
    pub(super) keeper: Option<Keeper>,
    /// How it is ended.
    pub(super) shutdown: Shutdown,
    /// Whoever waits for its end learns of it when this is dropped.
    pub(super) gone: oneshot::Sender<()>,
}

/// What became of it.
pub(super) enum Left {
    /// No call is on it any more, or none may be.
    Drained,
    /// It went down by itself.
    Down(Down),
    ResourcesEnded,
    Ended(EndReport),
}

impl Leaving {
    /// Waits for what comes next. Cancel safe: each wait can be taken up again.
    pub(super) async fn wait(&mut self, at: state::Leaving, shared: &Shared, config: &Config) -> Left {
        match at {
            state::Leaving::Draining { until } => tokio::select! {
                biased;
                down = self.worker.down() => Left::Down(down),
                () = config.observer.drained(shared.slot, self.worker.id()) => Left::Drained,
                () = sleep_until(until) => Left::Drained,
            },
            state::Leaving::EndingResources => {
                if let Some(keeper) = &mut self.keeper {
                    keeper.ended().await;
                }
                Left::ResourcesEnded
            }
            state::Leaving::EndingWorker => {
                let times = shared.leaving_times(self.shutdown);
                Left::Ended(self.worker.end(times.drain, times.grace).await)
            }
        }
    }

    /// Begins to end its resources.
    pub(super) fn end_resources(&mut self) {
        if let Some(keeper) = &mut self.keeper {
            keeper.stop();
        }
    }
}

/// Sleeps until a time that is there.
async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
