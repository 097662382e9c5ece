//! One start of a worker, in a task of its own.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::oneshot,
    task::{JoinError, JoinHandle},
    time::Instant,
};

use super::Config;
use crate::{
    id::SlotId,
    worker::{StartError, Worker, WorkerFactory},
};

/// How a start came out.
#[derive(Debug)]
pub(super) enum Started {
    /// Ready, after this time, in which it did not wait for its turn.
    Ready(Arc<dyn Worker>, Duration),
    /// Failed; nothing is left.
    Failed(Arc<StartError>),
    /// Cancelled; nothing is left.
    Cancelled,
}

/// A start under way. Dropping it cancels the start; what it had begun is ended in the background.
#[derive(Debug)]
pub(super) struct Launch {
    task: JoinHandle<Started>,
    cancel: Option<oneshot::Sender<()>>,
}

impl Launch {
    pub(super) fn begin(slot: SlotId, config: &Arc<Config>, workers: Arc<dyn WorkerFactory>) -> Self {
        let (cancel, cancelled) = oneshot::channel();
        let task = tokio::spawn(run(slot, Arc::clone(config), workers, cancelled));
        Self {
            task,
            cancel: Some(cancel),
        }
    }

    /// Cancels the start; [`done`](Self::done) still tells how it came out.
    pub(super) fn cancel(&mut self) {
        // The other side takes the sender's drop for the cancel, so that a starter's death is one, too.
        self.cancel = None;
    }

    /// Resolves when the start is done; must not be polled again after that. Cancel safe.
    pub(super) async fn done(&mut self) -> Result<Started, JoinError> {
        (&mut self.task).await
    }
}

async fn run(
    slot: SlotId,
    config: Arc<Config>,
    workers: Arc<dyn WorkerFactory>,
    cancelled: oneshot::Receiver<()>,
) -> Started {
    let start = async {
        let began = Instant::now();
        let turn = config.starts.turn();
        let started = workers.start(slot, turn.clone()).await;
        (started, began.elapsed().saturating_sub(turn.waited()))
    };
    let started = tokio::select! {
        // The cancel comes first: whoever cancels waits for it.
        biased;
        _ = cancelled => None,
        started = start => Some(started),
    };
    match started {
        Some((Ok(worker), took)) => Started::Ready(worker, took),
        Some((Err(error), _)) => Started::Failed(Arc::new(error)),
        None => {
            workers.settle(slot).await;
            Started::Cancelled
        }
    }
}
