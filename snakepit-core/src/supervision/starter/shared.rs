//! What a starter's handles and its task share.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use super::{ReplaceError, Replaced, Replacement, StarterExit, keeper::Board};
use crate::{
    id::SlotId,
    supervision::{LeavingStatus, Shutdown, SlotState, SlotStatus},
    worker::Worker,
};

/// A starter's state as its handles see it. One small allocation: channels would cost more than the rest of
/// the starter.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) slot: SlotId,
    inner: Mutex<Inner>,
    /// Wakes the task when `asked` has changed.
    asked: Notify,
    /// Wakes the waiters when `exit` is there.
    ended: Notify,
}

#[derive(Debug)]
struct Inner {
    shown: Shown,
    worker: Option<Arc<dyn Worker>>,
    resources: Option<Arc<Board>>,
    leaving: Option<(Arc<dyn Worker>, Instant)>,
    restarts: u64,
    last_failure: Option<Arc<str>>,
    asked: Option<Shutdown>,
    /// Requests for another worker that the task has not seen.
    replace: Vec<Request>,
    exit: Option<StarterExit>,
}

/// A request for another worker, and who waits for its answer.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) replacement: Replacement,
    pub(super) reply: oneshot::Sender<Result<Replaced, ReplaceError>>,
}

/// What the status shows, with a time instead of what is left of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    Starting,
    Serving,
    Replacing,
    Ending,
    Pausing(Instant),
    Idle,
    Terminating,
    Terminated,
}

impl Shared {
    pub(super) fn new(slot: SlotId) -> Self {
        Self {
            slot,
            inner: Mutex::new(Inner {
                shown: Shown::Starting,
                worker: None,
                resources: None,
                leaving: None,
                restarts: 0,
                last_failure: None,
                asked: None,
                replace: Vec::new(),
                exit: None,
            }),
            asked: Notify::new(),
            ended: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is a plain assignment: a panic cannot have left it half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn status(&self) -> SlotStatus {
        let inner = self.lock();
        let state = match inner.shown {
            Shown::Starting => SlotState::Starting,
            Shown::Serving => SlotState::Serving,
            Shown::Replacing => SlotState::Replacing,
            Shown::Ending => SlotState::Ending,
            Shown::Pausing(until) => SlotState::Pausing {
                left: until.saturating_duration_since(Instant::now()),
            },
            Shown::Idle => SlotState::Idle,
            Shown::Terminating => SlotState::Terminating,
            Shown::Terminated => SlotState::Terminated,
        };
        let mut status = SlotStatus::new(self.slot, state);
        status.restarts = inner.restarts;
        status.last_failure.clone_from(&inner.last_failure);
        let worker = inner.worker.clone();
        let resources = inner.resources.clone();
        let leaving = inner.leaving.clone();
        drop(inner);
        // Workers and resources are foreign code: they are asked without the lock.
        if let Some(worker) = worker {
            status.worker = Some(worker.id());
            status.pid = worker.pid();
        }
        status.leaving = leaving.map(|(worker, since)| LeavingStatus {
            worker: worker.id(),
            pid: worker.pid(),
            since: since.elapsed(),
        });
        if let Some(board) = resources {
            (status.resources, status.metrics) = board.status();
        }
        status
    }

    pub(super) fn show(&self, shown: Shown, restarts: u64) {
        let mut inner = self.lock();
        inner.shown = shown;
        inner.restarts = restarts;
    }

    pub(super) fn set_worker(&self, worker: Option<Arc<dyn Worker>>) {
        // Dropped outside of the lock: it may be the last handle, and a worker's drop is foreign code.
        let _old = std::mem::replace(&mut self.lock().worker, worker);
    }

    pub(super) fn set_resources(&self, board: Option<Arc<Board>>) {
        let _old = std::mem::replace(&mut self.lock().resources, board);
    }

    pub(super) fn set_leaving(&self, leaving: Option<Arc<dyn Worker>>) {
        let leaving = leaving.map(|worker| (worker, Instant::now()));
        let _old = std::mem::replace(&mut self.lock().leaving, leaving);
    }

    pub(super) fn set_failure(&self, cause: Arc<str>) {
        self.lock().last_failure = Some(cause);
    }

    pub(super) fn last_failure(&self) -> Option<Arc<str>> {
        self.lock().last_failure.clone()
    }

    /// Asks for the end. Asking again matters only when it is for less time.
    pub(super) fn ask(&self, shutdown: Shutdown) {
        let mut inner = self.lock();
        let wanted = inner.asked.map_or(shutdown, |asked| asked.min(shutdown));
        if inner.exit.is_none() && inner.asked != Some(wanted) {
            inner.asked = Some(wanted);
            self.asked.notify_one();
        }
    }

    /// Asks for another worker; the answer never comes once the starter has ended.
    pub(super) fn ask_replacement(
        &self,
        replacement: Replacement,
    ) -> oneshot::Receiver<Result<Replaced, ReplaceError>> {
        let (reply, answer) = oneshot::channel();
        let mut inner = self.lock();
        if inner.exit.is_none() {
            inner.replace.push(Request { replacement, reply });
            self.asked.notify_one();
        }
        answer
    }

    /// Resolves once after one or more requests.
    pub(super) async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Whether the end was asked for, and the requests for another worker since the last call.
    pub(super) fn requests(&self) -> (bool, Vec<Request>) {
        let mut inner = self.lock();
        (inner.asked.is_some(), std::mem::take(&mut inner.replace))
    }

    /// The time a worker has to end: as asked, or no drain and this grace when nobody asked.
    pub(super) fn end_times(&self, grace: Duration) -> Shutdown {
        let drain = Duration::ZERO;
        self.lock().asked.unwrap_or(Shutdown { drain, grace })
    }

    /// The time a worker that was replaced has to end: as planned, or less where the slot's end was asked for.
    pub(super) fn leaving_times(&self, planned: Shutdown) -> Shutdown {
        self.lock().asked.map_or(planned, |asked| asked.min(planned))
    }

    /// Reports the end, once.
    pub(super) fn finish(&self, exit: StarterExit) {
        let left = {
            let mut inner = self.lock();
            inner.exit.get_or_insert(exit);
            inner.shown = Shown::Terminated;
            let requests = std::mem::take(&mut inner.replace);
            (
                inner.worker.take(),
                inner.resources.take(),
                inner.leaving.take(),
                requests,
            )
        };
        drop(left);
        self.ended.notify_waiters();
    }

    pub(super) fn exit(&self) -> Option<StarterExit> {
        self.lock().exit.clone()
    }

    /// Resolves when the end is reported.
    pub(super) async fn ended(&self) -> StarterExit {
        loop {
            let ended = self.ended.notified();
            if let Some(exit) = self.exit() {
                return exit;
            }
            ended.await;
        }
    }
}
