//! Settings of a pool and the choices behind it.

mod environment;
mod workers;

use std::{error::Error, ffi::OsString, path::PathBuf, sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use snakepit_core::{
    event::Events,
    host::{HostCall, HostFunctions},
    launch::{LaunchLimits, Launcher},
    ledger::Ledger,
    pool::{Overflow, Pool as CorePool, PoolSettings, PoolStartError, SettingsError},
    supervision::{MetricsCollector, ResourceFactory, Shutdown},
    worker::{Affinity, ChannelSpec, Concurrency, GrpcWorkerFactory, GrpcWorkerSpec, Heartbeat},
};

use crate::{
    Backend, BackendError, Pool, PythonEnv,
    python_env::{PythonEnvBuilder, PythonEnvError},
    record::Record,
};

pub(crate) use environment::{Environment, Variable};

/// Why a pool did not start; nothing of it is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The backend.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// No usable Python.
    #[error("no Python environment for the workers")]
    Python(#[source] Box<PythonEnvError>),
    /// The registry, where it is [required](snakepit_registry::Policy::Required), or has a name that cannot be one.
    #[cfg(feature = "registry")]
    #[error("no registry to record the workers in")]
    Registry(#[from] snakepit_registry::OpenError),
    /// The pool.
    #[error(transparent)]
    Pool(#[from] PoolStartError),
}

/// Settings of a pool that is to be started.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it is started"]
pub struct PoolBuilder {
    pub(crate) name: String,
    pub(crate) pool: PoolSettings,
    pub(crate) concurrency: Concurrency,
    pub(crate) adapters: Vec<String>,
    pub(crate) host_functions: HostFunctions,
    pub(crate) paths: Vec<PathBuf>,
    pub(crate) environment: Environment,
    pub(crate) env_remove: Vec<OsString>,
    pub(crate) cwd: Option<PathBuf>,
    pub(crate) limits: LaunchLimits,
    pub(crate) python: Python,
    pub(crate) program: Option<(PathBuf, Vec<OsString>)>,
    pub(crate) channel: ChannelSpec,
    pub(crate) backend: Option<Backend>,
    pub(crate) launcher: Option<Arc<dyn Launcher>>,
    pub(crate) template_launcher: Option<Arc<dyn Launcher>>,
    pub(crate) preload: Vec<String>,
    pub(crate) nested_namespaces: bool,
    pub(crate) ledger: Option<Arc<dyn Ledger>>,
    #[cfg(feature = "registry")]
    pub(crate) registry: Option<snakepit_registry::Settings>,
    pub(crate) resources: Vec<Arc<dyn ResourceFactory>>,
    pub(crate) metrics: bool,
    pub(crate) start_deadline: Duration,
    pub(crate) heartbeat: Heartbeat,
    pub(crate) log_level: u32,
    pub(crate) arena: Option<u64>,
}

/// The Python environment of a pool.
#[derive(Clone, Debug)]
pub(crate) enum Python {
    /// One that is there.
    Is(PythonEnv),
    /// One that is found or made when the pool starts.
    WillBe(PythonEnvBuilder),
}

impl PoolBuilder {
    pub(crate) fn new() -> Self {
        Self {
            name: "default".to_owned(),
            pool: PoolSettings::default(),
            concurrency: Concurrency::default(),
            adapters: Vec::new(),
            host_functions: HostFunctions::new(),
            paths: Vec::new(),
            environment: Environment::default(),
            env_remove: Vec::new(),
            cwd: None,
            limits: LaunchLimits::default(),
            python: Python::WillBe(PythonEnv::builder()),
            program: None,
            channel: ChannelSpec::default(),
            backend: None,
            launcher: None,
            template_launcher: None,
            preload: Vec::new(),
            nested_namespaces: false,
            ledger: None,
            #[cfg(feature = "registry")]
            registry: Some(snakepit_registry::Settings::new()),
            resources: Vec::new(),
            metrics: true,
            start_deadline: GrpcWorkerSpec::START_DEADLINE,
            heartbeat: Heartbeat::default(),
            log_level: GrpcWorkerSpec::LOG_LEVEL,
            arena: Some(GrpcWorkerSpec::ARENA),
        }
    }

    /// The pool's name in events, logs and errors. Default `default`.
    pub fn name(self, name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..self
        }
    }

    /// Worker slots, the most there may be; at least 1. Default: the CPUs this process may use, by affinity and by cgroup quota
    /// (rounded down); see [`PoolSettings::workers`].
    pub fn workers(self, workers: usize) -> Self {
        self.with(|pool| pool.workers = workers)
    }

    /// Sets all settings of queue, deadlines, retries and shutdown at once.
    pub fn pool_settings(self, settings: PoolSettings) -> Self {
        Self {
            pool: settings,
            ..self
        }
    }

    fn with(mut self, set: impl FnOnce(&mut PoolSettings)) -> Self {
        set(&mut self.pool);
        self
    }

    /// Calls that each worker runs at the same time: one, several on threads, or `async def` functions on one event loop. Default:
    /// one, which costs the least. A worker takes as many as it says it can, which for other programs than ours may be fewer.
    pub fn concurrency(self, concurrency: Concurrency) -> Self {
        Self { concurrency, ..self }
    }

    /// How many calls each worker will run at the same time.
    pub fn worker_concurrency(&self) -> Concurrency {
        self.concurrency
    }

    /// Adds a Python module that is imported before a worker is ready; its functions can be called by bare name.
    pub fn adapter(mut self, module: impl Into<String>) -> Self {
        self.adapters.push(module.into());
        self
    }

    /// Adds a function that Python code in the workers calls as `snakepit.context.host.NAME(...)`: an async closure over its
    /// positional arguments as a tuple, `()` for none. It runs in a task of its own, whose future is dropped when nobody
    /// waits for it any more; see [`core::host`](snakepit_core::host).
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), snakepit::PoolError> {
    /// let pool = snakepit::Pool::builder()
    ///     .host_function("price_of", |(article,): (String,)| async move {
    ///         match article.as_str() {
    ///             "tea" => Ok(2.5),
    ///             _ => Err(format!("no article is called {article}")),
    ///         }
    ///     })
    ///     .start()
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn host_function<A, R, E, F, Fut>(mut self, name: impl Into<String>, function: F) -> Self
    where
        A: DeserializeOwned,
        R: Serialize,
        E: Into<Box<dyn Error + Send + Sync>>,
        F: Fn(A) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, E>> + Send + 'static,
    {
        self.host_functions = self.host_functions.with_function(name, function);
        self
    }

    /// As [`host_function`](Self::host_function), for a closure over the call itself: its keyword arguments, its worker, its
    /// deadline.
    pub fn host_call_function<R, E, F, Fut>(mut self, name: impl Into<String>, function: F) -> Self
    where
        R: Serialize,
        E: Into<Box<dyn Error + Send + Sync>>,
        F: Fn(HostCall) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, E>> + Send + 'static,
    {
        self.host_functions = self.host_functions.with_call_function(name, function);
        self
    }

    /// Adds a directory in front of the workers' `sys.path`.
    pub fn path(mut self, directory: impl Into<PathBuf>) -> Self {
        self.paths.push(directory.into());
        self
    }

    /// The directories in front of the workers' `sys.path`, in the order they were added.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Sets a variable in the workers' environment.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        let variable = (name.into(), Variable::Literal(value.into()));
        self.environment.variables.push(variable);
        self
    }

    /// Sets a variable in the workers' environment to a [`Template`](snakepit_core::worker::Template), as in
    /// `/var/log/model-{slot}.log`: it is filled in for each worker. Of two variables with one name the later wins.
    pub fn env_template(mut self, name: impl Into<OsString>, template: impl Into<String>) -> Self {
        let variable = (name.into(), Variable::Template(template.into()));
        self.environment.variables.push(variable);
        self
    }

    /// Devices that the worker slots take in turn: slot 0 the first, and so around. A worker finds its own in
    /// `CUDA_VISIBLE_DEVICES`, and a [template](Self::env_template) names it `{device}`, as for `HIP_VISIBLE_DEVICES`. A
    /// device may be several, `0,1`. Default: none, and the variable is the host's.
    pub fn devices<D: Into<String>>(mut self, devices: impl IntoIterator<Item = D>) -> Self {
        self.environment.devices = devices.into_iter().map(Into::into).collect();
        self
    }

    /// The cores that each worker may run on. Default: those of the host.
    pub fn affinity(mut self, affinity: Affinity) -> Self {
        self.environment.affinity = affinity;
        self
    }

    /// Keeps one of the host's variables from the workers.
    pub fn env_remove(mut self, name: impl Into<OsString>) -> Self {
        self.env_remove.push(name.into());
        self
    }

    /// The workers' working directory. Default: the host's.
    pub fn cwd(self, directory: impl Into<PathBuf>) -> Self {
        Self {
            cwd: Some(directory.into()),
            ..self
        }
    }

    /// User, niceness, memory and other limits of each worker. A backend that cannot honour one refuses to start workers:
    /// the port backend honours none, the exec backend all that the machine offers.
    pub fn limits(self, limits: LaunchLimits) -> Self {
        Self { limits, ..self }
    }

    /// The Python environment. Default: [`PythonEnv::discover`], when the pool starts.
    pub fn python(self, python: PythonEnv) -> Self {
        Self {
            python: Python::Is(python),
            ..self
        }
    }

    /// A Python environment that is found or made when the pool starts, on a thread that may block.
    pub fn python_builder(self, python: PythonEnvBuilder) -> Self {
        Self {
            python: Python::WillBe(python),
            ..self
        }
    }

    /// Runs another program than Python's worker runtime: anything that serves `snakepit.worker.v1`.
    pub fn program<A: Into<OsString>>(
        self,
        program: impl Into<PathBuf>,
        args: impl IntoIterator<Item = A>,
    ) -> Self {
        let args = args.into_iter().map(Into::into).collect();
        Self {
            program: Some((program.into(), args)),
            ..self
        }
    }

    /// Where the workers' channel is. Default: their standard input. A program that cannot serve an inherited socket
    /// listens on a Unix path of its own instead.
    pub fn channel(self, channel: ChannelSpec) -> Self {
        Self { channel, ..self }
    }

    /// The backend that starts the workers. Default: the first of [`Backend::compiled_in`]. Of this and
    /// [`launcher`](Self::launcher) the later wins.
    pub fn backend(self, backend: Backend) -> Self {
        Self {
            backend: Some(backend),
            launcher: None,
            ..self
        }
    }

    /// The name of the backend that will start the workers; `None` when none is compiled in.
    pub fn backend_name(&self) -> Option<&str> {
        let chosen = || self.backend.or_else(|| Backend::compiled_in().next());
        self.launcher
            .as_ref()
            .map(|launcher| launcher.name())
            .or_else(|| chosen().map(Backend::name))
    }

    /// A backend of your own, or a provided one with other settings than its defaults. Of this and
    /// [`backend`](Self::backend) the later wins.
    pub fn launcher(self, launcher: Arc<dyn Launcher>) -> Self {
        Self {
            launcher: Some(launcher),
            ..self
        }
    }

    /// What starts the template of the [zygote backend](Backend::Zygote): a backend of your own, or a provided one with other
    /// settings than its defaults. Default: as the backend's name says. Any other backend refuses it.
    pub fn template_launcher(self, launcher: Arc<dyn Launcher>) -> Self {
        let template_launcher = Some(launcher);
        Self {
            template_launcher,
            ..self
        }
    }

    /// Adds a module that the template of the [zygote backend](Backend::Zygote) imports, besides the adapters: what is imported
    /// there is in memory once, and costs a worker's start nothing. Default none. Any other backend refuses it.
    pub fn preload(mut self, module: impl Into<String>) -> Self {
        self.preload.push(module.into());
        self
    }

    /// Gives each worker of the [zygote backend](Backend::Zygote) a PID namespace of its own: the kernel ends whatever a worker has
    /// started with it, and with this program, whichever backend starts the template. It takes root or user namespaces, and
    /// some milliseconds more for each start. Default: workers share the template's. Any other backend refuses it.
    pub fn nested_namespaces(self, nested: bool) -> Self {
        Self {
            nested_namespaces: nested,
            ..self
        }
    }

    /// The registry that records what the pool starts, so that the next start can end what is left should this program
    /// be killed. It is closed when the last pool of the program that uses it has been shut down. Default: one named after the
    /// executable, in the user's state directory, best effort.
    #[cfg(feature = "registry")]
    pub fn registry(self, settings: snakepit_registry::Settings) -> Self {
        Self {
            registry: Some(settings),
            ..self
        }
    }

    /// Records nothing on disk, and does not clean up after earlier runs.
    #[cfg(feature = "registry")]
    pub fn without_registry(self) -> Self {
        Self {
            registry: None,
            ..self
        }
    }

    /// A ledger of your own; there is no registry and no cleanup at the start then. Without the feature `registry` the
    /// default is one in memory, which orders the steps of a start and survives nothing.
    pub fn ledger(self, ledger: Arc<dyn Ledger>) -> Self {
        Self {
            ledger: Some(ledger),
            ..self
        }
    }

    /// How long a worker serves before another one takes its place. Default: no limit; see [`PoolSettings::max_age`].
    pub fn max_age(self, age: Duration) -> Self {
        self.with(|pool| pool.max_age = Some(age))
    }

    /// How many calls a worker is given before another one takes its place. Default: no limit; see
    /// [`PoolSettings::max_calls`].
    pub fn max_calls(self, calls: u64) -> Self {
        self.with(|pool| pool.max_calls = Some(calls))
    }

    /// From one health check of a worker to the next, where its adapters have a hook for it; `None` checks nothing. Default
    /// 30 s; see [`PoolSettings::health_interval`].
    pub fn health_interval(self, interval: impl Into<Option<Duration>>) -> Self {
        let interval = interval.into();
        self.with(|pool| pool.health_interval = interval)
    }

    /// How long a health check may take. Default 10 s; see [`PoolSettings::health_timeout`].
    pub fn health_timeout(self, timeout: Duration) -> Self {
        self.with(|pool| pool.health_timeout = timeout)
    }

    /// How many bytes of resident memory a worker's process tree may have before another one takes its place. Default: no
    /// limit; see [`PoolSettings::max_rss`].
    pub fn max_rss(self, bytes: u64) -> Self {
        self.with(|pool| pool.max_rss = Some(bytes))
    }

    /// By how much of itself a worker's `max_age` and `max_calls` may be shorter. Default 0.2; see
    /// [`PoolSettings::recycle_jitter`].
    pub fn recycle_jitter(self, fraction: f64) -> Self {
        self.with(|pool| pool.recycle_jitter = fraction)
    }

    /// In how many slots a worker may be replaced at the same time. Default 1; see [`PoolSettings::replacements`].
    pub fn replacements(self, slots: usize) -> Self {
        self.with(|pool| pool.replacements = slots)
    }

    /// How long a worker that was replaced may go on with its calls. Default: until they are over; see
    /// [`PoolSettings::drain_timeout`].
    pub fn drain_timeout(self, timeout: Duration) -> Self {
        self.with(|pool| pool.drain_timeout = Some(timeout))
    }

    /// Adds a resource to every slot: started after its worker is ready, ended before it.
    pub fn resource(mut self, resource: Arc<dyn ResourceFactory>) -> Self {
        self.resources.push(resource);
        self
    }

    /// Whether memory and CPU of each worker's process tree are measured. Default yes: one scan of the process
    /// table every 5 s serves all pools of the host; [`Sampler::host`](snakepit_core::supervision::Sampler::host) changes the interval.
    pub fn metrics(self, measured: bool) -> Self {
        Self {
            metrics: measured,
            ..self
        }
    }

    /// Slots that there are always; with fewer than [`workers`](Self::workers) the pool grows and shrinks. Default: as many; see
    /// [`PoolSettings::min_workers`].
    pub fn min_workers(self, workers: usize) -> Self {
        self.with(|pool| pool.min_workers = Some(workers))
    }

    /// Idle workers that a pool which can grow has ready. Default 1; see
    /// [`PoolSettings::spare_workers`].
    pub fn spare_workers(self, workers: usize) -> Self {
        self.with(|pool| pool.spare_workers = workers)
    }

    /// How long a worker that is not needed stays idle before it is ended. Default 60 s; see
    /// [`PoolSettings::idle_timeout`].
    pub fn idle_timeout(self, timeout: Duration) -> Self {
        self.with(|pool| pool.idle_timeout = timeout)
    }

    /// Callers that may wait for a worker. Default 1,000; see
    /// [`PoolSettings::queue_limit`].
    pub fn queue_limit(self, limit: Option<usize>) -> Self {
        self.with(|pool| pool.queue_limit = limit)
    }

    /// What happens to a call that finds the queue full. Default: it is refused; see
    /// [`PoolSettings::overflow`].
    pub fn overflow(self, overflow: Overflow) -> Self {
        self.with(|pool| pool.overflow = overflow)
    }

    /// How many calls of a function may be executed at once in the whole pool; see
    /// [`PoolSettings::function_limits`].
    pub fn function_limit(self, function: impl Into<String>, calls: usize) -> Self {
        self.with(|pool| {
            pool.function_limits.insert(function.into(), calls);
        })
    }

    /// Deadline of calls that set none, over queue, execution and retries. Default: none; see
    /// [`PoolSettings::deadline`].
    pub fn deadline(self, deadline: Duration) -> Self {
        self.with(|pool| pool.deadline = Some(deadline))
    }

    /// How long calls that do not say may wait in the queue. Default: no bound; see
    /// [`PoolSettings::queue_timeout`].
    pub fn queue_timeout(self, timeout: Duration) -> Self {
        self.with(|pool| pool.queue_timeout = Some(timeout))
    }

    /// How long calls that do not say may be executed. Default: no bound; see
    /// [`PoolSettings::run_timeout`].
    pub fn run_timeout(self, timeout: Duration) -> Self {
        self.with(|pool| pool.run_timeout = Some(timeout))
    }

    /// On how many workers, one after the other, an idempotent call is executed. Default 3; see
    /// [`PoolSettings::attempts`].
    pub fn attempts(self, attempts: u32) -> Self {
        self.with(|pool| pool.attempts = attempts)
    }

    /// How many workers in a row the same call may lose before it is refused. Default 3; see
    /// [`PoolSettings::poison_limit`].
    pub fn poison_limit(self, deaths: Option<u32>) -> Self {
        self.with(|pool| pool.poison_limit = deaths)
    }

    /// From a call's cancellation to the end of the worker that goes on with it. Default 1 s; see
    /// [`PoolSettings::cancel_grace`].
    pub fn cancel_grace(self, grace: Duration) -> Self {
        self.with(|pool| pool.cancel_grace = grace)
    }

    /// How long [`start`](Self::start) waits for the workers; with none ready by then it fails. Default 60 s; see
    /// [`PoolSettings::start_timeout`].
    pub fn start_timeout(self, timeout: Duration) -> Self {
        self.with(|pool| pool.start_timeout = timeout)
    }

    /// How long one worker may take from launch to ready, imports included; not zero. Default 30 s.
    pub fn start_deadline(self, deadline: Duration) -> Self {
        Self {
            start_deadline: deadline,
            ..self
        }
    }

    /// Liveness of the workers' control threads. Default: a ping every 2 s, stuck after 10 s; neither may be zero.
    pub fn heartbeat(self, heartbeat: Heartbeat) -> Self {
        Self { heartbeat, ..self }
    }

    /// Python logging records below this level number stay in the worker. Default 20, `INFO`.
    pub fn log_level(self, level: u32) -> Self {
        Self {
            log_level: level,
            ..self
        }
    }

    /// Bytes of memory that each worker shares with the host for large arrays and bytes, each way: arguments and results. Pages
    /// exist when they are used, so only address space is taken in advance. `None` shares none, and everything goes in messages,
    /// as does what finds no room. Default 1 GiB; at least 64 KiB, at most 1 TiB.
    pub fn arena(self, bytes: impl Into<Option<u64>>) -> Self {
        Self {
            arena: bytes.into(),
            ..self
        }
    }

    /// How the pool is ended. Default: 5 s for running calls, 5 s from SIGTERM to SIGKILL.
    pub fn shutdown(self, shutdown: Shutdown) -> Self {
        self.with(|pool| pool.shutdown = shutdown)
    }

    /// Starts the pool and returns when every slot serves, or after the [start timeout](Self::start_timeout) with those
    /// that do.
    ///
    /// # Errors
    /// When no backend or Python is usable, the settings are wrong, or no worker became ready; nothing is left then.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    ///
    /// # Cancel safety
    /// Dropping the future ends what was started, in the background.
    pub async fn start(self) -> Result<Pool, StartError> {
        self.check().map_err(PoolStartError::from)?;
        let launcher = self.launcher_of_workers()?;
        let events = Events::new(&self.name);
        let record = match &self.ledger {
            Some(ledger) => Record::own(Arc::clone(ledger)),
            #[cfg(feature = "registry")]
            None => Record::open(self.registry.clone(), &events).await?,
            #[cfg(not(feature = "registry"))]
            None => Record::own(Arc::new(snakepit_core::ledger::MemoryLedger::new())),
        };
        let (spec, python) = self.workers_spec(&events, &record, launcher).await?;

        let metrics = events.clone();
        let workers = Arc::new(GrpcWorkerFactory::new(spec));
        let mut pool = CorePool::builder(workers, events.clone()).settings(self.pool);
        if self.metrics {
            pool = pool.resource(Arc::new(MetricsCollector::new(metrics)));
        }
        for resource in self.resources {
            pool = pool.resource(resource);
        }
        let (started, ()) = tokio::join!(pool.start(), record.look_around());
        match started {
            Ok(pool) => Ok(Pool::new(pool, python, record, events)),
            Err(error) => {
                record.close().await;
                Err(error.into())
            }
        }
    }
}

impl PoolBuilder {
    /// Everything that is wrong, before anything is started.
    pub(crate) fn check(&self) -> Result<(), SettingsError> {
        let mut wrong = match self.pool.check() {
            Ok(()) => Vec::new(),
            Err(SettingsError(wrong)) => wrong,
        };
        let times = [
            (
                "start_deadline",
                self.start_deadline,
                "no worker can be ready in that time",
            ),
            (
                "the heartbeat's interval",
                self.heartbeat.interval,
                "the host would do nothing but ping",
            ),
            (
                "the heartbeat's stuck_after",
                self.heartbeat.stuck_after,
                "no worker can answer in that time",
            ),
        ];
        if self
            .arena
            .is_some_and(|size| size == 0 || size > GrpcWorkerSpec::MAX_ARENA)
        {
            wrong.push(format!(
                "the arena has {} bytes: 1 to {} can be shared, or none at all",
                self.arena.unwrap_or(0),
                GrpcWorkerSpec::MAX_ARENA
            ));
        }
        let zero = times.into_iter().filter(|(_, time, _)| time.is_zero());
        wrong.extend(zero.map(|(name, _, why)| format!("{name} is zero: {why}")));
        if matches!(
            self.concurrency,
            Concurrency::Threads(0) | Concurrency::Asyncio(0)
        ) {
            wrong.push("concurrency is zero: no call could ever run".to_owned());
        }
        wrong.extend(self.host_functions.problems().iter().cloned());
        wrong.extend(self.template_problems());
        self.environment.check(&mut wrong);
        if self.pool.max_rss.is_some() && !self.metrics && self.resources.is_empty() {
            wrong.push("max_rss is set, and nothing measures memory: metrics are switched off".to_owned());
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(SettingsError(wrong))
        }
    }
}
