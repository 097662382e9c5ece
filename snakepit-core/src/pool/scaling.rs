//! How many slots a pool has: more when calls would wait, fewer when workers are idle.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{dispatch::Dispatch, seat::Seat};
use crate::{
    id::SlotId,
    supervision::{ChildSpec, Shutdown, StarterFactory, Supervisor},
};

/// The bounds of a pool's size, and what moves it between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Slots that there are always.
    pub(super) min: usize,
    /// Slots that there are at most.
    pub(super) max: usize,
    /// Workers beyond those that calls need now.
    pub(super) spare: usize,
    /// How long a worker that is not needed stays.
    pub(super) idle_timeout: Duration,
}

impl Bounds {
    /// Workers that are idle are not looked for more often than this.
    pub(super) const TICK: Duration = Duration::from_millis(10);

    /// Slots that are wanted when calls need so many workers. Without a call none is spare.
    pub(super) fn wanted(self, needed: usize) -> usize {
        let spare = if needed == 0 { 0 } else { self.spare };
        needed.saturating_add(spare).clamp(self.min, self.max)
    }
}

/// What is to be done about the number of slots.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Slots to start.
    pub(super) start: Vec<SlotId>,
    /// Slots to end, with the workers that nobody is lent any more.
    pub(super) end: Vec<(SlotId, Option<Arc<Seat>>)>,
    /// When to look again, if nothing is told before.
    pub(super) again: Option<Instant>,
}

/// The lowest numbers that are free: they are given again, and an environment may go by them.
pub(super) fn free_slots(taken: &BTreeSet<SlotId>, count: usize) -> Vec<SlotId> {
    let free = (0_u32..).map(SlotId).filter(|slot| !taken.contains(slot));
    free.take(count).collect()
}

/// Starts and ends slots as calls need them.
#[derive(Debug)]
pub(super) struct Scaler {
    pub(super) dispatch: Arc<Dispatch>,
    pub(super) supervisor: Arc<dyn Supervisor>,
    pub(super) starters: Arc<dyn StarterFactory>,
    pub(super) shutdown: Shutdown,
}

impl Scaler {
    /// Starts a slot.
    pub(super) async fn start(&self, slot: SlotId) {
        let spec = ChildSpec::new(slot, Arc::clone(&self.starters)).with_shutdown(self.shutdown);
        if let Err(error) = self.supervisor.start_child(spec).await {
            tracing::debug!(%slot, %error, "a slot is not started");
            self.dispatch.not_started(slot);
        }
    }

    /// Runs until the pool is over.
    pub(super) async fn run(self) {
        let scaler = Arc::new(self);
        let mut ends = JoinSet::new();
        while let Some(plan) = scaler.dispatch.plan(Instant::now()) {
            for slot in plan.start {
                scaler.start(slot).await;
            }
            for (slot, seat) in plan.end {
                let scaler = Arc::clone(&scaler);
                ends.spawn(async move { scaler.end(slot, seat).await });
            }
            tokio::select! {
                () = scaler.dispatch.short() => {}
                () = until(plan.again) => {}
                Some(_) = ends.join_next(), if !ends.is_empty() => {}
            }
        }
        // What is left to end is ended by the supervisor, with everything else.
        ends.shutdown().await;
    }

    /// Ends a slot, once its calls are over.
    async fn end(&self, slot: SlotId, seat: Option<Arc<Seat>>) {
        drop(seat);
        self.dispatch.given_back(slot).await;
        if let Err(error) = self.supervisor.terminate_child(slot).await {
            tracing::debug!(%slot, %error, "a slot has ended by itself");
        }
        self.dispatch.has_left(slot);
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_is_what_is_needed_and_a_spare_one_within_the_bounds() {
        let bounds = Bounds {
            min: 2,
            max: 5,
            spare: 1,
            idle_timeout: Duration::ZERO,
        };
        let wanted = [0, 1, 2, 4, 5, 9, usize::MAX].map(|needed| bounds.wanted(needed));
        assert_eq!(wanted, [2, 2, 3, 5, 5, 5, 5]);
        assert_eq!(Bounds { min: 0, ..bounds }.wanted(0), 0);
    }

    #[test]
    fn the_lowest_free_numbers_are_given_again() {
        let taken = [0, 2, 3].map(SlotId).into();
        assert_eq!(free_slots(&taken, 3), [1, 4, 5].map(SlotId));
    }
}
