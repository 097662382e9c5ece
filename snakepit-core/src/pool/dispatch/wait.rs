//! Callers that wait: how many may, and how they leave.

use std::sync::{Arc, atomic::Ordering};

use tokio::sync::oneshot;

use super::{Dispatch, Grant, Refusal, State, Turn};
use crate::pool::{
    limits::{Limit, Permit},
    queue::{Overflow, Queued},
    status::Phase,
};

impl Dispatch {
    /// Sees to it that one more caller may wait; who has to leave for that.
    pub(super) fn make_room(&self, state: &mut State, turn: Turn) -> Result<Option<Queued>, Refusal> {
        let waiting = self.waiters.load(Ordering::Relaxed);
        let limit = self.queue_limit(state);
        let Some(limit) = limit.filter(|limit| waiting >= *limit && !turn.accepted) else {
            return Ok(None);
        };
        let displaced = match self.rules.overflow {
            Overflow::Refuse => None,
            Overflow::DropOldest => state.pop_oldest(turn.priority),
        };
        displaced.map(Some).ok_or(Refusal::Full { waiting, limit })
    }

    /// Refuses a caller that was taken out of the queue.
    pub(super) fn refuse(&self, waiter: Queued, refusal: Refusal) {
        // Those that have left have counted themselves out.
        if waiter.answer.send(Err(refusal)).is_ok() {
            self.waiters.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Waits for a permit to execute a function that is limited. It counts as waiting in the queue; the guard that comes with
    /// the permit covers the way from here to a worker, and joins the queue with its caller.
    ///
    /// # Cancel safety
    /// A caller that leaves takes no permit along.
    pub(in crate::pool) async fn permit(
        &self,
        limit: &Limit,
        turn: Turn,
    ) -> Result<(Permit, Option<Waits<'_>>), Refusal> {
        if let Some(permit) = limit.try_acquire() {
            return Ok((permit, None));
        }
        let waits = {
            let state = self.lock();
            if state.phase.refuses() && !(turn.accepted && state.phase == Phase::Draining) {
                return Err(Refusal::Phase(state.phase));
            }
            let waiting = self.waiters.load(Ordering::Relaxed);
            let limit = self.queue_limit(&state);
            if let Some(limit) = limit.filter(|limit| waiting >= *limit && !turn.accepted) {
                return Err(Refusal::Full { waiting, limit });
            }
            self.waiters.fetch_add(1, Ordering::Relaxed);
            Waits { dispatch: self }
        };
        let permit = limit.acquire().await;
        let permit = permit.ok_or(Refusal::Phase(Phase::Stopped))?;
        Ok((permit, Some(waits)))
    }

    /// A call is about to lose its worker and may come back to the queue.
    pub(in crate::pool) fn returning(self: &Arc<Self>) -> Returning {
        self.returning.fetch_add(1, Ordering::Relaxed);
        Returning {
            dispatch: Arc::clone(self),
        }
    }
}

/// A caller in the queue.
pub(super) struct Waiter<'a> {
    pub(super) dispatch: &'a Dispatch,
    /// `None` once it was answered.
    pub(super) granted: Option<oneshot::Receiver<Grant>>,
}

impl Waiter<'_> {
    pub(super) async fn wait(mut self) -> Grant {
        let Some(granted) = &mut self.granted else {
            unreachable!("only this takes it, and takes self with it");
        };
        let grant = granted.await;
        self.granted = None;
        // The sender is dropped unanswered only with the whole pool.
        grant.unwrap_or(Err(Refusal::Phase(Phase::Stopped)))
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let Some(mut granted) = self.granted.take() else {
            return;
        };
        // Closed first, so that either we find the answer here or its sender learns that we have left.
        granted.close();
        if granted.try_recv().is_err() {
            self.dispatch.waiters.fetch_sub(1, Ordering::Relaxed);
            self.dispatch.changed.notify_waiters();
        }
    }
}

/// A caller that waits elsewhere than in the queue, and is counted all the same.
#[derive(Debug)]
pub(in crate::pool) struct Waits<'a> {
    dispatch: &'a Dispatch,
}

impl Waits<'_> {
    /// Joins the queue, which counts the caller out from now on; how many others wait.
    pub(super) fn join(self) -> usize {
        let others = self.dispatch.waiters.load(Ordering::Relaxed).saturating_sub(1);
        std::mem::forget(self);
        others
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.dispatch.waiters.fetch_sub(1, Ordering::Relaxed);
        self.dispatch.changed.notify_waiters();
    }
}

/// A call without worker that is not over: the pool is not quiet until this is dropped, which is when it has another one,
/// or has ended.
#[derive(Debug)]
pub(in crate::pool) struct Returning {
    dispatch: Arc<Dispatch>,
}

impl Drop for Returning {
    fn drop(&mut self) {
        self.dispatch.returning.fetch_sub(1, Ordering::Relaxed);
        self.dispatch.changed.notify_waiters();
    }
}
