//! What the pool does with calls: from its start over pauses to its end.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::{Dispatch, Refusal, State, slots::ALIKE};
use crate::{
    pool::{seat::Seat, status::Phase},
    worker::StartError,
};

/// How a pool's start went.
#[derive(Debug)]
pub(in crate::pool) enum Started {
    /// Every slot serves.
    All,
    /// No slot serves, and trying again without a change cannot help.
    Failed(Arc<StartError>),
}

impl Dispatch {
    /// From `Starting` to `Running`.
    pub(in crate::pool) fn open(&self) {
        let mut state = self.lock();
        if state.phase == Phase::Starting {
            state.phase = Phase::Running;
        }
    }

    /// Hands out no workers from now on; whether it did until now.
    pub(in crate::pool) fn pause(&self) -> bool {
        let mut state = self.lock();
        let pauses = state.phase == Phase::Running;
        if pauses {
            state.phase = Phase::Paused;
        }
        pauses
    }

    /// Goes on after a pause or a drain; whether there was one. Not once the pool is being ended.
    pub(in crate::pool) fn resume(self: &Arc<Self>) -> bool {
        let mut state = self.lock();
        let resumes = matches!(state.phase, Phase::Paused | Phase::Draining) && !state.ending;
        if resumes {
            state.phase = Phase::Running;
            self.hand_out(&mut state);
            self.short.notify_one();
        }
        resumes
    }

    /// No new calls from now on; whether this was the first to say so.
    pub(in crate::pool) fn drain(self: &Arc<Self>) -> bool {
        let mut state = self.lock();
        let first = !state.phase.refuses();
        if first {
            state.phase = Phase::Draining;
            // Those that were accepted during a pause.
            self.hand_out(&mut state);
        }
        first
    }

    /// The pool will not go on after it has been drained.
    pub(in crate::pool) fn end(&self) {
        self.lock().ending = true;
    }

    /// Lends the workers that can take a call to those that wait.
    fn hand_out(self: &Arc<Self>, state: &mut State) {
        let is_idle = |seat: &&Arc<Seat>| seat.place().is_some();
        for seat in state.awaited().filter(is_idle).cloned().collect::<Vec<_>>() {
            state.idle.remove(&seat);
            self.hand_on(state, seat);
        }
        while state.waiting.front().is_some()
            && let Some(seat) = state.take_idle()
        {
            self.hand_on(state, seat);
        }
    }

    /// No calls at all from now on, those that wait are refused.
    pub(in crate::pool) fn stop(&self) {
        let mut state = self.lock();
        state.phase = Phase::Stopped;
        self.refuse_all(&mut state, &Refusal::Phase(Phase::Stopped));
        drop(state);
        self.rules.functions.close();
        self.changed.notify_waiters();
        self.short.notify_one();
    }

    /// Nobody waits, or is about to again, and no worker is lent.
    pub(super) fn is_quiet(&self, state: &State) -> bool {
        let none = |calls: &AtomicUsize| calls.load(Ordering::Relaxed) == 0;
        state.lent == 0 && none(&self.waiters) && none(&self.returning)
    }

    pub(in crate::pool) fn phase(&self) -> Phase {
        self.lock().phase
    }

    pub(in crate::pool) fn is_starting(&self) -> bool {
        self.lock().phase == Phase::Starting
    }

    pub(in crate::pool) fn is_stopped(&self) -> bool {
        self.lock().phase == Phase::Stopped
    }

    /// Resolves when no call that was accepted goes on.
    pub(in crate::pool) async fn quiet(&self) {
        self.until(|state| self.is_quiet(state)).await;
    }

    /// Resolves when the pool has started, or will not: see [`Started`].
    pub(in crate::pool) async fn started(&self) -> Started {
        self.until_some(|state| {
            if state.seats.len() >= state.slots.len() {
                return Some(Started::All);
            }
            let hopeless = state.alike >= ALIKE && state.nobody().is_some();
            let last = state.last_error.as_ref();
            last.filter(|error| state.seats.is_empty() && (error.is_definite() || hopeless))
                .map(|error| Started::Failed(Arc::clone(error)))
        })
        .await
    }

    /// Workers that serve, and the last start that failed.
    pub(in crate::pool) fn serving(&self) -> (usize, Option<Arc<StartError>>) {
        let state = self.lock();
        (state.seats.len(), state.last_error.clone())
    }
}
