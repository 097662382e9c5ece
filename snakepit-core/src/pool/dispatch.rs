//! Who is idle, who waits: the pool's state behind one short lock.
//!
//! Dispatch costs the same however many workers and callers there are: idle workers are a stack (the one used last has
//! the warmest caches), waiting callers a queue. What has gone from either is left in place, marked, and skipped
//! when its turn comes.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use super::{
    lease::Lease,
    status::{Phase, PoolStatus, WorkerStatus},
};
use crate::{
    id::{SlotId, WorkerId},
    supervision::{ChildInfo, SlotEvent, SlotObserver},
    worker::{StartError, Worker, WorkerClient},
};

/// Starts that must fail in a row, in every slot, before callers are told that nobody serves. The first restart is
/// at once, so a single failure may be over before a caller would have noticed.
const FAILED_STARTS: u32 = 2;

/// A worker that serves.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) slot: SlotId,
    pub(super) worker: Arc<dyn Worker>,
    pub(super) client: Arc<dyn WorkerClient>,
    /// It must not be called any more.
    gone: AtomicBool,
    calls: AtomicU64,
    busy_since: Mutex<Option<Instant>>,
}

/// Why no worker was lent.
#[derive(Clone, Debug)]
pub(super) enum Refusal {
    Full { waiting: usize, limit: usize },
    Phase(Phase),
    Nobody { last: Option<Arc<StartError>> },
}

type Grant = Result<Lease, Refusal>;

/// What the pool knows of a slot that does not serve.
#[derive(Debug, Default)]
struct Trouble {
    failed_starts: u32,
    given_up: bool,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    idle: Vec<Arc<Seat>>,
    waiting: VecDeque<oneshot::Sender<Grant>>,
    seats: BTreeMap<SlotId, Arc<Seat>>,
    lent: usize,
    trouble: BTreeMap<SlotId, Trouble>,
    last_error: Option<Arc<StartError>>,
}

/// The pool's state.
pub(super) struct Dispatch {
    state: Mutex<State>,
    /// Callers that wait; less than the queue's length when some of them have left.
    waiters: AtomicUsize,
    limit: Option<usize>,
    slots: usize,
    changed: Notify,
}

impl fmt::Debug for Dispatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dispatch")
            .field("slots", &self.slots)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl Dispatch {
    pub(super) fn new(slots: usize, limit: Option<usize>) -> Self {
        let state = State {
            phase: Phase::Starting,
            idle: Vec::with_capacity(slots),
            waiting: VecDeque::new(),
            seats: BTreeMap::new(),
            lent: 0,
            trouble: BTreeMap::new(),
            last_error: None,
        };
        Self {
            state: Mutex::new(state),
            waiters: AtomicUsize::new(0),
            limit,
            slots,
            changed: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under the lock panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an idle worker, or waits for one.
    ///
    /// # Cancel safety
    /// A caller that leaves is never lent a worker; one it was just granted goes on to the next.
    pub(super) async fn checkout(self: &Arc<Self>) -> Grant {
        let granted = {
            let mut state = self.lock();
            if state.phase.refuses() {
                return Err(Refusal::Phase(state.phase));
            }
            if let Some(seat) = state.take_idle() {
                state.lent += 1;
                drop(state);
                return Ok(Lease::new(Arc::clone(self), seat));
            }
            if let Some(refusal) = state.nobody(self.slots) {
                return Err(refusal);
            }
            let waiting = self.waiters.load(Ordering::Relaxed);
            if let Some(limit) = self.limit.filter(|limit| waiting >= *limit) {
                return Err(Refusal::Full { waiting, limit });
            }
            // Callers that left are skipped when their turn comes; should many leave while no worker comes free,
            // they are cleared out here, at a constant cost per caller.
            if state.waiting.len() > 2 * waiting + 16 {
                state.waiting.retain(|waiter| !waiter.is_closed());
            }
            let (waiter, granted) = oneshot::channel();
            state.waiting.push_back(waiter);
            self.waiters.fetch_add(1, Ordering::Relaxed);
            granted
        };
        let _waiting = Waiting(&self.waiters);
        // The sender is dropped unanswered only with the whole pool.
        granted.await.unwrap_or(Err(Refusal::Phase(Phase::Stopped)))
    }

    /// Takes a worker back: the next caller in the queue gets it, or it is idle.
    pub(super) fn give_back(self: &Arc<Self>, seat: Arc<Seat>) {
        let mut state = self.lock();
        state.lent -= 1;
        self.hand_on(&mut state, seat);
        let quiet = state.is_quiet();
        drop(state);
        if quiet {
            self.changed.notify_waiters();
        }
    }

    fn hand_on(self: &Arc<Self>, state: &mut State, seat: Arc<Seat>) {
        if seat.is_gone() {
            return;
        }
        let mut seat = seat;
        while let Some(waiter) = state.waiting.pop_front() {
            match waiter.send(Ok(Lease::new(Arc::clone(self), seat))) {
                Ok(()) => {
                    state.lent += 1;
                    return;
                }
                // That caller has left. Its lease must not give the worker back: we hold the lock.
                Err(Ok(lease)) => seat = lease.defuse(),
                Err(Err(_)) => unreachable!("a lease was sent"),
            }
        }
        state.idle.push(seat);
    }

    /// From `Starting` to `Running`.
    pub(super) fn open(&self) {
        let mut state = self.lock();
        if state.phase == Phase::Starting {
            state.phase = Phase::Running;
        }
    }

    /// No new calls from now on; whether this was the first to say so.
    pub(super) fn drain(&self) -> bool {
        let mut state = self.lock();
        let first = !state.phase.refuses();
        if first {
            state.phase = Phase::Draining;
        }
        first
    }

    /// No calls at all from now on, those that wait are refused; whether this was the first to say so.
    pub(super) fn stop(&self) -> bool {
        let mut state = self.lock();
        let first = state.phase != Phase::Stopped;
        state.phase = Phase::Stopped;
        let refused = state.refuse_all(&Refusal::Phase(Phase::Stopped));
        drop(state);
        drop(refused);
        self.changed.notify_waiters();
        first
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.lock().phase == Phase::Stopped
    }

    /// Resolves when nobody waits and no worker is lent.
    pub(super) async fn quiet(&self) {
        self.until(State::is_quiet).await;
    }

    /// Resolves when the pool has started, or will not: see [`Started`].
    pub(super) async fn started(&self) -> Started {
        let slots = self.slots;
        self.until_some(|state| {
            if state.seats.len() == slots {
                return Some(Started::All);
            }
            let definite = state.last_error.as_ref().filter(|error| error.is_definite());
            definite
                .filter(|_| state.seats.is_empty())
                .map(|error| Started::Failed(Arc::clone(error)))
        })
        .await
    }

    /// Workers that serve, and the last start that failed.
    pub(super) fn serving(&self) -> (usize, Option<Arc<StartError>>) {
        let state = self.lock();
        (state.seats.len(), state.last_error.clone())
    }

    pub(super) fn seats(&self) -> Vec<Arc<Seat>> {
        self.lock().seats.values().cloned().collect()
    }

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

    pub(super) fn status(&self, name: &str, slots: Vec<ChildInfo>) -> PoolStatus {
        let state = self.lock();
        let now = Instant::now();
        let workers = slots.into_iter().map(|child| {
            let seat = state.seats.get(&child.status.slot);
            WorkerStatus {
                calls: seat.map_or(0, |seat| seat.calls.load(Ordering::Relaxed)),
                busy_for: seat.and_then(|seat| Some(now - (*seat.busy()).as_ref().copied()?)),
                child,
            }
        });
        PoolStatus {
            name: name.to_owned(),
            phase: state.phase,
            workers: workers.collect(),
            ready: state.seats.len(),
            busy: state.lent,
            queued: self.waiters.load(Ordering::Relaxed),
            queue_limit: self.limit,
            last_start_error: state.last_error.clone(),
        }
    }
}

/// How a pool's start went.
#[derive(Debug)]
pub(super) enum Started {
    /// Every slot serves.
    All,
    /// No slot serves, and trying again without a change cannot help.
    Failed(Arc<StartError>),
}

/// Counts a caller that waits, for as long as it does.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl State {
    fn take_idle(&mut self) -> Option<Arc<Seat>> {
        while let Some(seat) = self.idle.pop() {
            if !seat.is_gone() {
                return Some(seat);
            }
        }
        None
    }

    fn is_quiet(&self) -> bool {
        self.lent == 0 && self.waiting.iter().all(oneshot::Sender::is_closed)
    }

    /// A refusal when no slot serves and none is about to.
    fn nobody(&self, slots: usize) -> Option<Refusal> {
        let hopeless = |trouble: &Trouble| trouble.given_up || trouble.failed_starts >= FAILED_STARTS;
        let nobody = self.seats.is_empty() && self.trouble.values().filter(|t| hopeless(t)).count() >= slots;
        nobody.then(|| Refusal::Nobody {
            last: self.last_error.clone(),
        })
    }

    /// Refuses every waiting caller. Returns what could not be delivered, to be dropped outside of the lock.
    fn refuse_all(&mut self, refusal: &Refusal) -> Vec<Grant> {
        self.waiting
            .drain(..)
            .filter_map(|waiter| waiter.send(Err(refusal.clone())).err())
            .collect()
    }

    fn forget(&mut self, slot: SlotId, worker: WorkerId) {
        if self
            .seats
            .get(&slot)
            .is_some_and(|seat| seat.worker.id() == worker)
            && let Some(seat) = self.seats.remove(&slot)
        {
            seat.retire();
        }
    }
}

impl Seat {
    fn new(slot: SlotId, worker: Arc<dyn Worker>) -> Self {
        let client = worker.client();
        Self {
            slot,
            worker,
            client,
            gone: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            busy_since: Mutex::new(None),
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// It is not lent from now on.
    pub(super) fn retire(&self) {
        self.gone.store(true, Ordering::Release);
    }

    fn busy(&self) -> MutexGuard<'_, Option<Instant>> {
        self.busy_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call begins on it; returns its id, unique within this worker.
    pub(super) fn begin(&self, now: Instant) -> u64 {
        *self.busy() = Some(now);
        self.calls.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Its call is over.
    pub(super) fn finish(&self) {
        *self.busy() = None;
    }
}

impl SlotObserver for Arc<Dispatch> {
    fn slot_event(&self, event: SlotEvent) {
        let mut state = self.lock();
        match event {
            SlotEvent::Ready { slot, worker } => {
                let seat = Arc::new(Seat::new(slot, worker));
                state.trouble.remove(&slot);
                state.seats.insert(slot, Arc::clone(&seat));
                self.hand_on(&mut state, seat);
            }
            SlotEvent::Down { slot, worker, .. } => state.forget(slot, worker),
            SlotEvent::StartFailed { slot, error } => {
                state.trouble.entry(slot).or_default().failed_starts += 1;
                state.last_error = Some(error);
            }
            SlotEvent::Quarantined { slot, .. } | SlotEvent::Terminated { slot } => {
                state.trouble.entry(slot).or_default().given_up = true;
            }
        }
        let refused = state.nobody(self.slots).map(|refusal| state.refuse_all(&refusal));
        drop(state);
        drop(refused);
        self.changed.notify_waiters();
    }
}
