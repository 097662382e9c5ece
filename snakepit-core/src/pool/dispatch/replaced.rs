//! Workers that have served for long enough, and those that were replaced.

use std::{collections::BTreeMap, sync::Arc};

use tokio::time::Instant;

use super::{Dispatch, State};
use crate::{
    id::{SlotId, WorkerId},
    pool::{ReplaceCause, seat::Seat},
};

/// A worker that has served for long enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pool) struct Due {
    pub(in crate::pool) slot: SlotId,
    pub(in crate::pool) worker: WorkerId,
    pub(in crate::pool) cause: ReplaceCause,
}

impl State {
    /// A worker is not lent from now on, but may have calls.
    pub(super) fn retire(&mut self, seat: &Arc<Seat>) {
        seat.retire();
        self.idle.remove(seat);
        if seat.is_lent() {
            self.retired.push(Arc::clone(seat));
        }
    }

    /// A call on a worker that serves no more is over.
    pub(super) fn has_left(&mut self, seat: &Arc<Seat>) {
        if !seat.is_lent() {
            self.retired.retain(|retired| !Arc::ptr_eq(retired, seat));
        }
    }
}

impl Dispatch {
    /// A worker may have served for long enough: whoever sees to that looks.
    pub(in crate::pool) fn look_for_due(&self) {
        self.due.notify_one();
    }

    /// Resolves after [`look_for_due`](Self::look_for_due), and when a worker is new.
    pub(in crate::pool) async fn may_be_due(&self) {
        self.due.notified().await;
    }

    /// The workers that have served for long enough, and when the next one will have. `memory` has what was measured of
    /// those that have too much.
    pub(in crate::pool) fn due(
        &self,
        memory: &BTreeMap<WorkerId, u64>,
        now: Instant,
    ) -> (Vec<Due>, Option<Instant>) {
        let state = self.lock();
        let mut next: Option<Instant> = None;
        let mut due = Vec::new();
        for seat in state.seats.values().filter(|seat| !seat.is_gone()) {
            let worker = seat.worker.id();
            let heavy = memory
                .get(&worker)
                .map(|&rss_bytes| ReplaceCause::Memory { rss_bytes });
            if let Some(cause) = seat.overdue(now).or(heavy) {
                let slot = seat.slot;
                due.push(Due { slot, worker, cause });
            } else if let Some(until) = seat.lifetime.until {
                next = Some(next.map_or(until, |next| next.min(until)));
            }
        }
        (due, next)
    }

    /// A slot is about to get another worker, for this reason.
    pub(in crate::pool) fn replacing(&self, slot: SlotId, cause: ReplaceCause) {
        self.lock().replacing.insert(slot, cause);
    }

    /// A slot has another worker, or keeps the one it has.
    pub(in crate::pool) fn replaced(&self, slot: SlotId) {
        self.lock().replacing.remove(&slot);
    }

    /// The worker that serves in a slot, and the calls it was given.
    pub(in crate::pool) fn serves(&self, slot: SlotId) -> Option<(WorkerId, u64)> {
        let state = self.lock();
        let seat = state.seats.get(&slot)?;
        Some((seat.worker.id(), seat.calls()))
    }

    /// Resolves when no call has a worker that was replaced.
    pub(super) async fn left_by_calls(&self, worker: WorkerId) {
        self.until(|state| state.retired.iter().all(|seat| seat.worker.id() != worker))
            .await;
    }

    /// Resolves when no call has a worker of a slot in which none serves any more.
    pub(in crate::pool) async fn given_back(&self, slot: SlotId) {
        self.until(|state| state.retired.iter().all(|seat| seat.slot != slot))
            .await;
    }
}
