//! A worker that serves, and what it is busy with.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::cause::ReplaceCause;
use crate::{
    id::SlotId,
    worker::{Worker, WorkerClient},
};

/// A call waits in a worker only behind calls as short as this: the way to the host and back is what that saves, and it is
/// nothing to longer ones.
const SHORT: Duration = Duration::from_millis(1);

/// A worker that serves.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) slot: SlotId,
    pub(super) worker: Arc<dyn Worker>,
    pub(super) client: Arc<dyn WorkerClient>,
    /// Calls it runs at the same time.
    concurrency: usize,
    /// It must not be called any more.
    gone: AtomicBool,
    /// Its place among those that can take a call, or none; changed under the pool's lock.
    place: AtomicUsize,
    /// Calls it was lent to and has not been given back from; changed under the pool's lock.
    lent: AtomicUsize,
    calls: AtomicU64,
    load: Mutex<Load>,
    since: Instant,
    pub(super) lifetime: Lifetime,
    /// `None` for a worker that is not checked.
    check: Option<Check>,
}

/// A worker's health check.
#[derive(Debug)]
struct Check {
    function: Arc<str>,
    /// Checks so far.
    count: AtomicU64,
    /// Changed under the pool's lock.
    turn: Mutex<Turn>,
}

/// When a worker's health is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Not before this.
    At(Instant),
    /// As soon as no call has it.
    Due,
    /// Now.
    Out,
}

/// How long a worker serves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lifetime {
    /// Calls it is given; the largest number where that is not bounded.
    pub(super) calls: u64,
    pub(super) until: Option<Instant>,
}

#[cfg(test)]
impl Lifetime {
    pub(super) const UNBOUNDED: Self = Self {
        calls: u64::MAX,
        until: None,
    };
}

/// What a worker is busy with.
#[derive(Debug)]
struct Load {
    /// Calls sent to it and not over.
    calls: usize,
    /// Since when the first of them can have been running, where one runs at a time.
    since: Option<Instant>,
    /// How long the last one ran, where one runs at a time.
    last: Duration,
    /// Since when each has been running, where several do.
    running: BTreeMap<u64, Instant>,
    /// When the last call was over.
    over: Instant,
}

impl Seat {
    /// A worker that is new. It is checked first, if at all.
    pub(super) fn new(slot: SlotId, worker: Arc<dyn Worker>, lifetime: Lifetime, checked: bool) -> Self {
        let client = worker.client();
        let function = worker.health_check().filter(|_| checked);
        let concurrency = worker.concurrency().max(1);
        Self {
            slot,
            worker,
            client,
            concurrency,
            gone: AtomicBool::new(false),
            place: AtomicUsize::new(usize::MAX),
            lent: AtomicUsize::new(0),
            calls: AtomicU64::new(0),
            load: Mutex::new(Load {
                calls: 0,
                since: None,
                last: Duration::MAX,
                running: BTreeMap::new(),
                over: Instant::now(),
            }),
            since: Instant::now(),
            lifetime,
            check: function.map(|function| Check {
                function,
                count: AtomicU64::new(0),
                turn: Mutex::new(Turn::Due),
            }),
        }
    }

    /// Whether its health is checked.
    pub(super) fn is_checked(&self) -> bool {
        self.check.is_some()
    }

    /// When it is checked next; `None` for never.
    pub(super) fn turn(&self) -> Option<Turn> {
        let check = self.check.as_ref()?;
        Some(*check.turn.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sets when it is checked next. Called under the pool's lock.
    pub(super) fn set_turn(&self, turn: Turn) {
        if let Some(check) = &self.check {
            *check.turn.lock().unwrap_or_else(PoisonError::into_inner) = turn;
        }
    }

    /// The call id and the function of its next check. Calls count from below, and never meet it.
    pub(super) fn next_check(&self) -> Option<(u64, &str)> {
        let check = self.check.as_ref()?;
        Some((
            u64::MAX - check.count.fetch_add(1, Ordering::Relaxed),
            &check.function,
        ))
    }

    /// Calls it is lent to.
    pub(super) fn lent_to_calls(&self) -> usize {
        self.lent() - usize::from(self.turn() == Some(Turn::Out))
    }

    /// Whether this call is the last one that the worker should be given.
    pub(super) fn is_last(&self, call_id: u64) -> bool {
        call_id == self.lifetime.calls
    }

    /// Why it should not serve any longer.
    pub(super) fn overdue(&self, now: Instant) -> Option<ReplaceCause> {
        let calls = self.calls();
        if calls >= self.lifetime.calls {
            return Some(ReplaceCause::Calls(calls));
        }
        let until = self.lifetime.until?;
        (until <= now).then(|| ReplaceCause::Age(now - self.since))
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// It is not lent from now on.
    pub(super) fn retire(&self) {
        self.gone.store(true, Ordering::Release);
    }

    /// Whether a call is on it.
    pub(super) fn is_busy(&self) -> bool {
        self.load().calls > 0
    }

    pub(super) fn is_lent(&self) -> bool {
        self.lent() > 0
    }

    /// Calls that have it.
    pub(super) fn lent(&self) -> usize {
        self.lent.load(Ordering::Relaxed)
    }

    /// Calls it runs at the same time.
    pub(super) fn concurrency(&self) -> usize {
        self.concurrency
    }

    /// Whether it can run one more call.
    pub(super) fn can_run_more(&self) -> bool {
        self.lent() < self.concurrency
    }

    /// Its place among those that can take a call. Called under the pool's lock.
    pub(super) fn place(&self) -> Option<usize> {
        let place = self.place.load(Ordering::Relaxed);
        (place != usize::MAX).then_some(place)
    }

    /// Notes its place. Called under the pool's lock.
    pub(super) fn set_place(&self, place: Option<usize>) {
        self.place.store(place.unwrap_or(usize::MAX), Ordering::Relaxed);
    }

    /// Whether more than one call has it.
    pub(super) fn is_shared(&self) -> bool {
        self.lent() > 1
    }

    /// Counts a lease. Called under the pool's lock.
    pub(super) fn lend(&self) {
        self.lent.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a lease out. Called under the pool's lock.
    pub(super) fn take_back(&self) {
        self.lent.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether one more call may be sent to it: any that it can run, and one that waits in it only behind short calls.
    pub(super) fn has_room(&self) -> bool {
        if self.can_run_more() {
            return true;
        }
        self.concurrency == 1 && self.lent() < self.worker.depth() && self.load().last < SHORT
    }

    fn load(&self) -> MutexGuard<'_, Load> {
        self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls it was given so far.
    pub(super) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// How long its running call, of several the first one, can have been running.
    pub(super) fn busy_for(&self, now: Instant) -> Option<Duration> {
        let load = self.load();
        let since = load.since.or_else(|| load.running.values().next().copied())?;
        Some(now - since)
    }

    /// How long ago its last call was over, or it became ready.
    pub(super) fn idle_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.load().over)
    }

    /// A call is sent to it; returns its id, unique within this worker.
    pub(super) fn begin(&self, now: Instant) -> u64 {
        let mut load = self.load();
        load.calls += 1;
        // Under the lock, so that of several calls the first one has the lowest id.
        let call_id = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        if self.concurrency == 1 {
            load.since.get_or_insert(now);
        } else {
            load.running.insert(call_id, now);
        }
        call_id
    }

    /// A call that ran on it is over: where one runs at a time, the next one runs now. How long it ran.
    pub(super) fn finish(&self, call_id: u64, now: Instant) -> Duration {
        let mut load = self.load();
        load.calls = load.calls.saturating_sub(1);
        load.over = now;
        if self.concurrency > 1 {
            let since = load.running.remove(&call_id);
            return since.map_or(Duration::ZERO, |since| now - since);
        }
        load.last = load.since.map_or(Duration::MAX, |since| now - since);
        load.since = (load.calls > 0).then_some(now);
        load.last
    }

    /// A call that never ran on it was taken back, since the one before it takes long.
    pub(super) fn forgo(&self, call_id: u64) {
        let mut load = self.load();
        load.calls = load.calls.saturating_sub(1);
        load.running.remove(&call_id);
        load.last = Duration::MAX;
        if load.calls == 0 {
            load.since = None;
        }
    }
}
