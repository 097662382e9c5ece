//! A host program: a role of this one, run as a process of its own so that it can be killed.

use std::{path::PathBuf, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use snakepit::{Pool, PythonEnv};
use snakepit_core::{
    RunId, WorkerId,
    launch::{ChannelForm, LaunchLimits, LaunchSpec, LaunchedProcess, Launcher, ProcessIo},
    ledger::{Ledger, MemoryLedger, Row},
};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    Result, ledger,
    systems::System,
    work::{Work, programs},
};

/// What a host is to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) system: System,
    pub(crate) work: Work,
    pub(crate) workers: usize,
    /// The state directory of a durable ledger; without one it is in memory.
    pub(crate) state: Option<PathBuf>,
}

impl Plan {
    /// A plan with a ledger in memory.
    pub(crate) fn new(system: System, work: Work, workers: usize) -> Self {
        Self {
            system,
            work,
            workers,
            state: None,
        }
    }
}

/// From SIGTERM to SIGKILL when asked to stop: the pool's own default.
const GRACE: Duration = Duration::from_secs(5);

/// What a host says when all of its workers are ready.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Ready {
    /// How long that took, the opening of the ledger included.
    pub(crate) ms: f64,
    /// How often the durable ledger waited for the disk.
    pub(crate) flushes: f64,
}

/// Starts the workers, says that they are ready, and obeys standard input: `stop` ends the
/// workers with grace; end-of-file, which is the end of the program that started this one, without.
pub(crate) async fn run(plan: Plan) -> Result<()> {
    let python = match plan.work.command() {
        Some(_) => None,
        None => Some(tokio::task::spawn_blocking(python).await??),
    };
    let launcher = plan.system.launcher();
    let began = Instant::now();
    let registry = match plan.state.clone() {
        Some(state) => Some(ledger::open(state).await?),
        None => None,
    };
    let ledger: Arc<dyn Ledger> = match &registry {
        Some(registry) => Arc::clone(registry) as _,
        None => Arc::new(MemoryLedger::new()),
    };
    let crew = match python {
        Some(python) => Crew::pool(&plan, python, launcher, ledger).await?,
        None => Crew::processes(&plan, launcher, ledger).await?,
    };
    let ready = Ready {
        ms: began.elapsed().as_secs_f64() * 1e3,
        flushes: registry.map_or(0, |registry| registry.writes()) as f64,
    };
    println!("{}", serde_json::to_string(&ready)?);
    let asked = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line)
    });
    let grace = match asked.await??.as_str() {
        "stop\n" => GRACE,
        _ => Duration::ZERO,
    };
    crew.end(grace).await;
    Ok(())
}

/// The interpreter that everybody finds, with the worker package in a cache of the benchmark's own.
pub(crate) fn python() -> Result<PythonEnv> {
    let cache = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("survival-cache");
    Ok(PythonEnv::builder().cache_dir(cache).build()?)
}

/// The workers of this host.
enum Crew {
    /// Python's, in a pool.
    Pool(Pool),
    /// Foreign programs, launched as a pool launches its workers; the descriptors are kept as a pool keeps them.
    Processes(Vec<(Arc<dyn LaunchedProcess>, ProcessIo)>),
}

impl Crew {
    async fn pool(
        plan: &Plan,
        python: PythonEnv,
        launcher: Arc<dyn Launcher>,
        ledger: Arc<dyn Ledger>,
    ) -> Result<Self> {
        let mut pool = Pool::builder()
            .name("survival")
            .launcher(launcher)
            .ledger(ledger)
            .python(python)
            .path(programs())
            .workers(plan.workers);
        if let Some(adapter) = plan.work.adapter() {
            pool = pool.adapter(adapter);
        }
        let pool = pool.start().await?;
        let ready = pool.status().await.ready;
        if ready == plan.workers {
            Ok(Self::Pool(pool))
        } else {
            Err(format!("{ready} of {} workers are ready", plan.workers).into())
        }
    }

    async fn processes(plan: &Plan, launcher: Arc<dyn Launcher>, ledger: Arc<dyn Ledger>) -> Result<Self> {
        let (program, args) = plan.work.command().ok_or("a foreign program has a command")?;
        let mut starting = JoinSet::new();
        for _ in 0..plan.workers {
            let (launcher, ledger) = (Arc::clone(&launcher), Arc::clone(&ledger));
            let spec = LaunchSpec {
                run_id: RunId::current(),
                worker_id: WorkerId::next(),
                program: program.clone(),
                args: args.clone(),
                env: Vec::new(),
                env_remove: Vec::new(),
                cwd: None,
                channel: ChannelForm::Inherited,
                limits: LaunchLimits::default(),
            };
            starting.spawn(async move { start(&*launcher, &*ledger, &spec).await });
        }
        let mut processes = Vec::with_capacity(plan.workers);
        while let Some(started) = starting.join_next().await {
            let process = started??;
            let io = process.take_io();
            processes.push((process, io));
        }
        Ok(Self::Processes(processes))
    }

    async fn end(self, grace: Duration) {
        match self {
            Self::Pool(pool) if grace.is_zero() => pool.kill().await,
            Self::Pool(pool) => {
                pool.shutdown().await;
            }
            Self::Processes(processes) => {
                let mut ending = JoinSet::new();
                for (process, io) in processes {
                    ending.spawn(async move {
                        drop(io);
                        process.end(grace).await
                    });
                }
                ending.join_all().await;
            }
        }
    }
}

/// The contract's order: reserve, launch, record, open the gate.
async fn start(
    launcher: &dyn Launcher,
    ledger: &dyn Ledger,
    spec: &LaunchSpec,
) -> Result<Arc<dyn LaunchedProcess>> {
    let row = Row::reserved(
        spec.run_id,
        spec.worker_id,
        spec.program.clone(),
        launcher.name(),
        spec.channel.to_string(),
    );
    ledger.reserve(row).await?;
    let process = launcher.launch(spec).await?;
    let containment = process.containment();
    ledger
        .activate(spec.worker_id, process.identity(), &containment)
        .await?;
    process.open_gate().await?;
    Ok(process)
}
