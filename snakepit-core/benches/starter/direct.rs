//! The direct topology: the supervisor's child is the worker itself. It exists to be compared with.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use snakepit_core::{
    SlotId,
    event::{EventKind, Events},
    supervision::{
        Shutdown, SlotEvent, SlotObserver, SlotState, SlotStatus, Starter, StarterExit, StarterFactory,
    },
    worker::{StartTurn, WorkerFactory},
};
use tokio::{sync::Notify, time::Instant};

/// Makes [`Direct`] children.
#[derive(Debug)]
pub(crate) struct DirectFactory {
    config: Arc<Config>,
}

#[derive(Debug)]
struct Config {
    workers: Arc<dyn WorkerFactory>,
    observer: Arc<dyn SlotObserver>,
    events: Events,
}

impl DirectFactory {
    pub(crate) fn new(
        workers: Arc<dyn WorkerFactory>,
        observer: Arc<dyn SlotObserver>,
        events: Events,
    ) -> Self {
        Self {
            config: Arc::new(Config {
                workers,
                observer,
                events,
            }),
        }
    }
}

impl StarterFactory for DirectFactory {
    fn start(&self, slot: SlotId) -> Arc<dyn Starter> {
        let child = Arc::new(Direct {
            slot,
            asked: Notify::new(),
            ended: Notify::new(),
            exit: Mutex::new(None),
        });
        tokio::spawn(run(Arc::clone(&child), Arc::clone(&self.config)));
        child
    }
}

/// One worker under a supervisor, and the least that a supervisor needs of it.
#[derive(Debug)]
struct Direct {
    slot: SlotId,
    asked: Notify,
    ended: Notify,
    exit: Mutex<Option<StarterExit>>,
}

async fn run(child: Arc<Direct>, config: Arc<Config>) {
    let slot = child.slot;
    let began = Instant::now();
    let exit = match config.workers.start(slot, StartTurn::now()).await {
        Err(_) => StarterExit::Killed,
        Ok(worker) => {
            config.events.emit(EventKind::WorkerReady {
                slot,
                worker: worker.id(),
                pid: worker.pid(),
                took: began.elapsed(),
            });
            config.observer.slot_event(SlotEvent::Ready {
                slot,
                worker: Arc::clone(&worker),
            });
            let exit = tokio::select! {
                () = child.asked.notified() => StarterExit::Terminated,
                _ = worker.down() => StarterExit::Killed,
            };
            let Shutdown { drain, grace } = Shutdown::default();
            let report = worker.end(drain, grace).await;
            config.events.emit(EventKind::WorkerEnded {
                slot,
                worker: worker.id(),
                report,
            });
            exit
        }
    };
    *child.exit.lock().unwrap_or_else(PoisonError::into_inner) = Some(exit);
    child.ended.notify_waiters();
}

#[async_trait]
impl Starter for Direct {
    fn slot(&self) -> SlotId {
        self.slot
    }

    fn status(&self) -> SlotStatus {
        SlotStatus::new(self.slot, SlotState::Serving)
    }

    async fn terminated(&self) -> StarterExit {
        loop {
            let ended = self.ended.notified();
            let exit = self.exit.lock().unwrap_or_else(PoisonError::into_inner).clone();
            match exit {
                Some(exit) => return exit,
                None => ended.await,
            }
        }
    }

    async fn terminate(&self, _shutdown: Shutdown) -> StarterExit {
        self.asked.notify_one();
        self.terminated().await
    }
}
