//! Workers that are out for their health check: taken between calls, never from one.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Dispatch, State};
use crate::{
    clock::after,
    id::{SlotId, WorkerId},
    pool::{
        health::HealthCheck,
        lease::Lease,
        seat::{Seat, Turn},
    },
    worker::Unhealthy,
};

/// Of so many workers one may be out for its check at a time, so that those that started together are not all out together.
const SHARE: usize = 4;

/// What the pool keeps of health checks.
#[derive(Debug, Default)]
pub(super) struct Checks {
    /// No worker is taken any more.
    over: bool,
    /// Workers that are out.
    out: usize,
    /// Those of them that nobody has begun to check.
    taken: Vec<Arc<Seat>>,
}

/// The last check in a slot.
#[derive(Debug)]
pub(super) struct Checked {
    worker: WorkerId,
    over: Instant,
    began: Instant,
    outcome: Result<(), Unhealthy>,
}

impl Checked {
    pub(super) fn told(&self, now: Instant) -> HealthCheck {
        HealthCheck {
            worker: self.worker,
            age: now - self.over,
            took: self.over - self.began,
            outcome: self.outcome.clone(),
        }
    }
}

impl Checks {
    /// Workers that calls could have, were they not out.
    pub(super) fn out(&self) -> usize {
        self.out
    }

    /// Whether there are some that nobody has begun to check.
    pub(super) fn are_waiting(&self) -> bool {
        !self.taken.is_empty()
    }
}

impl State {
    /// Takes a worker out for its check, if that is due and can be made now. Whether it is not to be lent to calls.
    pub(super) fn keep_for_check(&mut self, seat: &Arc<Seat>) -> bool {
        let share = (self.seats.len() / SHARE).max(1);
        let due = seat.turn() == Some(Turn::Due);
        if !due || self.checks.over || self.checks.out >= share {
            return false;
        }
        let alone = seat.concurrency() == 1;
        if alone && seat.is_lent() {
            // Short calls that were sent ahead: it is taken when they are over.
            return true;
        }
        seat.set_turn(Turn::Out);
        seat.lend();
        // It may have room for calls besides.
        self.put_idle(Arc::clone(seat));
        self.checks.out += 1;
        self.checks.taken.push(Arc::clone(seat));
        alone
    }

    fn back_from_check(&mut self, seat: &Seat, next: Instant) {
        self.checks.out -= 1;
        seat.set_turn(Turn::At(next));
        seat.take_back();
    }
}

impl Dispatch {
    /// The workers that are to be checked now, and when the next one will be due. A busy one follows when it is given back.
    pub(in crate::pool) fn checks_due(self: &Arc<Self>, now: Instant) -> (Vec<Lease>, Option<Instant>) {
        let mut state = self.lock();
        let mut next: Option<Instant> = None;
        let mut due = Vec::new();
        for seat in state.seats.values().filter(|seat| !seat.is_gone()) {
            match seat.turn() {
                Some(Turn::At(at)) if at > now => next = Some(next.map_or(at, |next| next.min(at))),
                Some(Turn::At(_) | Turn::Due) => {
                    seat.set_turn(Turn::Due);
                    due.push(Arc::clone(seat));
                }
                Some(Turn::Out) | None => {}
            }
        }
        for seat in due.iter().filter(|seat| seat.can_run_more()) {
            state.keep_for_check(seat);
        }
        let taken = std::mem::take(&mut state.checks.taken);
        let leases = taken
            .into_iter()
            .map(|seat| Lease::for_check(Arc::clone(self), seat));
        (leases.collect(), next)
    }

    /// A check is due, or there is room for one more.
    pub(super) fn look_for_checks(&self) {
        self.check.notify_one();
    }

    /// Resolves after [`look_for_checks`](Self::look_for_checks).
    pub(in crate::pool) async fn may_be_checked(&self) {
        self.check.notified().await;
    }

    /// Takes a worker back from its check.
    pub(in crate::pool) fn back_from_check(self: &Arc<Self>, seat: Arc<Seat>) {
        let interval = self.rules.health_interval.unwrap_or_default();
        let mut state = self.lock();
        state.back_from_check(&seat, after(Instant::now(), interval));
        let gone = seat.is_gone();
        if gone {
            state.has_left(&seat);
        }
        self.hand_on(&mut state, seat);
        drop(state);
        self.look_for_checks();
        if gone {
            self.changed.notify_waiters();
        }
    }

    /// No worker is checked from now on; those that were taken serve.
    pub(in crate::pool) fn end_checks(self: &Arc<Self>) {
        let mut state = self.lock();
        state.checks.over = true;
        for seat in std::mem::take(&mut state.checks.taken) {
            state.back_from_check(&seat, Instant::now());
            self.hand_on(&mut state, seat);
        }
    }

    /// A check is over.
    pub(in crate::pool) fn checked(
        &self,
        slot: SlotId,
        worker: WorkerId,
        began: Instant,
        outcome: Result<(), Unhealthy>,
    ) -> HealthCheck {
        let over = Instant::now();
        let checked = Checked {
            worker,
            over,
            began,
            outcome,
        };
        let told = checked.told(over);
        self.lock().checked.insert(slot, checked);
        told
    }

    /// Resolves when nothing but its check is on a worker.
    pub(in crate::pool) async fn has_only_its_check(&self, seat: &Seat) {
        self.until(|_| seat.lent() <= 1).await;
    }

    /// How many may wait now: those that wait because of a check would not have to.
    pub(super) fn queue_limit(&self, state: &State) -> Option<usize> {
        let limit = self.rules.queue_limit?;
        Some(limit.saturating_add(state.checks.out()))
    }
}
