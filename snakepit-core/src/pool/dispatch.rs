//! Who is idle, who waits: the pool's state behind one short lock.
//!
//! Dispatch costs the same however many workers and callers there are: workers that can take a call are ordered by the calls they
//! have (see `idle`; of equals the one used last has the warmest caches), waiting callers are a queue for each priority. A caller that
//! has left stays in the queue, marked, and is skipped when its turn comes. A worker that has gone leaves at once, since it may
//! have been the pool's last handle on it.

mod checks;
mod phase;
mod size;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use checks::{Checked, Checks};
pub(super) use phase::Started;

use super::{
    idle::Idle,
    latency::Latencies,
    lease::Lease,
    limits::{FunctionLimits, Limit, Permit},
    poison::Suspects,
    queue::{Overflow, Queue, Queued},
    recycle::Lifetimes,
    scaling::Bounds,
    seat::Seat,
    settings::PoolSettings,
    status::{Phase, PoolStatus, WorkerStatus},
};
use crate::{
    event::Events,
    id::{SlotId, WorkerId},
    supervision::{ChildInfo, SlotEvent, SlotObserver},
    worker::{BoxFuture, StartError},
};

mod replaced;

pub(super) use replaced::Due;

/// Starts that must fail in a row, in every slot, before callers are told that nobody serves. The first restart is
/// at once, so a single failure may be over before a caller would have noticed.
const FAILED_STARTS: u32 = 2;

/// Why no worker was lent.
#[derive(Clone, Debug)]
pub(super) enum Refusal {
    Full { waiting: usize, limit: usize },
    Displaced { limit: usize },
    Phase(Phase),
    Nobody { last: Option<Arc<StartError>> },
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
}

/// What the pool knows of a slot that does not serve.
#[derive(Debug, Default)]
struct Trouble {
    failed_starts: u32,
    given_up: bool,
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
    waiting: Queue,
    seats: BTreeMap<SlotId, Arc<Seat>>,
    /// Workers that serve no more and have calls on them: they were replaced, or their slot is on its way out.
    retired: Vec<Arc<Seat>>,
    /// Leases of calls.
    lent: usize,
    checks: Checks,
    /// The last check in each slot.
    checked: BTreeMap<SlotId, Checked>,
    trouble: BTreeMap<SlotId, Trouble>,
    last_error: Option<Arc<StartError>>,
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
            seats: BTreeMap::new(),
            retired: Vec::new(),
            lent: 0,
            checks: Checks::default(),
            checked: BTreeMap::new(),
            trouble: BTreeMap::new(),
            last_error: None,
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
            if let Some(seat) = state.free_seat() {
                state.lent += 1;
                let lease = Lease::new(Arc::clone(self), seat);
                if lease.seat().can_run_more() {
                    state.put_idle(Arc::clone(lease.seat()));
                }
                let short = state.is_short(0);
                drop(state);
                if short {
                    self.short.notify_one();
                }
                return Ok(lease);
            }
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
            if state.waiting.len() > 2 * waiting + 16 {
                state.waiting.purge();
            }
            let (answer, granted) = oneshot::channel();
            state.waiting.push(Queued { answer, turn });
            if state.is_short(waiting + 1) {
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

    /// Sees to it that one more caller may wait; who has to leave for that.
    fn make_room(&self, state: &mut State, turn: Turn) -> Result<Option<Queued>, Refusal> {
        let waiting = self.waiters.load(Ordering::Relaxed);
        let limit = self.queue_limit(state);
        let Some(limit) = limit.filter(|limit| waiting >= *limit && !turn.accepted) else {
            return Ok(None);
        };
        let displaced = match self.rules.overflow {
            Overflow::Refuse => None,
            Overflow::DropOldest => state.waiting.pop_oldest(turn.priority),
        };
        displaced.map(Some).ok_or(Refusal::Full { waiting, limit })
    }

    /// Refuses a caller that was taken out of the queue.
    fn refuse(&self, waiter: Queued, refusal: Refusal) {
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
    pub(super) async fn permit(
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
    pub(super) fn returning(self: &Arc<Self>) -> Returning {
        self.returning.fetch_add(1, Ordering::Relaxed);
        Returning {
            dispatch: Arc::clone(self),
        }
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

    /// Takes a worker back: the next caller in the queue gets it, or it is idle.
    pub(super) fn give_back(self: &Arc<Self>, seat: Arc<Seat>) {
        let mut state = self.lock();
        state.lent -= 1;
        seat.take_back();
        if seat.is_gone() {
            state.has_left(&seat);
        }
        self.hand_on(&mut state, Arc::clone(&seat));
        let awaited = self.is_quiet(&state) || seat.is_gone();
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
            let Some(next) = state.waiting.front() else { break };
            if !seat.can_run_more() && !next.turn.ahead {
                break;
            }
            let Some(waiter) = state.waiting.pop() else { break };
            match waiter
                .answer
                .send(Ok(Lease::new(Arc::clone(self), Arc::clone(&seat))))
            {
                Ok(()) => {
                    self.waiters.fetch_sub(1, Ordering::Relaxed);
                    state.lent += 1;
                    if !seat.can_run_more() && !waiter.turn.ahead {
                        break;
                    }
                }
                // That caller has left. Its lease must not give the worker back: we hold the lock.
                Err(Ok(lease)) => lease.defuse(),
                Err(Err(_)) => unreachable!("a lease was sent"),
            }
        }
        state.put_idle(seat);
    }

    fn refuse_all(&self, state: &mut State, refusal: &Refusal) {
        for waiter in state.waiting.drain() {
            self.refuse(waiter, refusal.clone());
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

    pub(super) fn status(&self, slots: Vec<ChildInfo>) -> PoolStatus {
        let state = self.lock();
        let now = Instant::now();
        let workers = slots.into_iter().map(|child| {
            let seat = state.seats.get(&child.status.slot);
            WorkerStatus {
                calls: seat.map_or(0, |seat| seat.calls()),
                running: seat.map_or(0, |seat| seat.lent_to_calls().min(seat.concurrency())),
                concurrency: seat.map_or(0, |seat| seat.concurrency()),
                busy_for: seat.and_then(|seat| seat.busy_for(now)),
                check: state
                    .checked
                    .get(&child.status.slot)
                    .map(|checked| checked.told(now)),
                child,
            }
        });
        PoolStatus {
            name: self.events.pool().to_owned(),
            phase: state.phase,
            workers: workers.collect(),
            ready: state.seats.len(),
            busy: state
                .seats
                .values()
                .chain(&state.retired)
                .filter(|seat| seat.lent_to_calls() > 0)
                .count(),
            queued: self.waiters.load(Ordering::Relaxed),
            queue_limit: self.rules.queue_limit,
            min_workers: state.bounds.min,
            max_workers: state.bounds.max,
            waited: self.latencies.waited.summary(),
            ran: self.latencies.ran.summary(),
            last_start_error: state.last_error.clone(),
        }
    }
}

/// A caller in the queue.
struct Waiter<'a> {
    dispatch: &'a Dispatch,
    /// `None` once it was answered.
    granted: Option<oneshot::Receiver<Grant>>,
}

impl Waiter<'_> {
    async fn wait(mut self) -> Grant {
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
pub(super) struct Waits<'a> {
    dispatch: &'a Dispatch,
}

impl Waits<'_> {
    /// Joins the queue, which counts the caller out from now on; how many others wait.
    fn join(self) -> usize {
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
pub(super) struct Returning {
    dispatch: Arc<Dispatch>,
}

impl Drop for Returning {
    fn drop(&mut self) {
        self.dispatch.returning.fetch_sub(1, Ordering::Relaxed);
        self.dispatch.changed.notify_waiters();
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

    /// A refusal when no slot serves and none is about to.
    fn nobody(&self) -> Option<Refusal> {
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
                }
                self.hand_on(&mut state, seat);
                self.due.notify_one();
                before
            }),
            SlotEvent::Down { slot, worker, .. } => state.forget(slot, worker),
            SlotEvent::StartFailed { slot, error } => {
                state.trouble.entry(slot).or_default().failed_starts += 1;
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

#[cfg(test)]
mod tests;
