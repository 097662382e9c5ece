//! A worker that serves, and what it is busy with.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

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
    /// It must not be called any more.
    gone: AtomicBool,
    /// Calls it was lent to and has not been given back from; changed under the pool's lock.
    lent: AtomicUsize,
    calls: AtomicU64,
    load: Mutex<Load>,
}

/// What a worker is busy with.
#[derive(Debug)]
struct Load {
    /// Calls sent to it and not over.
    calls: usize,
    /// Since when the first of them can have been running.
    since: Option<Instant>,
    /// How long the last one ran.
    last: Duration,
}

impl Seat {
    pub(super) fn new(slot: SlotId, worker: Arc<dyn Worker>) -> Self {
        let client = worker.client();
        Self {
            slot,
            worker,
            client,
            gone: AtomicBool::new(false),
            lent: AtomicUsize::new(0),
            calls: AtomicU64::new(0),
            load: Mutex::new(Load {
                calls: 0,
                since: None,
                last: Duration::MAX,
            }),
        }
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
        self.lent.load(Ordering::Relaxed) > 0
    }

    /// Whether more than one call has it.
    pub(super) fn is_shared(&self) -> bool {
        self.lent.load(Ordering::Relaxed) > 1
    }

    /// Counts a lease. Called under the pool's lock.
    pub(super) fn lend(&self) {
        self.lent.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a lease out. Called under the pool's lock.
    pub(super) fn take_back(&self) {
        self.lent.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether one more call may be sent to it: any to an idle one, a further one only behind short calls.
    pub(super) fn has_room(&self) -> bool {
        match self.lent.load(Ordering::Relaxed) {
            0 => true,
            lent => lent < self.worker.depth() && self.load().last < SHORT,
        }
    }

    fn load(&self) -> MutexGuard<'_, Load> {
        self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls it was given so far.
    pub(super) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// How long its running call can have been running.
    pub(super) fn busy_for(&self, now: Instant) -> Option<Duration> {
        Some(now - self.load().since?)
    }

    /// A call is sent to it; returns its id, unique within this worker.
    pub(super) fn begin(&self, now: Instant) -> u64 {
        let mut load = self.load();
        load.calls += 1;
        load.since.get_or_insert(now);
        drop(load);
        self.calls.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A call that ran on it is over: the next one runs now. How long it ran.
    pub(super) fn finish(&self, now: Instant) -> Duration {
        let mut load = self.load();
        load.calls = load.calls.saturating_sub(1);
        load.last = load.since.map_or(Duration::MAX, |since| now - since);
        load.since = (load.calls > 0).then_some(now);
        load.last
    }

    /// A call that never ran on it was taken back, since the one before it takes long.
    pub(super) fn forgo(&self) {
        let mut load = self.load();
        load.calls = load.calls.saturating_sub(1);
        load.last = Duration::MAX;
        if load.calls == 0 {
            load.since = None;
        }
    }
}
