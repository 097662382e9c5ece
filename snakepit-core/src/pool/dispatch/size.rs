//! The slots of a pool: how many there are, should be, and which of them go.

use std::{
    cmp::Reverse,
    sync::{Arc, atomic::Ordering},
};

use tokio::time::Instant;

use super::{Dispatch, State};
use crate::{
    clock::after,
    id::SlotId,
    pool::{
        scaling::{Bounds, Plan, free_slots},
        seat::Seat,
        session::LostBy,
        status::Phase,
    },
};

impl State {
    /// Workers that calls need now, those that wait included.
    fn needed(&self, waiting: usize) -> usize {
        (self.lent + waiting).div_ceil(self.concurrency)
    }

    /// Whether more slots are wanted than there are.
    pub(super) fn is_short(&self, waiting: usize) -> bool {
        self.slots.len() < self.bounds.max && self.slots.len() < self.bounds.wanted(self.needed(waiting))
    }

    /// Takes a slot away, and its worker with it: nobody is lent it any more.
    fn give_up(&mut self, slot: SlotId) -> Option<Arc<Seat>> {
        self.slots.remove(&slot);
        self.leaving.insert(slot);
        let seat = self.seats.remove(&slot)?;
        self.retire(&seat);
        Some(seat)
    }

    /// Which slots go when there are so many too many: those that cannot get a worker; of workers without a call the one that has
    /// had none for the longest time, if that is long enough. Should the pool have to become smaller, others go as well: those
    /// without a call before those with. Of each kind those without sessions go first.
    fn too_many(&self, count: usize, now: Instant) -> Vec<SlotId> {
        let must = self.slots.len().saturating_sub(self.bounds.max);
        let (mut go, mut could) = (Vec::new(), Vec::new());
        for slot in self
            .slots
            .iter()
            .rev()
            .filter(|slot| !self.seats.contains_key(slot))
        {
            // One that is being started was wanted a moment ago.
            let list = if self.trouble.contains_key(slot) {
                &mut go
            } else {
                &mut could
            };
            list.push(*slot);
        }
        let mut idle: Vec<_> = self.seats.values().filter(|seat| !seat.is_lent()).collect();
        // Those without sessions first, since the others' would be lost.
        let has_sessions = |seat: &Seat| self.bonds.on(seat.worker.id()) > 0;
        idle.sort_by_key(|seat| (has_sessions(seat), Reverse(seat.idle_for(now))));
        for seat in idle {
            let cold = seat.idle_for(now) >= self.bounds.idle_timeout;
            let list = if cold { &mut go } else { &mut could };
            list.push(seat.slot);
        }
        let mut busy: Vec<_> = self.seats.values().rev().filter(|seat| seat.is_lent()).collect();
        busy.sort_by_key(|seat| has_sessions(seat));
        could.extend(busy.into_iter().map(|seat| seat.slot));
        go.truncate(count);
        go.extend(could.into_iter().take(must.saturating_sub(go.len())));
        go
    }
}

impl Dispatch {
    /// What is to be done about the number of slots now; `None` when the pool is over.
    pub(in crate::pool) fn plan(&self, now: Instant) -> Option<Plan> {
        let mut state = self.lock();
        if state.phase == Phase::Stopped {
            return None;
        }
        let waiting = self.waiters.load(Ordering::Relaxed);
        // More workers are of no use to those that wait for a certain one.
        let waiting = waiting.saturating_sub(state.bonds.waiting());
        let wanted = state.bounds.wanted(state.needed(waiting));
        let slots = state.slots.len();
        let mut plan = Plan::default();
        if state.phase.refuses() {
            return Some(plan);
        }
        if slots < wanted {
            let taken = state.slots.union(&state.leaving).copied().collect();
            plan.start = free_slots(&taken, wanted - slots);
            state.slots.extend(&plan.start);
        } else if slots > wanted {
            for slot in state.too_many(slots - wanted, now) {
                let seat = state.give_up(slot);
                if let Some(seat) = &seat {
                    self.lose(&mut state, seat, &LostBy::ScaledIn);
                }
                plan.end.push((slot, seat));
            }
        }
        if state.slots.len() > state.bounds.min {
            // Looked for rather than told: telling would cost every call something.
            plan.again = Some(after(now, (state.bounds.idle_timeout / 2).max(Bounds::TICK)));
        }
        drop(state);
        self.changed.notify_waiters();
        Some(plan)
    }

    /// Sets the bounds.
    pub(in crate::pool) fn set_bounds(&self, min: usize, max: usize) {
        let mut state = self.lock();
        (state.bounds.min, state.bounds.max) = (min, max);
        drop(state);
        self.short.notify_one();
    }

    /// Resolves when there may be too few slots, or the bounds have changed.
    pub(in crate::pool) async fn short(&self) {
        self.short.notified().await;
    }

    /// A slot could not be started: the supervisor is ending.
    pub(in crate::pool) fn not_started(&self, slot: SlotId) {
        self.lock().slots.remove(&slot);
    }

    /// Nothing of a slot is left.
    pub(in crate::pool) fn has_left(&self, slot: SlotId) {
        let mut state = self.lock();
        state.leaving.remove(&slot);
        state.trouble.remove(&slot);
        state.checked.remove(&slot);
        drop(state);
        // A number is free again.
        self.short.notify_one();
    }
}
