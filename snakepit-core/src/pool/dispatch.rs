//! Who is idle, who waits: the pool's state behind one short lock.
//!
//! Dispatch costs the same however many workers and callers there are: workers that can take a call are ordered by the calls they
//! have (see `idle`; of equals the one used last has the warmest caches), waiting callers are a queue for each priority. A caller that
//! has left stays in the queue, marked, and is skipped when its turn comes. A worker that has gone leaves at once, since it may
//! have been the pool's last handle on it.

mod bonds;
mod checks;
mod phase;
mod pinned;
mod replaced;
mod report;
mod size;
mod slots;
mod wait;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, oneshot};

use bonds::Bonds;
pub(super) use bonds::{Aim, At, Home};
use checks::{Checked, Checks};
pub(super) use phase::Started;
use pinned::Place;
pub(super) use replaced::Due;
use slots::Trouble;
use wait::Waiter;
pub(super) use wait::{Returning, Waits};

use super::{
    cause::ReplaceCause,
    idle::Idle,
    latency::Latencies,
    lease::Lease,
    limits::FunctionLimits,
    poison::Suspects,
    queue::{Overflow, Queue, Queued},
    recycle::Lifetimes,
    scaling::Bounds,
    seat::Seat,
    session::SessionLost,
    settings::PoolSettings,
    status::Phase,
};
use crate::{
    event::Events,
    id::{SessionId, SlotId, WorkerId},
    worker::StartError,
};

/// Why no worker was lent.
#[derive(Clone, Debug)]
pub(super) enum Refusal {
    Full {
        waiting: usize,
        limit: usize,
    },
    Displaced {
        limit: usize,
    },
    Phase(Phase),
    Nobody {
        last: Option<Arc<StartError>>,
    },
    SessionBusy {
        session: SessionId,
        worker: WorkerId,
        running: usize,
        concurrency: usize,
    },
    SessionLost(Arc<SessionLost>),
}

pub(super) type Grant = Result<Lease, Refusal>;

/// How a caller wants to be served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Turn {
    /// Higher goes first.
    pub(super) priority: i32,
    /// It may wait in a worker instead of the queue, since it can be taken back from there.
    pub(super) ahead: bool,
    /// It has waited before, and goes first among its equals.
    pub(super) first: bool,
    /// The pool has accepted the call: neither a full queue nor a drain refuses it.
    pub(super) accepted: bool,
    /// The session it is for.
    pub(super) aim: Option<Aim>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// There is no going on after a drain.
    ending: bool,
    bounds: Bounds,
    /// The slots there are, and those that are on their way out.
    slots: BTreeSet<SlotId>,
    leaving: BTreeSet<SlotId>,
    /// Calls that a worker runs at the same time.
    concurrency: usize,
    idle: Idle,
    /// Those that wait for any worker.
    waiting: Queue,
    /// How many have waited.
    came: u64,
    bonds: Bonds,
    seats: BTreeMap<SlotId, Arc<Seat>>,
    /// Workers that serve no more and have calls on them: they were replaced, or their slot is on its way out.
    retired: Vec<Arc<Seat>>,
    /// Leases of calls.
    lent: usize,
    checks: Checks,
    /// The last check in each slot.
    checked: BTreeMap<SlotId, Checked>,
    trouble: BTreeMap<SlotId, Trouble>,
    /// Why slots get another worker.
    replacing: BTreeMap<SlotId, ReplaceCause>,
    last_error: Option<Arc<StartError>>,
    /// Starts in a row that failed as the last one.
    alike: u32,
}

/// The pool's state.
pub(super) struct Dispatch {
    state: Mutex<State>,
    /// Callers that wait; less than the queue's length when some of them have left. One that is lent a worker or refused is
    /// counted out by whoever does so, one that leaves by itself.
    waiters: AtomicUsize,
    /// Calls that have lost their worker and may be on their way back to the queue.
    returning: AtomicUsize,
    rules: Rules,
    events: Events,
    latencies: Latencies,
    changed: Notify,
    /// There may be too few slots.
    short: Notify,
    /// A worker may have served for long enough.
    due: Notify,
    /// A worker may be due for its health check.
    check: Notify,
}

/// What calls are refused for.
#[derive(Debug)]
pub(super) struct Rules {
    /// Callers that may wait; `None` is unlimited.
    pub(super) queue_limit: Option<usize>,
    pub(super) overflow: Overflow,
    pub(super) functions: FunctionLimits,
    pub(super) suspects: Suspects,
    pub(super) lifetimes: Lifetimes,
    /// From one check of a worker to the next; `None` where nothing is checked.
    pub(super) health_interval: Option<Duration>,
}

impl Rules {
    pub(super) fn new(settings: &PoolSettings) -> Self {
        Self {
            queue_limit: settings.queue_limit,
            overflow: settings.overflow,
            functions: FunctionLimits::new(settings.function_limits.clone()),
            suspects: Suspects::new(settings.poison_limit),
            lifetimes: Lifetimes::new(settings),
            health_interval: settings.health_interval,
        }
    }
}

impl fmt::Debug for Dispatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dispatch")
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

impl Dispatch {
    /// A pool with its first slots, which are about to be started.
    pub(super) fn new(bounds: Bounds, rules: Rules, events: Events) -> Self {
        let slots: BTreeSet<_> = (0_u32..).map(SlotId).take(bounds.min).collect();
        let state = State {
            phase: Phase::Starting,
            ending: false,
            bounds,
            idle: Idle::with_capacity(slots.len()),
            slots,
            leaving: BTreeSet::new(),
            concurrency: 1,
            waiting: Queue::default(),
            came: 0,
            bonds: Bonds::default(),
            seats: BTreeMap::new(),
            retired: Vec::new(),
            lent: 0,
            checks: Checks::default(),
            checked: BTreeMap::new(),
            trouble: BTreeMap::new(),
            replacing: BTreeMap::new(),
            last_error: None,
            alike: 0,
        };
        Self {
            state: Mutex::new(state),
            waiters: AtomicUsize::new(0),
            returning: AtomicUsize::new(0),
            rules,
            events,
            latencies: Latencies::default(),
            changed: Notify::new(),
            short: Notify::new(),
            due: Notify::new(),
            check: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under the lock panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a worker that can run the call now, or waits for one. `waits` where the caller has waited elsewhere and is
    /// counted.
    ///
    /// # Cancel safety
    /// A caller that leaves is never lent a worker; one it was just granted goes on to the next.
    pub(super) async fn checkout(self: &Arc<Self>, turn: Turn, waits: Option<Waits<'_>>) -> Grant {
        let (displaced, granted) = {
            let mut state = self.lock();
            if state.phase.refuses() && !(turn.accepted && state.phase == Phase::Draining) {
                return Err(Refusal::Phase(state.phase));
            }
            let place = match turn.aim {
                None => state.any_place(),
                Some(aim) => state.place(aim)?,
            };
            let pinned = match place {
                Place::Seat(seat) => return Ok(self.lend(state, seat, turn)),
                Place::Queue => None,
                Place::Pinned(worker) => Some(worker),
            };
            if let Some(refusal) = state.nobody() {
                return Err(refusal);
            }
            let displaced = self.make_room(&mut state, turn)?;
            let waiting = match waits {
                Some(waits) => waits.join(),
                None => self.waiters.fetch_add(1, Ordering::Relaxed),
            };
            // Callers that left are skipped when their turn comes; should many leave while no worker comes free,
            // they are cleared out here, at a constant cost per caller.
            state.purge(waiting, pinned);
            let (answer, granted) = oneshot::channel();
            state.came += 1;
            let came = state.came;
            state.wait(Queued { answer, turn, came }, pinned);
            // Another worker is of no use to who waits for this one.
            if pinned.is_none() && state.is_short(waiting + 1) {
                self.short.notify_one();
            }
            (displaced, granted)
        };
        // Outside of the lock: it wakes a caller.
        if let (Some(displaced), Some(limit)) = (displaced, self.rules.queue_limit) {
            self.refuse(displaced, Refusal::Displaced { limit });
        }
        let waiter = Waiter {
            dispatch: self,
            granted: Some(granted),
        };
        waiter.wait().await
    }

    /// What calls are refused for.
    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Where state changes are told.
    pub(super) fn events(&self) -> &Events {
        &self.events
    }

    /// How long calls wait and run.
    pub(super) fn latencies(&self) -> &Latencies {
        &self.latencies
    }

    /// Lends a worker to a call that need not wait.
    fn lend(self: &Arc<Self>, mut state: MutexGuard<'_, State>, seat: Arc<Seat>, turn: Turn) -> Lease {
        state.lent += 1;
        let lease = Lease::new(Arc::clone(self), seat, turn.aim);
        if let Some(aim) = turn.aim {
            self.join(&mut state, aim, lease.seat());
        }
        if lease.seat().can_run_more() {
            state.put_idle(Arc::clone(lease.seat()));
        }
        let short = state.is_short(0);
        drop(state);
        if short {
            self.short.notify_one();
        }
        lease
    }

    /// Takes a worker back: the next caller in the queue gets it, or it is idle.
    pub(super) fn give_back(self: &Arc<Self>, seat: Arc<Seat>, session: Option<SessionId>) {
        let mut state = self.lock();
        state.lent -= 1;
        seat.take_back();
        let session_waits = session.is_some_and(|session| state.bonds.leave(session));
        if seat.is_gone() {
            state.has_left(&seat);
        }
        self.hand_on(&mut state, Arc::clone(&seat));
        let awaited = self.is_quiet(&state) || seat.is_gone() || session_waits;
        drop(state);
        if awaited {
            self.changed.notify_waiters();
        }
    }

    /// Lends a worker that was given back, or is new: to the next in the queue, to one more who waits in the worker if that is
    /// worth it, or to nobody. Its health check goes first.
    fn hand_on(self: &Arc<Self>, state: &mut State, seat: Arc<Seat>) {
        if seat.is_gone() {
            return;
        }
        if seat.is_checked() {
            let kept = state.keep_for_check(&seat);
            if state.checks.are_waiting() {
                self.look_for_checks();
            }
            if kept {
                return;
            }
        }
        while state.phase != Phase::Paused && seat.has_room() {
            let Some(ahead) = state.next_ahead(&seat) else {
                break;
            };
            if !seat.can_run_more() && !ahead {
                break;
            }
            let Some(waiter) = state.take_next(&seat) else {
                break;
            };
            if self.grant(state, waiter, &seat) && !seat.can_run_more() && !ahead {
                break;
            }
        }
        state.put_idle(seat);
    }

    /// Lends a worker to a caller that was taken out of a queue; false when that has left.
    fn grant(self: &Arc<Self>, state: &mut State, waiter: Queued, seat: &Arc<Seat>) -> bool {
        let aim = waiter.turn.aim;
        match waiter
            .answer
            .send(Ok(Lease::new(Arc::clone(self), Arc::clone(seat), aim)))
        {
            Ok(()) => {
                self.waiters.fetch_sub(1, Ordering::Relaxed);
                state.lent += 1;
                if let Some(aim) = aim {
                    self.join(state, aim, seat);
                }
                true
            }
            // That caller has left. Its lease must not give the worker back: we hold the lock.
            Err(Ok(lease)) => {
                lease.defuse();
                false
            }
            Err(Err(_)) => unreachable!("a lease was sent"),
        }
    }

    fn refuse_all(&self, state: &mut State, refusal: &Refusal) {
        for waiter in state.waiting.drain() {
            self.refuse(waiter, refusal.clone());
        }
        for tied in state.bonds.workers.values_mut() {
            for waiter in tied.waiting.drain() {
                self.refuse(waiter, refusal.clone());
            }
        }
    }

    pub(super) fn seats(&self) -> Vec<Arc<Seat>> {
        let state = self.lock();
        state.seats.values().chain(&state.retired).cloned().collect()
    }

    /// Resolves when this holds.
    async fn until(&self, done: impl Fn(&State) -> bool) {
        self.until_some(|state| done(state).then_some(())).await;
    }

    async fn until_some<T>(&self, found: impl Fn(&State) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Listening begins before looking, so that no change falls between the two.
            changed.as_mut().enable();
            if let Some(value) = found(&self.lock()) {
                return value;
            }
            changed.await;
        }
    }
}

impl State {
    /// Takes out one of the workers with the fewest calls among those that can take one more.
    fn take_idle(&mut self) -> Option<Arc<Seat>> {
        loop {
            let seat = self.idle.take()?;
            // One that was lent to others as well may have been lost by one of them.
            if !seat.is_gone() {
                return Some(seat);
            }
        }
    }

    /// Puts a worker where it belongs with the calls it has now, if it can run one more.
    fn put_idle(&mut self, seat: Arc<Seat>) {
        if seat.can_run_more() {
            let lent = seat.lent();
            self.idle.put(seat, lent);
        } else {
            self.idle.remove(&seat);
        }
    }

    /// A worker that can take a call that is new; none during a pause.
    fn free_seat(&mut self) -> Option<Arc<Seat>> {
        if self.phase == Phase::Paused {
            return None;
        }
        self.take_idle()
    }
}

#[cfg(test)]
mod tests;
