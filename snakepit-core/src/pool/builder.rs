//! Settings of a pool, and its start.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::{
    Pool, Shared,
    dispatch::{Dispatch, Rules, Started},
    health::Checker,
    queue::Overflow,
    recycle::Recycler,
    replace::Replacer,
    restart::Restarter,
    scaling::Scaler,
    settings::PoolSettings,
    version::Version,
};
use crate::{
    event::Events,
    id::SlotId,
    supervision::{
        DynamicSupervisor, ResourceFactory, Shutdown, SlotObserver, SlotStarterFactory, SupervisorLimits,
    },
    worker::{StartError, WorkerFactory},
};

/// How long an idle worker may take to run its stop hooks before it is sent SIGTERM.
const STOP_HOOKS: Duration = Duration::from_secs(2);

/// Settings of a pool that is to be started.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is started"]
pub struct PoolBuilder {
    factory: Arc<dyn WorkerFactory>,
    events: Events,
    resources: Vec<Arc<dyn ResourceFactory>>,
    settings: PoolSettings,
}

/// Settings that contradict each other or make no sense; all of them at once.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct SettingsError(pub Vec<String>);

/// Why a pool did not start; nothing of it is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolStartError {
    /// The settings.
    #[error("the pool's settings are wrong")]
    Settings(#[from] SettingsError),
    /// No worker became ready.
    #[error("no worker of pool `{pool}` became ready")]
    NoWorkers {
        /// The pool.
        pool: String,
        /// The last start that failed.
        #[source]
        last: Arc<StartError>,
    },
    /// No worker became ready or failed in time.
    #[error("no worker of pool `{pool}` was ready after {limit:?}")]
    Timeout {
        /// The pool.
        pool: String,
        /// The start timeout.
        limit: Duration,
    },
}

impl PoolBuilder {
    pub(super) fn new(factory: Arc<dyn WorkerFactory>, events: Events) -> Self {
        Self {
            factory,
            events,
            resources: Vec::new(),
            settings: PoolSettings::default(),
        }
    }

    /// Sets everything at once.
    pub fn settings(self, settings: PoolSettings) -> Self {
        Self { settings, ..self }
    }

    fn with(mut self, set: impl FnOnce(&mut PoolSettings)) -> Self {
        set(&mut self.settings);
        self
    }

    /// Worker slots; see [`PoolSettings::workers`].
    pub fn workers(self, workers: usize) -> Self {
        self.with(|settings| settings.workers = workers)
    }

    /// Slots that there are always; see [`PoolSettings::min_workers`].
    pub fn min_workers(self, workers: usize) -> Self {
        self.with(|settings| settings.min_workers = Some(workers))
    }

    /// Idle workers that a pool which can grow has ready; see [`PoolSettings::spare_workers`].
    pub fn spare_workers(self, workers: usize) -> Self {
        self.with(|settings| settings.spare_workers = workers)
    }

    /// How long a worker that is not needed stays idle; see [`PoolSettings::idle_timeout`].
    pub fn idle_timeout(self, timeout: Duration) -> Self {
        self.with(|settings| settings.idle_timeout = timeout)
    }

    /// Callers that may wait for a worker; see [`PoolSettings::queue_limit`].
    pub fn queue_limit(self, limit: Option<usize>) -> Self {
        self.with(|settings| settings.queue_limit = limit)
    }

    /// What happens to a call that finds the queue full; see [`PoolSettings::overflow`].
    pub fn overflow(self, overflow: Overflow) -> Self {
        self.with(|settings| settings.overflow = overflow)
    }

    /// How many calls of a function may be executed at once; see [`PoolSettings::function_limits`].
    pub fn function_limit(self, function: impl Into<String>, calls: usize) -> Self {
        self.with(|settings| {
            settings.function_limits.insert(function.into(), calls);
        })
    }

    /// Deadline of calls that set none; see [`PoolSettings::deadline`].
    pub fn deadline(self, deadline: Option<Duration>) -> Self {
        self.with(|settings| settings.deadline = deadline)
    }

    /// How long calls that do not say may wait; see [`PoolSettings::queue_timeout`].
    pub fn queue_timeout(self, timeout: Option<Duration>) -> Self {
        self.with(|settings| settings.queue_timeout = timeout)
    }

    /// How long calls that do not say may be executed; see [`PoolSettings::run_timeout`].
    pub fn run_timeout(self, timeout: Option<Duration>) -> Self {
        self.with(|settings| settings.run_timeout = timeout)
    }

    /// On how many workers an idempotent call is executed; see [`PoolSettings::attempts`].
    pub fn attempts(self, attempts: u32) -> Self {
        self.with(|settings| settings.attempts = attempts)
    }

    /// How many workers in a row the same call may lose; see [`PoolSettings::poison_limit`].
    pub fn poison_limit(self, deaths: Option<u32>) -> Self {
        self.with(|settings| settings.poison_limit = deaths)
    }

    /// From a call's cancellation to the end of its worker; see [`PoolSettings::cancel_grace`].
    pub fn cancel_grace(self, grace: Duration) -> Self {
        self.with(|settings| settings.cancel_grace = grace)
    }

    /// How long [`start`](Self::start) waits for the workers; see [`PoolSettings::start_timeout`].
    pub fn start_timeout(self, timeout: Duration) -> Self {
        self.with(|settings| settings.start_timeout = timeout)
    }

    /// How [`Pool::shutdown`] ends calls and workers; see [`PoolSettings::shutdown`].
    pub fn shutdown(self, shutdown: Shutdown) -> Self {
        self.with(|settings| settings.shutdown = shutdown)
    }

    /// How long a worker serves; see [`PoolSettings::max_age`].
    pub fn max_age(self, age: Option<Duration>) -> Self {
        self.with(|settings| settings.max_age = age)
    }

    /// How many calls a worker is given; see [`PoolSettings::max_calls`].
    pub fn max_calls(self, calls: Option<u64>) -> Self {
        self.with(|settings| settings.max_calls = calls)
    }

    /// How many bytes of memory a worker's process tree may have; see [`PoolSettings::max_rss`]. Some resource has to
    /// measure it, such as a [`MetricsCollector`](crate::supervision::MetricsCollector).
    pub fn max_rss(self, bytes: Option<u64>) -> Self {
        self.with(|settings| settings.max_rss = bytes)
    }

    /// By how much of itself a limit may be shorter; see [`PoolSettings::recycle_jitter`].
    pub fn recycle_jitter(self, fraction: f64) -> Self {
        self.with(|settings| settings.recycle_jitter = fraction)
    }

    /// In how many slots a worker is replaced at the same time; see [`PoolSettings::replacements`].
    pub fn replacements(self, slots: usize) -> Self {
        self.with(|settings| settings.replacements = slots)
    }

    /// How long a worker that was replaced may go on with its calls; see [`PoolSettings::drain_timeout`].
    pub fn drain_timeout(self, timeout: Option<Duration>) -> Self {
        self.with(|settings| settings.drain_timeout = timeout)
    }

    /// From one health check of a worker to the next; see [`PoolSettings::health_interval`].
    pub fn health_interval(self, interval: Option<Duration>) -> Self {
        self.with(|settings| settings.health_interval = interval)
    }

    /// How long a health check may take; see [`PoolSettings::health_timeout`].
    pub fn health_timeout(self, timeout: Duration) -> Self {
        self.with(|settings| settings.health_timeout = timeout)
    }

    /// Adds a resource to every slot: started after its worker is ready, ended before it.
    pub fn resource(mut self, resource: Arc<dyn ResourceFactory>) -> Self {
        self.resources.push(resource);
        self
    }

    /// Starts the pool and returns when every slot serves.
    ///
    /// A start that fails is tried again with growing pauses until the start timeout, unless no slot serves and trying again cannot
    /// help: see [`StartError::is_definite`]; or one process after the other has ended in the same way at the same step, three of
    /// them and two in every slot.
    ///
    /// # Errors
    /// When the settings are wrong or no worker became ready; nothing is left then.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    ///
    /// # Cancel safety
    /// Dropping the future ends what was started, in the background.
    pub async fn start(self) -> Result<Pool, PoolStartError> {
        self.settings.check()?;
        let settings = Arc::new(self.settings.clone());
        let rules = Rules::new(&settings);
        let dispatch = Arc::new(Dispatch::new(settings.bounds(), rules, self.events.clone()));
        let version = Arc::new(Version::new(Arc::clone(&self.factory)));
        let scaler = self.supervise(&version, &dispatch).await;
        let supervisor = Arc::clone(&scaler.supervisor);
        let replacer = Arc::new(Replacer::new(&scaler, &settings));
        let recycler = Recycler::new(&replacer, &settings);
        let checker = Checker::new(&replacer, &settings);
        tokio::spawn(scaler.run());
        let pool = Pool {
            shared: Arc::new(Shared {
                settings: Arc::clone(&settings),
                dispatch,
                supervisor,
                restarter: Arc::new(Restarter::new(replacer, version, settings.replacements)),
                events: self.events,
                settling: TaskTracker::new(),
                stopped: AtomicBool::new(false),
                runtime: tokio::runtime::Handle::current(),
            }),
        };
        let failed = match timeout(settings.start_timeout, pool.shared.dispatch.started()).await {
            Ok(Started::All) => None,
            Ok(Started::Failed(last)) => Some(Some(last)),
            Err(_) => match pool.shared.dispatch.serving() {
                (0, last) => Some(last),
                (serving, _) => {
                    tracing::warn!(
                        pool = pool.name(),
                        serving,
                        of = settings.workers,
                        "started with fewer workers"
                    );
                    None
                }
            },
        };
        let Some(last) = failed else {
            pool.shared.dispatch.open();
            if let Some(recycler) = recycler {
                tokio::spawn(recycler.run());
            }
            if let Some(checker) = checker {
                tokio::spawn(checker.run());
            }
            return Ok(pool);
        };
        let name = pool.name().to_owned();
        pool.kill().await;
        Err(match last {
            Some(last) => PoolStartError::NoWorkers { pool: name, last },
            None => PoolStartError::Timeout {
                pool: name,
                limit: settings.start_timeout,
            },
        })
    }

    /// Starts the supervisor and a starter for each slot that there is from the start.
    async fn supervise(&self, version: &Arc<Version>, dispatch: &Arc<Dispatch>) -> Scaler {
        let observer: Arc<dyn SlotObserver> = Arc::new(Arc::clone(dispatch));
        let workers = Arc::clone(version) as Arc<dyn WorkerFactory>;
        // A worker that went down has had its grace: it is gone, or did not stop when it was cancelled, or did not
        // answer. What it leaves behind would only delay its replacement.
        let starters = SlotStarterFactory::new(workers, Arc::clone(&observer), self.events.clone())
            .with_grace(Duration::ZERO)
            .with_requested_grace(self.settings.shutdown.grace);
        let starters = self.resources.iter().fold(starters, |starters, resource| {
            starters.with_resource(Arc::clone(resource))
        });
        let limits = SupervisorLimits::default();
        let supervisor = DynamicSupervisor::start(limits, observer, self.events.clone());
        let scaler = Scaler {
            dispatch: Arc::clone(dispatch),
            supervisor: Arc::new(supervisor),
            starters: Arc::new(starters),
            // By then the pool has waited for its calls; what a worker still has to do is to run its stop hooks.
            shutdown: Shutdown {
                drain: self.settings.shutdown.drain.min(STOP_HOOKS),
                grace: self.settings.shutdown.grace,
            },
        };
        for slot in (0_u32..).map(SlotId).take(self.settings.bounds().min) {
            scaler.start(slot).await;
        }
        scaler
    }
}
