//! Keeps the resources beside one worker.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Config;
use crate::{
    event::EventKind,
    id::SlotId,
    supervision::{MetricsSample, Resource, ResourceFactory, ResourceState, ResourceStatus},
    worker::Worker,
};

/// How long a resource may take to start before it counts as failed: a connection pool's first connection
/// has its own, shorter deadline.
const START_LIMIT: Duration = Duration::from_secs(10);

/// How long a resource may take to end before it is left behind. The slot's next worker waits for this.
const END_LIMIT: Duration = Duration::from_secs(2);

/// What status shows of the resources.
#[derive(Debug)]
pub(super) struct Board {
    entries: Mutex<Vec<Entry>>,
}

#[derive(Debug)]
struct Entry {
    name: Arc<str>,
    state: ResourceState,
    resource: Option<Arc<dyn Resource>>,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        // Every change is a plain assignment: a panic cannot have left it half done.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, at: usize, state: ResourceState, resource: Option<Arc<dyn Resource>>) {
        if let Some(entry) = self.lock().get_mut(at) {
            entry.state = state;
            entry.resource = resource;
        }
    }

    pub(super) fn status(&self) -> (Vec<ResourceStatus>, Option<MetricsSample>) {
        let (statuses, resources): (Vec<_>, Vec<_>) = self
            .lock()
            .iter()
            .map(|entry| {
                let name = Arc::clone(&entry.name);
                let state = entry.state;
                (ResourceStatus { name, state }, entry.resource.clone())
            })
            .unzip();
        let metrics = resources
            .into_iter()
            .flatten()
            .find_map(|resource| resource.metrics());
        (statuses, metrics)
    }
}

/// The resources beside one worker, each in a task of its own: one that hangs holds up no other. They know
/// nothing of each other, so they start and end side by side, where OTP goes in order.
///
/// Dropping it ends them in the background.
#[derive(Debug)]
pub(super) struct Keeper {
    slot: SlotId,
    config: Arc<Config>,
    stop: Option<DropGuard>,
    tasks: Vec<(Arc<str>, JoinHandle<()>)>,
}

impl Keeper {
    /// Begins to start the resources; none of them costs anything when there are none.
    pub(super) fn start(
        slot: SlotId,
        config: &Arc<Config>,
        worker: &Arc<dyn Worker>,
    ) -> Option<(Self, Arc<Board>)> {
        if config.resources.is_empty() {
            return None;
        }
        let entries = config.resources.iter().map(|factory| Entry {
            name: factory.name(),
            state: ResourceState::Starting,
            resource: None,
        });
        let board = Arc::new(Board {
            entries: Mutex::new(entries.collect()),
        });
        let stop = CancellationToken::new();
        let tasks = config.resources.iter().enumerate().map(|(at, factory)| {
            let keep = Keep {
                slot,
                at,
                name: factory.name(),
                factory: Arc::clone(factory),
                config: Arc::clone(config),
                board: Arc::clone(&board),
            };
            (
                factory.name(),
                tokio::spawn(keep.run(Arc::clone(worker), stop.clone())),
            )
        });
        let keeper = Self {
            slot,
            config: Arc::clone(config),
            tasks: tasks.collect(),
            stop: Some(stop.drop_guard()),
        };
        Some((keeper, board))
    }

    /// Begins to end the resources.
    pub(super) fn stop(&mut self) {
        self.stop = None;
    }

    /// Resolves when all have ended. Cancel safe.
    pub(super) async fn ended(&mut self) {
        while let Some((name, task)) = self.tasks.last_mut() {
            if let Err(error) = task.await {
                self.config.events.emit(EventKind::ResourceFailed {
                    slot: self.slot,
                    resource: Arc::clone(name),
                    message: error.to_string(),
                });
            }
            self.tasks.pop();
        }
    }
}

/// One resource from its start to its end.
struct Keep {
    slot: SlotId,
    at: usize,
    name: Arc<str>,
    factory: Arc<dyn ResourceFactory>,
    config: Arc<Config>,
    board: Arc<Board>,
}

impl Keep {
    async fn run(self, worker: Arc<dyn Worker>, stop: CancellationToken) {
        let started = tokio::select! {
            // A stop comes first: a resource that is ready in the same moment is not needed.
            biased;
            () = stop.cancelled() => return,
            started = tokio::time::timeout(START_LIMIT, self.factory.start(self.slot, &worker)) => started,
        };
        // A resource that only holds the worker's pid must not hold the worker.
        drop(worker);
        let resource = match started {
            Ok(Ok(resource)) => resource,
            Ok(Err(error)) => return self.failed(&error.to_string(), None),
            Err(_) => return self.failed(&format!("did not start within {START_LIMIT:?}"), None),
        };
        self.board
            .set(self.at, ResourceState::Running, Some(Arc::clone(&resource)));
        self.emit(|slot, resource| EventKind::ResourceStarted { slot, resource });
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            cause = resource.failed() => {
                self.failed(&cause, Some(Arc::clone(&resource)));
                stop.cancelled().await;
            }
        }
        if tokio::time::timeout(END_LIMIT, resource.end()).await.is_err() {
            self.failed(&format!("did not end within {END_LIMIT:?}"), None);
        }
        self.emit(|slot, resource| EventKind::ResourceEnded { slot, resource });
    }

    fn failed(&self, cause: &str, resource: Option<Arc<dyn Resource>>) {
        self.board.set(self.at, ResourceState::Failed, resource);
        let message = cause.to_owned();
        self.emit(|slot, resource| EventKind::ResourceFailed {
            slot,
            resource,
            message,
        });
    }

    fn emit(&self, kind: impl FnOnce(SlotId, Arc<str>) -> EventKind) {
        self.config.events.emit(kind(self.slot, Arc::clone(&self.name)));
    }
}
