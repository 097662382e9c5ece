//! What the pool is told of its slots: who serves, and who does not any more.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Dispatch, Refusal, State};
use crate::{
    id::{SlotId, WorkerId},
    pool::{ReplaceCause, seat::Seat, session::LostBy},
    supervision::{SlotEvent, SlotObserver},
    worker::BoxFuture,
};

/// Starts that must fail in a row, in every slot, before callers are told that nobody serves. The first restart is
/// at once, so a single failure may be over before a caller would have noticed.
const FAILED_STARTS: u32 = 2;

/// Processes in a row that ended in the same way at the same step before they were ready, and none that was: the next one
/// will, too.
pub(super) const ALIKE: u32 = 3;

/// What the pool knows of a slot that does not serve.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    failed_starts: u32,
    given_up: bool,
}

impl State {
    /// A refusal when no slot serves and none is about to.
    pub(super) fn nobody(&self) -> Option<Refusal> {
        let hopeless = |trouble: &Trouble| trouble.given_up || trouble.failed_starts >= FAILED_STARTS;
        let lost = |slot| self.trouble.get(slot).is_some_and(hopeless);
        let nobody = self.seats.is_empty() && !self.slots.is_empty() && self.slots.iter().all(lost);
        nobody.then(|| Refusal::Nobody {
            last: self.last_error.clone(),
        })
    }

    /// Takes a worker out, to be dropped outside of the lock.
    fn forget(&mut self, slot: SlotId, worker: WorkerId) -> Option<Arc<Seat>> {
        let Some(seat) = self.seats.get(&slot).filter(|seat| seat.worker.id() == worker) else {
            // Of a slot on its way out, which does not wait for whoever still has the call.
            let at = self.retired.iter().position(|seat| seat.worker.id() == worker)?;
            return Some(self.retired.swap_remove(at));
        };
        seat.retire();
        self.idle.remove(seat);
        self.seats.remove(&slot)
    }
}

impl SlotObserver for Arc<Dispatch> {
    fn slot_event(&self, event: SlotEvent) {
        // A worker is foreign code: it is asked for its client, and dropped, without the lock.
        let ready = match &event {
            SlotEvent::Ready { slot, worker } => {
                let lifetime = self.rules.lifetimes.of_a_worker(Instant::now());
                let checked = self.rules.health_interval.is_some();
                Some(Arc::new(Seat::new(*slot, Arc::clone(worker), lifetime, checked)))
            }
            _ => None,
        };
        let mut state = self.lock();
        let gone = match event {
            // It was given up while it was being started, and is about to be ended.
            SlotEvent::Ready { slot, .. } if !state.slots.contains(&slot) => ready,
            SlotEvent::Ready { slot, .. } => ready.and_then(|seat| {
                state.trouble.remove(&slot);
                state.concurrency = seat.concurrency();
                let before = state.seats.insert(slot, Arc::clone(&seat));
                if let Some(before) = &before {
                    state.retire(before);
                    // Only the pool replaces workers, and says why.
                    let cause = state.replacing.get(&slot).copied();
                    let by = LostBy::Replaced(cause.unwrap_or(ReplaceCause::Restart));
                    self.lose(&mut state, before, &by);
                }
                self.hand_on(&mut state, seat);
                self.due.notify_one();
                before
            }),
            SlotEvent::Down { slot, worker, down } => {
                let gone = state.forget(slot, worker);
                if let Some(seat) = &gone {
                    self.lose(&mut state, seat, &LostBy::Down(Arc::new(down)));
                }
                gone
            }
            SlotEvent::StartFailed { slot, error } => {
                state.trouble.entry(slot).or_default().failed_starts += 1;
                let before = state.last_error.as_ref();
                let is_alike = before.is_some_and(|before| error.ended_like(before));
                state.alike = if is_alike { state.alike + 1 } else { 1 };
                state.last_error = Some(error);
                None
            }
            SlotEvent::ReplacementFailed { error, .. } => {
                state.last_error = Some(error);
                None
            }
            SlotEvent::Quarantined { slot, .. } | SlotEvent::Terminated { slot } => {
                state.trouble.entry(slot).or_default().given_up = true;
                None
            }
        };
        if let Some(refusal) = state.nobody() {
            self.refuse_all(&mut state, &refusal);
        }
        drop(state);
        drop(gone);
        self.changed.notify_waiters();
    }

    fn drained(&self, _: SlotId, worker: WorkerId) -> BoxFuture<()> {
        let dispatch = Self::clone(self);
        Box::pin(async move { dispatch.left_by_calls(worker).await })
    }
}
