//! Calls of sessions: which worker takes one, and whose turn it is on a worker that some wait for.

use std::sync::Arc;

use super::{
    Dispatch, Refusal, State,
    bonds::{Aim, At, Home},
};
use crate::{
    id::{SessionId, WorkerId},
    pool::{
        queue::Queued,
        seat::Seat,
        session::{LostBy, SessionLost, SessionMode},
        status::Phase,
    },
};

/// Where a caller goes that has just come.
pub(super) enum Place {
    /// It takes this worker.
    Seat(Arc<Seat>),
    /// It waits for any worker.
    Queue,
    /// It waits for this one.
    Pinned(WorkerId),
}

impl Home {
    fn of(seat: &Seat) -> Self {
        Self {
            slot: seat.slot,
            worker: seat.worker.id(),
        }
    }
}

impl State {
    fn seat(&self, home: Home) -> Option<&Arc<Seat>> {
        self.seats
            .get(&home.slot)
            .filter(|seat| seat.worker.id() == home.worker)
    }

    /// The workers that some may wait for.
    pub(super) fn awaited(&self) -> impl Iterator<Item = &Arc<Seat>> {
        let bonds = &self.bonds.workers;
        let seats = self.seats.values().filter(|_| !bonds.is_empty());
        seats.filter(|seat| bonds.contains_key(&seat.worker.id()))
    }

    /// Where a call of a session goes.
    pub(super) fn place(&mut self, aim: Aim) -> Result<Place, Refusal> {
        let (mut home, mut lost) = (None, None);
        if let Some(bond) = self.bonds.sessions.get(&aim.session) {
            (home, lost) = (bond.home, bond.lost.clone());
        }
        let mode = match aim.at {
            At::Mode(mode) => mode,
            At::End(worker) if self.bonds.workers.contains_key(&worker.worker) => {
                home = Some(worker);
                SessionMode::StrictQueue
            }
            At::End(_) => return Err(lost.map_or(Refusal::Phase(Phase::Stopped), Refusal::SessionLost)),
        };
        if let (None, Some(lost), false) = (home, lost, mode == SessionMode::Hint) {
            return Err(Refusal::SessionLost(lost));
        }
        let Some(home) = home else {
            return Ok(self.any_place());
        };
        let seat = self.seat(home).cloned();
        let room = seat
            .as_ref()
            .filter(|seat| seat.can_run_more() && !seat.is_gone() && self.phase != Phase::Paused);
        if let Some(seat) = room {
            self.idle.remove(seat);
            return Ok(Place::Seat(Arc::clone(seat)));
        }
        match (mode, seat) {
            (SessionMode::Hint, _) => Ok(self.any_place()),
            // One that is gone is on its way out, and the caller is about to be told why.
            (SessionMode::StrictFail, Some(seat))
                if seat.lent_to_calls() >= seat.concurrency() && !seat.is_gone() =>
            {
                Err(busy(aim.session, &seat))
            }
            (SessionMode::StrictFail | SessionMode::StrictQueue, _) => Ok(Place::Pinned(home.worker)),
        }
    }

    /// Where a call goes that any worker can take.
    pub(super) fn any_place(&mut self) -> Place {
        self.free_seat().map_or(Place::Queue, Place::Seat)
    }

    /// Whose turn is next on a worker: of those that wait for it and those that wait for any one, the more urgent, or who came
    /// first. Whether it may wait in the worker.
    pub(super) fn next_ahead(&mut self, seat: &Seat) -> Option<bool> {
        let (pinned, any) = self.fronts(seat);
        let next = match (pinned, any) {
            (Some(pinned), Some(any)) if any.rank() < pinned.rank() => any,
            (Some(pinned), _) => pinned,
            (None, any) => any?,
        };
        Some(next.turn.ahead)
    }

    /// Takes out whose turn is next on a worker.
    pub(super) fn take_next(&mut self, seat: &Seat) -> Option<Queued> {
        if self.bonds.workers.is_empty() {
            return self.waiting.pop();
        }
        let (pinned, any) = self.fronts(seat);
        let any = any.map(Queued::rank);
        match pinned.map(Queued::rank) {
            Some(pinned) if any.is_none_or(|any| pinned < any) => {
                self.bonds.workers.get_mut(&seat.worker.id())?.waiting.pop()
            }
            _ => self.waiting.pop(),
        }
    }

    fn fronts(&mut self, seat: &Seat) -> (Option<&Queued>, Option<&Queued>) {
        let tied = &mut self.bonds.workers;
        let pinned = (!tied.is_empty())
            .then(|| tied.get_mut(&seat.worker.id()))
            .flatten();
        (pinned.and_then(|tied| tied.waiting.front()), self.waiting.front())
    }

    /// Puts a caller where it waits.
    pub(super) fn wait(&mut self, caller: Queued, pinned: Option<WorkerId>) {
        match pinned {
            Some(worker) => self.bonds.workers.entry(worker).or_default().waiting.push(caller),
            None => {
                if let Some(Aim {
                    session,
                    at: At::Mode(mode),
                }) = caller.turn.aim
                    && mode != SessionMode::Hint
                {
                    self.bonds.sessions.entry(session).or_default().early += 1;
                }
                self.waiting.push(caller);
            }
        }
    }

    /// Clears out callers that have left, once they are more than those that wait.
    pub(super) fn purge(&mut self, waiting: usize, pinned: Option<WorkerId>) {
        let queue = match pinned {
            Some(worker) => self.bonds.workers.get_mut(&worker).map(|tied| &mut tied.waiting),
            None => Some(&mut self.waiting),
        };
        if let Some(queue) = queue
            && queue.len() > 2 * waiting + 16
        {
            queue.purge();
        }
    }

    /// Takes out who waits longest among the least urgent, unless that is more urgent than this priority.
    pub(super) fn pop_oldest(&mut self, priority: i32) -> Option<Queued> {
        let mut oldest = (self.waiting.oldest(), None);
        for (&worker, tied) in &self.bonds.workers {
            let other = tied.waiting.oldest();
            if other.is_some() && (oldest.0.is_none() || other < oldest.0) {
                oldest = (other, Some(worker));
            }
        }
        match oldest.1 {
            Some(worker) => self.bonds.workers.get_mut(&worker)?.waiting.pop_oldest(priority),
            None => self.waiting.pop_oldest(priority),
        }
    }
}

fn busy(session: SessionId, seat: &Seat) -> Refusal {
    Refusal::SessionBusy {
        session,
        worker: seat.worker.id(),
        running: seat.lent_to_calls().min(seat.concurrency()),
        concurrency: seat.concurrency(),
    }
}

impl Dispatch {
    /// A call of a session has a worker. When the session is bound by that, its other callers go on to that worker.
    pub(super) fn join(self: &Arc<Self>, state: &mut State, aim: Aim, seat: &Arc<Seat>) {
        let At::Mode(mode) = aim.at else { return };
        let home = Home::of(seat);
        if !state.bonds.join(aim.session, home) || mode == SessionMode::Hint {
            return;
        }
        let early = state.bonds.sessions.get_mut(&aim.session);
        // This call is one of them, if it had to wait.
        if early.is_none_or(|bond| std::mem::take(&mut bond.early) <= 1) {
            return;
        }
        for caller in state.waiting.take_session(aim.session) {
            if mode == SessionMode::StrictQueue {
                state.wait(caller, Some(home.worker));
            } else if seat.can_run_more() {
                self.grant(state, caller, seat);
            } else {
                self.refuse(caller, busy(aim.session, seat));
            }
        }
    }

    /// A worker serves no more: who waits for it is told why, and so is every later call of its strict sessions.
    pub(super) fn lose(&self, state: &mut State, seat: &Seat, by: &LostBy) {
        for (waiter, lost) in state.bonds.lose(Home::of(seat), by) {
            self.refuse(waiter, Refusal::SessionLost(lost));
        }
    }

    /// The worker that a session is bound to.
    pub(in crate::pool) fn home(&self, session: SessionId) -> Option<WorkerId> {
        let state = self.lock();
        Some(state.bonds.sessions.get(&session)?.home?.worker)
    }

    /// How a session lost a worker last.
    pub(in crate::pool) fn session_lost(&self, session: SessionId) -> Option<Arc<SessionLost>> {
        self.lock().bonds.sessions.get(&session)?.lost.clone()
    }

    /// The workers that want to be told of a session's end.
    pub(in crate::pool) fn to_be_told(&self, session: SessionId) -> Vec<Home> {
        let state = self.lock();
        let been = state.bonds.sessions.get(&session).map(|bond| bond.been.clone());
        let seats = been
            .into_iter()
            .flatten()
            .filter_map(|home| state.seat(home).cloned());
        let seats: Vec<_> = seats.collect();
        drop(state);
        // A worker is foreign code: it is asked without the lock.
        let told = seats.iter().filter(|seat| seat.worker.ends_sessions());
        told.map(|seat| Home::of(seat)).collect()
    }

    /// Resolves when no call of a session has a worker.
    pub(in crate::pool) async fn left_by_session(&self, session: SessionId) {
        if let Some(bond) = self.lock().bonds.sessions.get_mut(&session) {
            bond.ends = true;
        }
        let over = |state: &State| {
            state
                .bonds
                .sessions
                .get(&session)
                .is_none_or(|bond| bond.calls == 0)
        };
        self.until(over).await;
    }

    /// Forgets a session that is over.
    pub(in crate::pool) fn forget_session(&self, session: SessionId) {
        self.lock().bonds.forget(session);
    }
}
