//! Settings of a pool, and its start.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::{
    Pool, Shared,
    dispatch::{Dispatch, Started},
};
use crate::{
    event::Events,
    id::SlotId,
    supervision::{
        ChildSpec, DynamicSupervisor, ResourceFactory, Shutdown, SlotObserver, SlotStarterFactory,
        StarterFactory, Supervisor, SupervisorLimits,
    },
    worker::{StartError, WorkerFactory},
};

/// The largest number of slots: each is a process.
const MAX_WORKERS: usize = 100_000;

/// How long an idle worker may take to run its stop hooks before it is sent SIGTERM.
const STOP_HOOKS: Duration = Duration::from_secs(2);

/// What does not change in a pool's life.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) deadline: Option<Duration>,
    pub(super) cancel_grace: Duration,
    pub(super) shutdown: Shutdown,
}

/// Settings of a pool that is to be started.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is started"]
pub struct PoolBuilder {
    factory: Arc<dyn WorkerFactory>,
    events: Events,
    resources: Vec<Arc<dyn ResourceFactory>>,
    workers: usize,
    queue_limit: Option<usize>,
    deadline: Option<Duration>,
    cancel_grace: Duration,
    start_timeout: Duration,
    shutdown: Shutdown,
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
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            queue_limit: Some(1000),
            deadline: None,
            cancel_grace: Duration::from_secs(1),
            start_timeout: Duration::from_secs(60),
            shutdown: Shutdown::default(),
        }
    }

    /// Worker slots; at least 1. Default: the CPUs this process may use.
    pub fn workers(self, workers: usize) -> Self {
        Self { workers, ..self }
    }

    /// Callers that may wait for a worker; 0 means that a call which finds all workers busy is refused, `None` is
    /// unlimited. Default 1,000: at a millisecond a call, the last of them waits a second.
    pub fn queue_limit(self, limit: Option<usize>) -> Self {
        Self {
            queue_limit: limit,
            ..self
        }
    }

    /// Deadline of calls that set none, over queue and execution. Default `None`: only the caller knows how long its
    /// function may take.
    pub fn deadline(self, deadline: Option<Duration>) -> Self {
        Self { deadline, ..self }
    }

    /// From a call's cancellation to the end of the worker that goes on with it. Default 1 s; zero ends the worker at
    /// once.
    pub fn cancel_grace(self, grace: Duration) -> Self {
        Self {
            cancel_grace: grace,
            ..self
        }
    }

    /// How long [`start`](Self::start) waits for the workers. When it runs out the pool starts with those that are
    /// ready, or fails when there is none. Default 60 s: twice the start deadline of a worker.
    pub fn start_timeout(self, timeout: Duration) -> Self {
        Self {
            start_timeout: timeout,
            ..self
        }
    }

    /// How [`Pool::shutdown`] ends calls and workers. Default: 5 s for calls to finish, 5 s from SIGTERM to SIGKILL.
    /// In between, a worker without a call is asked to run its stop hooks and to leave, within as long as the calls had and
    /// at most 2 s; one with a call is sent SIGTERM at once.
    pub fn shutdown(self, shutdown: Shutdown) -> Self {
        Self { shutdown, ..self }
    }

    /// Adds a resource to every slot: started after its worker is ready, ended before it.
    pub fn resource(mut self, resource: Arc<dyn ResourceFactory>) -> Self {
        self.resources.push(resource);
        self
    }

    /// Starts the pool and returns when every slot serves.
    ///
    /// A start that fails is tried again with growing pauses until the start timeout, unless trying again cannot help (see
    /// [`StartError::is_definite`]) and no slot serves.
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
        self.check()?;
        let dispatch = Arc::new(Dispatch::new(self.workers, self.queue_limit));
        let observer: Arc<dyn SlotObserver> = Arc::new(Arc::clone(&dispatch));
        let supervisor = self.supervise(&observer).await;
        let settings = Settings {
            deadline: self.deadline,
            cancel_grace: self.cancel_grace,
            shutdown: self.shutdown,
        };
        let pool = Pool {
            shared: Arc::new(Shared {
                settings: Arc::new(settings),
                dispatch,
                supervisor,
                events: self.events,
                settling: TaskTracker::new(),
                stopped: AtomicBool::new(false),
                runtime: tokio::runtime::Handle::current(),
            }),
        };
        let failed = match timeout(self.start_timeout, pool.shared.dispatch.started()).await {
            Ok(Started::All) => None,
            Ok(Started::Failed(last)) => Some(Some(last)),
            Err(_) => match pool.shared.dispatch.serving() {
                (0, last) => Some(last),
                (serving, _) => {
                    tracing::warn!(
                        pool = pool.name(),
                        serving,
                        of = self.workers,
                        "started with fewer workers"
                    );
                    None
                }
            },
        };
        let Some(last) = failed else {
            pool.shared.dispatch.open();
            return Ok(pool);
        };
        let name = pool.name().to_owned();
        pool.kill().await;
        Err(match last {
            Some(last) => PoolStartError::NoWorkers { pool: name, last },
            None => PoolStartError::Timeout {
                pool: name,
                limit: self.start_timeout,
            },
        })
    }

    /// Starts the supervisor and a starter for each slot.
    async fn supervise(&self, observer: &Arc<dyn SlotObserver>) -> Arc<dyn Supervisor> {
        // A worker that went down has had its grace: it is gone, or did not stop when it was cancelled, or did not
        // answer. What it leaves behind would only delay its replacement.
        let starters = SlotStarterFactory::new(
            Arc::clone(&self.factory),
            Arc::clone(observer),
            self.events.clone(),
        )
        .with_grace(Duration::ZERO);
        let starters = self.resources.iter().fold(starters, |starters, resource| {
            starters.with_resource(Arc::clone(resource))
        });
        let starters: Arc<dyn StarterFactory> = Arc::new(starters);
        let limits = SupervisorLimits::default();
        let supervisor = DynamicSupervisor::start(limits, Arc::clone(observer), self.events.clone());
        // By then the pool has waited for its calls; what a worker still has to do is to run its stop hooks.
        let shutdown = Shutdown {
            drain: self.shutdown.drain.min(STOP_HOOKS),
            grace: self.shutdown.grace,
        };
        for slot in (0_u32..).map(SlotId).take(self.workers) {
            let spec = ChildSpec::new(slot, Arc::clone(&starters)).with_shutdown(shutdown);
            if let Err(error) = supervisor.start_child(spec).await {
                unreachable!("the supervisor is new, is not ending, and has no such slot: {error}");
            }
        }
        Arc::new(supervisor)
    }

    fn check(&self) -> Result<(), SettingsError> {
        let mut wrong = Vec::new();
        if !(1..=MAX_WORKERS).contains(&self.workers) {
            wrong.push(format!(
                "workers is {}, it must be 1 to {MAX_WORKERS}",
                self.workers
            ));
        }
        if self.deadline.is_some_and(|deadline| deadline.is_zero()) {
            wrong
                .push("deadline is zero: every call would fail at once; use None for no deadline".to_owned());
        }
        if self.start_timeout.is_zero() {
            wrong.push("start_timeout is zero: no worker can be ready in that time".to_owned());
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(SettingsError(wrong))
        }
    }
}
