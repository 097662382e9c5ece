//! The one sampler of a host.

use std::{
    collections::BTreeMap,
    fmt, fs,
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};
use tokio::time::Instant;

use super::{
    MetricsSample,
    usage::{self, CpuTimes, Row},
};
use crate::supervision::ResourceError;

/// How long the first scan waits at most: workers that start together are seen by the same one.
const FIRST_SCAN: Duration = Duration::from_secs(1);

/// The shortest interval: CPU times come in steps of 10 ms, and a scan costs milliseconds.
const SHORTEST: Duration = Duration::from_millis(100);

/// Samples the process trees of its subscribers: one scan of the process table serves all of them. Clones
/// share it.
///
/// It has a thread of its own, so that reading the process table holds up no async task; the thread lives
/// only while somebody subscribes.
#[derive(Clone)]
pub struct Sampler {
    shared: Arc<Shared>,
}

/// What a sampler has cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SamplerCost {
    /// Scans of the process table.
    pub scans: u64,
    /// CPU time of all scans; zero on kernels that do not tell.
    pub cpu: Duration,
    /// Processes seen by the last scan.
    pub processes: usize,
}

struct Shared {
    inner: Mutex<Inner>,
    changed: Condvar,
}

struct Inner {
    interval: Duration,
    subscribers: BTreeMap<u64, Arc<Subscriber>>,
    next: u64,
    running: bool,
    cost: SamplerCost,
}

struct Subscriber {
    pid: u32,
    sink: Box<dyn Fn(MetricsSample) + Send + Sync>,
}

/// Samples arrive until this is dropped.
pub(super) struct Subscription {
    shared: Arc<Shared>,
    key: u64,
}

impl Sampler {
    /// The default interval: 5 s. A scan of 215 processes, 100 of them workers, was measured to take 8 ms of
    /// CPU, which is 0.16 % of a core.
    pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);

    /// A sampler of one's own, with this interval; at least 100 ms.
    pub fn new(interval: Duration) -> Self {
        let inner = Inner {
            interval: interval.max(SHORTEST),
            subscribers: BTreeMap::new(),
            next: 0,
            running: false,
            cost: SamplerCost::default(),
        };
        Self {
            shared: Arc::new(Shared {
                inner: Mutex::new(inner),
                changed: Condvar::new(),
            }),
        }
    }

    /// The host's sampler, shared by all its pools.
    pub fn host() -> Self {
        static HOST: OnceLock<Sampler> = OnceLock::new();
        HOST.get_or_init(|| Self::new(Self::DEFAULT_INTERVAL)).clone()
    }

    /// Sets the interval; at least 100 ms.
    pub fn set_interval(&self, interval: Duration) {
        self.shared.lock().interval = interval.max(SHORTEST);
        self.shared.changed.notify_all();
    }

    /// What it has cost so far.
    pub fn cost(&self) -> SamplerCost {
        self.shared.lock().cost
    }

    /// Sends samples of the tree below this process to `sink`, which is called from the sampler's thread and
    /// must not block. Fails where the process table cannot be read or there is no thread to be had.
    pub(super) fn subscribe(
        &self,
        pid: u32,
        sink: impl Fn(MetricsSample) + Send + Sync + 'static,
    ) -> Result<Subscription, ResourceError> {
        let mut inner = self.shared.lock();
        if !inner.running {
            let shared = Arc::clone(&self.shared);
            let system = System::new()
                .map_err(|error| ResourceError(format!("cannot read the process table: {error}")))?;
            std::thread::Builder::new()
                .name("snakepit-metrics".into())
                .spawn(move || shared.run(Scanner::new(system)))
                .map_err(|error| ResourceError(format!("cannot start the sampler's thread: {error}")))?;
            inner.running = true;
        }
        let key = inner.next;
        inner.next += 1;
        let sink = Box::new(sink);
        inner.subscribers.insert(key, Arc::new(Subscriber { pid, sink }));
        let shared = Arc::clone(&self.shared);
        Ok(Subscription { shared, key })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is one call: a panic cannot have left it half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread: scans until nobody subscribes any more.
    fn run(&self, mut scanner: Scanner) {
        let mut due = Instant::now() + self.lock().interval.min(FIRST_SCAN);
        loop {
            let Some(subscribers) = self.wait_until(due) else {
                return;
            };
            due = Instant::now() + self.lock().interval;
            let before = thread_cpu_time();
            let processes = scanner.scan(&subscribers);
            let used = match (before, thread_cpu_time()) {
                (Some(before), Some(after)) => after.saturating_sub(before),
                _ => Duration::ZERO,
            };
            let mut inner = self.lock();
            inner.cost.scans += 1;
            inner.cost.cpu += used;
            inner.cost.processes = processes;
        }
    }

    /// The subscribers at that time; `None` as soon as there are none.
    fn wait_until(&self, mut due: Instant) -> Option<Vec<Arc<Subscriber>>> {
        let mut inner = self.lock();
        loop {
            if inner.subscribers.is_empty() {
                // Under the lock: a subscriber that comes now starts a new thread.
                inner.running = false;
                return None;
            }
            let now = Instant::now();
            // The interval may have been set shorter meanwhile.
            due = due.min(now + inner.interval);
            if now >= due {
                return Some(inner.subscribers.values().cloned().collect());
            }
            let waited = self.changed.wait_timeout(inner, due - now);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut inner = self.shared.lock();
        let gone = inner.subscribers.remove(&self.key);
        let last = inner.subscribers.is_empty();
        drop(inner);
        drop(gone);
        if last {
            self.shared.changed.notify_all();
        }
    }
}

/// Reads the process table.
struct Scanner {
    system: System,
    before: Option<(CpuTimes, Instant)>,
}

impl Scanner {
    fn new(system: System) -> Self {
        Self { system, before: None }
    }

    /// Scans once and serves the subscribers; answers how many processes there are.
    fn scan(&mut self, subscribers: &[Arc<Subscriber>]) -> usize {
        // One small file for each process of the host; memory is read for the members of trees only.
        let cpu = ProcessRefreshKind::nothing().with_cpu().without_tasks();
        self.system
            .refresh_processes_specifics(ProcessesToUpdate::All, true, cpu);
        let now = Instant::now();
        let rows: BTreeMap<u32, Row> = self
            .system
            .processes()
            .iter()
            .map(|(pid, process)| {
                let row = Row {
                    parent: process.parent().map(Pid::as_u32),
                    start_time: process.start_time(),
                    cpu_time: Duration::from_millis(process.accumulated_cpu_time()),
                };
                (pid.as_u32(), row)
            })
            .collect();
        let trees = usage::trees(&rows, subscribers.iter().map(|subscriber| subscriber.pid));
        let members: Vec<Pid> = trees.values().flatten().copied().map(Pid::from_u32).collect();
        let memory = ProcessRefreshKind::nothing().with_memory().without_tasks();
        self.system
            .refresh_processes_specifics(ProcessesToUpdate::Some(&members), false, memory);
        let before = self.before.as_ref().map(|(times, at)| (times, now - *at));
        for subscriber in subscribers {
            let Some(members) = trees.get(&subscriber.pid).filter(|members| !members.is_empty()) else {
                continue;
            };
            let memory = |&pid: &u32| {
                self.system
                    .process(Pid::from_u32(pid))
                    .map(sysinfo::Process::memory)
            };
            let rss_bytes = members.iter().filter_map(memory).sum();
            (subscriber.sink)(usage::sample(&rows, before, members, rss_bytes));
        }
        let times = rows
            .iter()
            .map(|(&pid, row)| ((pid, row.start_time), row.cpu_time));
        self.before = Some((times.collect(), now));
        rows.len()
    }
}

/// CPU time of this thread: the first field of /proc/thread-self/schedstat, in nanoseconds.
fn thread_cpu_time() -> Option<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanos = text.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanos))
}

impl fmt::Debug for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.shared.lock();
        f.debug_struct("Sampler")
            .field("interval", &inner.interval)
            .field("subscribers", &inner.subscribers.len())
            .field("cost", &inner.cost)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}
