//! A worker that serves `snakepit.worker.v1`: launch, handshake, heartbeat, end.

mod affinity;
mod client;
mod data;
mod end;
mod environment;
mod host;
mod monitor;
mod output;
mod start;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

pub use affinity::{Affinity, CoreSet, ParseCoresError};
use async_trait::async_trait;
use client::{Control, GrpcClient};
pub use environment::{PerSlot, Template, TemplateError};
use host::HostStream;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::{
    ArenaUse, Concurrency, Down, DownReason, Feed, Input, NoInput, StartError, StartTurn, Worker,
    WorkerClient, WorkerFactory,
};
use crate::{
    event::Events,
    host::HostFunctions,
    id::{RunId, SlotId, WorkerId},
    launch::{LaunchLimits, LaunchedProcess, Launcher, StderrTail},
    ledger::Ledger,
    process::EndReport,
    rpc::Journal,
};

/// Calls under way on a worker that keeps its journal: one runs, the others wait in it and begin in the moment the one before
/// has ended, without a way to the host and back. Fewer leave the worker idle for a part of that way (see ADR-004); more
/// would only move the queue. Half the journal's entries, so that it is exact.
const DEPTH: usize = 4;

/// How often a worker's control thread is asked whether it lives, and when it is declared stuck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Pause between two looks at a worker. Default 2 s: a stopped process is noticed soon. A worker of our own runtime counts
    /// its beats in memory that the host reads, as often as the host looks, and is pinged only when the count stands still;
    /// another program is pinged each time.
    pub interval: Duration,
    /// A worker that leaves a ping unanswered for this long is stuck. Default 10 s: the answer needs no GIL, so only a
    /// process that gets no CPU at all is late, and that must not be taken for a death too early. Time in which the
    /// host itself stood still hardly counts.
    pub stuck_after: Duration,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(2),
            stuck_after: Duration::from_secs(10),
        }
    }
}

/// Where a worker's channel is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChannelSpec {
    /// The worker's standard input; see [`ChannelForm::Inherited`](crate::launch::ChannelForm::Inherited).
    #[default]
    Inherited,
    /// The worker listens on a Unix socket of its own in this directory, for programs that cannot serve an
    /// inherited socket. The directory must be writable for both and for nobody else.
    UnixIn(PathBuf),
}

/// What the workers of a pool are: everything that is the same for each of them.
#[derive(Clone, Debug)]
pub struct GrpcWorkerSpec {
    /// Where events go; also names the pool.
    pub events: Events,
    /// The run they belong to.
    pub run_id: RunId,
    /// The backend.
    pub launcher: Arc<dyn Launcher>,
    /// Where they are recorded.
    pub ledger: Arc<dyn Ledger>,
    /// The program; see [`LaunchSpec`](crate::launch::LaunchSpec) for this and what follows.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Variables to set.
    pub env: Vec<(OsString, OsString)>,
    /// What differs from slot to slot.
    pub per_slot: PerSlot,
    /// Variables not to pass on.
    pub env_remove: Vec<OsString>,
    /// Working directory; `None` is the host's.
    pub cwd: Option<PathBuf>,
    /// Where the channel is.
    pub channel: ChannelSpec,
    /// Settings only some backends can honour.
    pub limits: LaunchLimits,
    /// Modules imported before a worker is ready, in order.
    pub adapters: Vec<String>,
    /// Directories put in front of `sys.path`.
    pub paths: Vec<PathBuf>,
    /// Calls that a worker runs at the same time.
    pub concurrency: Concurrency,
    /// From launch to ready, imports included. Default [`START_DEADLINE`](Self::START_DEADLINE).
    pub start_deadline: Duration,
    /// Liveness of the control thread.
    pub heartbeat: Heartbeat,
    /// Python logging records below this level are not sent. Default [`LOG_LEVEL`](Self::LOG_LEVEL).
    pub log_level: u32,
    /// Bytes of memory that each worker shares with the host, each way, for large arguments and results; `None` shares none. Pages
    /// exist when they are used. Default [`ARENA`](Self::ARENA).
    pub arena: Option<u64>,
    /// Functions that the workers' code can call. Default none.
    pub host_functions: HostFunctions,
}

impl GrpcWorkerSpec {
    /// How long a worker may take to be ready: 30 s, as imports of large libraries from a cold disk do.
    pub const START_DEADLINE: Duration = Duration::from_secs(30);
    /// The log level: 20, `INFO`.
    pub const LOG_LEVEL: u32 = 20;
    /// Memory shared with a worker: 1 GiB each way. It costs address space only; what finds no room goes in messages.
    pub const ARENA: u64 = 1 << 30;
    /// The most that can be shared each way: 1 TiB.
    pub const MAX_ARENA: u64 = snakepit_proto::arena::MAX_HALF;

    /// Workers that run `program`, with the defaults of the fields' documentation.
    pub fn new(
        events: Events,
        launcher: Arc<dyn Launcher>,
        ledger: Arc<dyn Ledger>,
        program: PathBuf,
    ) -> Self {
        Self {
            events,
            run_id: RunId::current(),
            launcher,
            ledger,
            program,
            args: Vec::new(),
            env: Vec::new(),
            per_slot: PerSlot::default(),
            env_remove: Vec::new(),
            cwd: None,
            channel: ChannelSpec::default(),
            limits: LaunchLimits::default(),
            adapters: Vec::new(),
            paths: Vec::new(),
            concurrency: Concurrency::default(),
            start_deadline: Self::START_DEADLINE,
            heartbeat: Heartbeat::default(),
            log_level: Self::LOG_LEVEL,
            arena: Some(Self::ARENA),
            host_functions: HostFunctions::new(),
        }
    }
}

/// Starts [`GrpcWorker`]s. Clones share the starts under way.
#[derive(Clone, Debug)]
pub struct GrpcWorkerFactory {
    spec: Arc<GrpcWorkerSpec>,
    /// The starts of each slot, abandoned ones included.
    starts: Arc<Mutex<BTreeMap<SlotId, TaskTracker>>>,
}

impl GrpcWorkerFactory {
    /// A factory of workers of this kind.
    pub fn new(spec: GrpcWorkerSpec) -> Self {
        Self {
            spec: Arc::new(spec),
            starts: Arc::default(),
        }
    }

    fn starts_of(&self, slot: SlotId) -> TaskTracker {
        let mut starts = self.starts.lock().unwrap_or_else(PoisonError::into_inner);
        let tracker = starts.entry(slot).or_default();
        // A closed tracker still takes tasks; only on a closed one can be waited.
        tracker.close();
        tracker.clone()
    }
}

#[async_trait]
impl WorkerFactory for GrpcWorkerFactory {
    async fn start(&self, slot: SlotId, turn: StartTurn) -> Result<Arc<dyn Worker>, StartError> {
        start::start(Arc::clone(&self.spec), slot, turn, &self.starts_of(slot)).await
    }

    async fn settle(&self, slot: SlotId) {
        self.starts_of(slot).wait().await;
    }

    fn renewed(&self) -> Option<Arc<dyn WorkerFactory>> {
        let launcher = self.spec.launcher.renewed()?;
        let spec = GrpcWorkerSpec::clone(&self.spec);
        Some(Arc::new(Self::new(GrpcWorkerSpec { launcher, ..spec })))
    }

    async fn close(&self) {
        self.spec.launcher.close().await;
    }
}

/// One live process that serves `snakepit.worker.v1`.
#[derive(Debug)]
pub struct GrpcWorker {
    live: Arc<Live>,
}

/// What the worker, its monitor and its ending share.
#[derive(Debug)]
struct Live {
    id: WorkerId,
    spec: Arc<GrpcWorkerSpec>,
    process: Arc<dyn LaunchedProcess>,
    client: Arc<GrpcClient>,
    control: Control,
    concurrency: usize,
    health_check: Option<Arc<str>>,
    ends_sessions: bool,
    /// `None` for a worker that does not keep it.
    journal: Option<Arc<Journal>>,
    /// `None` for a worker that has to be pinged.
    beats: Option<Arc<Journal>>,
    host: HostStream,
    takes_input: bool,
    takes_batches: bool,
    stderr: StderrTail,
    condemned: watch::Sender<Option<DownReason>>,
    down: watch::Sender<Option<Down>>,
    ending: Mutex<Option<end::Ending>>,
}

#[async_trait]
impl Worker for GrpcWorker {
    fn id(&self) -> WorkerId {
        self.live.id
    }

    fn pid(&self) -> Option<u32> {
        Some(self.live.process.identity().pid)
    }

    fn client(&self) -> Arc<dyn WorkerClient> {
        Arc::clone(&self.live.client) as Arc<dyn WorkerClient>
    }

    fn concurrency(&self) -> usize {
        self.live.concurrency
    }

    fn ends_sessions(&self) -> bool {
        self.live.ends_sessions
    }

    fn depth(&self) -> usize {
        if self.live.journal.is_some() { DEPTH } else { 1 }
    }

    fn has_begun(&self, call_id: u64) -> Option<bool> {
        self.live.journal.as_ref()?.names(call_id).ok()
    }

    fn health_check(&self) -> Option<Arc<str>> {
        self.live.health_check.clone()
    }

    fn arena(&self) -> Option<ArenaUse> {
        self.live.client.arena.as_ref().map(|arena| arena.usage())
    }

    fn takes_batches(&self) -> bool {
        self.live.takes_batches
    }

    fn feed(&self, call_id: u64, input: Input) -> Result<Feed, NoInput> {
        if self.live.takes_input {
            Ok(self.live.host.feed(&self.live, call_id, input))
        } else {
            Err(NoInput)
        }
    }

    fn condemn(&self, reason: DownReason) {
        self.live.condemn(reason);
    }

    async fn down(&self) -> Down {
        let mut down = self.live.down.subscribe();
        loop {
            if let Some(down) = down.borrow_and_update().clone() {
                return down;
            }
            // Cannot fail: the sender lives in `self`.
            if down.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn end(&self, drain: Duration, grace: Duration) -> EndReport {
        end::end(&self.live, drain, grace).await
    }
}

impl Live {
    fn condemn(&self, reason: DownReason) {
        self.condemned.send_if_modified(|current| {
            let first = current.is_none();
            if first {
                *current = Some(reason);
            }
            first
        });
    }
}
