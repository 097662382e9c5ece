//! From a spec to a ready worker, in the order that never leaves a live worker without a row.

mod agree;
mod connect;

use std::{
    io,
    os::{fd::AsFd as _, unix::net::UnixStream as StdUnixStream},
    sync::{Arc, Mutex},
    time::Duration,
};

use agree::{handshake, ready};
use connect::{arena, connect, opened};
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, timeout},
};
use tokio_util::task::TaskTracker;

use super::{
    ChannelSpec, GrpcWorker, GrpcWorkerSpec, Live,
    client::{self, Control, GrpcClient},
    data::Data,
    host::{self, HostStream},
    monitor::{self, Ways},
    output,
};
use crate::{
    clock::within,
    event::EventKind,
    id::{SlotId, WorkerId},
    launch::{ChannelForm, LaunchError, LaunchSpec, LaunchedProcess, StderrTail, drain},
    ledger::{LedgerError, Row},
    rpc::{Calls, Connection, Journal},
    worker::{BoxFuture, StartError, StartErrorKind, StartPhase, StartTurn, Worker},
};

/// How long to wait for a worker's last words once its start has failed.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// How long a launch that was given up may go on: a program that takes longer to execute waits for a disk that does not
/// answer.
const LAUNCH_ENDS: Duration = Duration::from_secs(5);

/// What a start has done so far, and so what must be undone when it fails.
struct Progress {
    phase: StartPhase,
    reserved: bool,
    /// Kept when the start is given up meanwhile: only its end tells whether there is a process.
    launching: Option<BoxFuture<Result<Arc<dyn LaunchedProcess>, LaunchError>>>,
    process: Option<Arc<dyn LaunchedProcess>>,
    stderr: Option<StderrTail>,
}

/// Starts a worker in a task of its own, so that a caller that leaves cannot leave half a worker behind.
pub(super) async fn start(
    spec: Arc<GrpcWorkerSpec>,
    slot: SlotId,
    turn: StartTurn,
    starts: &TaskTracker,
) -> Result<Arc<dyn Worker>, StartError> {
    // Dropped with this future, it tells the task that nobody wants the worker any more.
    let (taken, mut wanted) = oneshot::channel();
    let (answer, result) = oneshot::channel();
    let id = WorkerId::next();
    starts.spawn(async move {
        let result = run(spec, slot, id, turn, &mut wanted).await;
        let worker = result.as_ref().ok().map(Arc::clone);
        // An answer that was sent is dropped unread when the caller leaves before it looks.
        let received = answer.send(result).is_ok() && wanted.await.is_ok();
        if let Some(worker) = worker.filter(|_| !received) {
            worker.end(Duration::ZERO, Duration::ZERO).await;
        }
    });
    let result = result.await;
    // An error only says that the start failed and its task waits for nothing.
    let _ = taken.send(());
    result.unwrap_or_else(|_| {
        // Its row stays, if it had one: nobody knows how far it came.
        Err(StartError {
            worker: id,
            pid: None,
            phase: StartPhase::Reserve,
            kind: StartErrorKind::Channel(
                "the start was cut off: its runtime is shutting down, or the launcher or the ledger panicked"
                    .into(),
            ),
            outcome: None,
            stderr_tail: String::new(),
        })
    })
}

async fn run(
    spec: Arc<GrpcWorkerSpec>,
    slot: SlotId,
    id: WorkerId,
    turn: StartTurn,
    wanted: &mut oneshot::Receiver<()>,
) -> Result<Arc<dyn Worker>, StartError> {
    let mut progress = Progress {
        phase: StartPhase::Reserve,
        reserved: false,
        launching: None,
        process: None,
        stderr: None,
    };
    let kind = tokio::select! {
        biased;
        _ = wanted => StartErrorKind::Channel("the start was abandoned".into()),
        result = steps(&spec, slot, id, &turn, &mut progress) => match result {
            Ok(worker) => return Ok(worker),
            Err(kind) => kind,
        },
    };
    Err(undo(&spec, id, progress, kind).await)
}

/// All steps, with the wait for the start's turn before the first that costs processor time: what comes before it is done for many
/// starts together, and their changes of the ledger share its flushes.
async fn steps(
    spec: &Arc<GrpcWorkerSpec>,
    slot: SlotId,
    id: WorkerId,
    turn: &StartTurn,
    progress: &mut Progress,
) -> Result<Arc<dyn Worker>, StartErrorKind> {
    let mut time = TimeLeft {
        limit: spec.start_deadline,
        left: spec.start_deadline,
    };
    time.spend(reserve(spec, id, progress)).await?;
    let (launched, _permit) = if spec.launcher.holds() {
        let launched = time.spend(launch(spec, slot, id, progress)).await?;
        (launched, turn.come().await)
    } else {
        let permit = turn.come().await;
        (time.spend(launch(spec, slot, id, progress)).await?, permit)
    };
    time.spend(load(spec, id, launched, progress)).await
}

/// What is left of the start deadline. The wait for a turn does not count: it is the other starts that take that long.
struct TimeLeft {
    limit: Duration,
    left: Duration,
}

impl TimeLeft {
    async fn spend<T>(
        &mut self,
        work: impl Future<Output = Result<T, StartErrorKind>>,
    ) -> Result<T, StartErrorKind> {
        let began = Instant::now();
        let done = within(self.left, work).await;
        self.left = self.left.saturating_sub(began.elapsed());
        done.unwrap_or(Err(StartErrorKind::Deadline(self.limit)))
    }
}

async fn reserve(spec: &GrpcWorkerSpec, id: WorkerId, progress: &mut Progress) -> Result<(), StartErrorKind> {
    progress.reserved = true;
    let reserved = spec.ledger.reserve(row(spec, id)).await;
    Ok(reserved.inspect_err(|_| progress.reserved = false)?)
}

/// A process that is recorded, with its gate closed.
struct Launched {
    process: Arc<dyn LaunchedProcess>,
    channel: Option<StdUnixStream>,
    form: ChannelForm,
    stderr: StderrTail,
}

/// Creates the process and records it.
async fn launch(
    spec: &GrpcWorkerSpec,
    slot: SlotId,
    id: WorkerId,
    progress: &mut Progress,
) -> Result<Launched, StartErrorKind> {
    progress.phase = StartPhase::Launch;
    let launch = launch_spec(spec, slot, id);
    let form = launch.channel.clone();
    let launcher = Arc::clone(&spec.launcher);
    let launching = progress
        .launching
        .insert(Box::pin(async move { launcher.launch(&launch).await }));
    let launched = launching.await;
    progress.launching = None;
    let process = launched?;
    progress.process = Some(Arc::clone(&process));
    let pid = process.identity().pid;
    spec.per_slot.affinity.pin(pid, slot, spec.per_slot.slots)?;
    spec.events.emit(EventKind::WorkerLaunched {
        slot,
        worker: id,
        pid,
    });
    let io = process.take_io();
    let stderr = drain(id, pid, io.stdout, io.stderr).map_err(|source| LaunchError::Os {
        step: "read the worker's output",
        source,
    })?;
    progress.stderr = Some(stderr.clone());

    progress.phase = StartPhase::Record;
    spec.ledger
        .activate(id, process.identity(), &process.containment())
        .await?;
    Ok(Launched {
        process,
        channel: io.channel,
        form,
        stderr,
    })
}

/// Opens the gate, and sees the program to where it is ready.
async fn load(
    spec: &Arc<GrpcWorkerSpec>,
    id: WorkerId,
    launched: Launched,
    progress: &mut Progress,
) -> Result<Arc<dyn Worker>, StartErrorKind> {
    let Launched {
        process,
        channel,
        form,
        stderr,
    } = launched;
    progress.phase = StartPhase::Gate;
    process.open_gate().await?;
    // A worker's channel closes a moment before its exit can be seen, and the exit is what explains it.
    let journal = Journal::new().map_err(|source| LaunchError::Os {
        step: "create the worker's journal",
        source,
    })?;
    let journal = Arc::new(journal);
    let arena = arena(spec, id, &form);
    let shared = arena.as_ref().map(|(_, fd)| fd.as_fd());
    let connecting = connect(channel, &form, &journal, shared);
    let connected = or_exit(&process, connecting).await?;
    let control = client::control(connected.control.clone());

    progress.phase = StartPhase::Handshake;
    let agreed = or_exit(&process, handshake(spec, id, control.clone())).await?;
    let (data, beside) = match connected.data {
        // Then streams of items are all that it is for.
        Some(socket) if agreed.takes_calls => (Data::on_demand(socket), None),
        Some(socket) => {
            let connection = opened(Connection::open(socket).await)?;
            (Data::over(connection.clone()), Some(connection))
        }
        None => (Data::over(connected.control.clone()), None),
    };
    let arena = arena
        .filter(|_| agreed.maps_arena)
        .map(|(arena, _)| Arc::new(arena));
    let host = HostStream::new(spec, id, &process, &control, &connected.control, arena.as_ref());
    let calls_host = agreed.calls_host && !spec.host_functions.is_empty();
    let serving = if calls_host { host.begin() } else { None };
    progress.phase = StartPhase::Import;
    let pid = process.identity().pid;
    tokio::spawn(output::forward_logs(id, pid, control.clone()));
    let adapters = or_exit(&process, ready(control.clone())).await?;

    let calls = connected.calls.filter(|_| agreed.takes_calls).map(Calls::open);
    let calls = calls
        .transpose()
        .map_err(|error| StartErrorKind::Channel(error.to_string()))?;
    let client = Arc::new(GrpcClient {
        data,
        calls: calls.clone(),
        control: control.clone(),
        arena,
    });
    let live = Arc::new(Live {
        id,
        spec: Arc::clone(spec),
        process,
        client,
        control,
        concurrency: agreed.concurrency,
        health_check: Some(adapters.health)
            .filter(|name| !name.is_empty())
            .map(Arc::from),
        ends_sessions: agreed.ends_sessions,
        // Of calls that run side by side more may begin than it has entries.
        journal: (agreed.keeps_journal && agreed.concurrency == 1).then(|| Arc::clone(&journal)),
        beats: agreed.beats.then_some(journal),
        host,
        takes_input: agreed.takes_input,
        takes_batches: agreed.takes_batches,
        stderr,
        condemned: watch::Sender::new(None),
        down: watch::Sender::new(None),
        ending: Mutex::new(None),
    });
    if let Some(serving) = serving {
        live.host.watch(serving, &live);
    }
    let ways = Ways {
        control: connected.control,
        data: beside,
        calls,
    };
    monitor::spawn(&live, ways);
    Ok(Arc::new(GrpcWorker { live }))
}

/// Awaits a step, or learns that the process has ended meanwhile.
async fn or_exit<T>(
    process: &Arc<dyn LaunchedProcess>,
    step: impl Future<Output = Result<T, StartErrorKind>>,
) -> Result<T, StartErrorKind> {
    let failed = tokio::select! {
        biased;
        result = step => match result {
            Ok(value) => return Ok(value),
            Err(failed @ StartErrorKind::Channel(_)) => failed,
            Err(other) => return Err(other),
        },
        _ = process.exited() => return Err(StartErrorKind::Exited),
    };
    match within(LAST_WORDS, process.exited()).await {
        Some(_) => Err(StartErrorKind::Exited),
        None => Err(failed),
    }
}

/// What is left of a worker once its process tree is gone: its socket, if it had one, and its ledger row.
pub(super) async fn clear_away(spec: &GrpcWorkerSpec, id: WorkerId) {
    if let ChannelForm::Unix(path) = channel_form(spec, id) {
        match tokio::fs::remove_file(&path).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(worker = %id, path = %path.display(), %error, "cannot remove the worker's socket");
            }
            _ => {}
        }
    }
    match spec.ledger.release(id).await {
        // A reservation that was given up midway, and that the ledger has taken back by itself.
        Ok(()) | Err(LedgerError::IllegalTransition { found: None, .. }) => {}
        Err(error) => {
            tracing::warn!(worker = %id, %error, "the ledger keeps the row of a worker that is gone");
        }
    }
}

fn channel_form(spec: &GrpcWorkerSpec, id: WorkerId) -> ChannelForm {
    match &spec.channel {
        ChannelSpec::Inherited => ChannelForm::Inherited,
        ChannelSpec::UnixIn(directory) => {
            ChannelForm::Unix(directory.join(format!("{}-{}.sock", spec.run_id, id.0)))
        }
    }
}

fn launch_spec(spec: &GrpcWorkerSpec, slot: SlotId, id: WorkerId) -> LaunchSpec {
    let per_slot = spec.per_slot.variables(slot, spec.run_id, spec.events.pool());
    LaunchSpec {
        run_id: spec.run_id,
        worker_id: id,
        program: spec.program.clone(),
        args: spec.args.clone(),
        env: spec.env.iter().cloned().chain(per_slot).collect(),
        env_remove: spec.env_remove.clone(),
        cwd: spec.cwd.clone(),
        channel: channel_form(spec, id),
        limits: spec.limits.clone(),
    }
}

fn row(spec: &GrpcWorkerSpec, id: WorkerId) -> Row {
    Row::reserved(
        spec.run_id,
        id,
        spec.program.clone(),
        spec.launcher.name(),
        channel_form(spec, id).to_string(),
    )
}

/// Undoes a start: ends the process tree, releases the row, gathers what was said.
async fn undo(spec: &GrpcWorkerSpec, id: WorkerId, progress: Progress, kind: StartErrorKind) -> StartError {
    let Progress {
        phase,
        reserved,
        launching,
        mut process,
        stderr,
    } = progress;
    let mut outcome = None;
    let mut empty = true;
    if let Some(launching) = launching {
        match timeout(LAUNCH_ENDS, launching).await {
            Ok(launched) => process = launched.ok(),
            // It is left to the launcher; the row stays, as there may be a process.
            Err(_) => empty = false,
        }
    }
    if let Some(process) = &process {
        outcome = process.try_exited();
        // A row that does not say so is swept all the same should the host die now.
        let _ = spec.ledger.ending(id).await;
        empty = process.end(Duration::ZERO).await.is_complete();
    }
    if reserved && empty {
        clear_away(spec, id).await;
    }
    let mut stderr_tail = String::new();
    if let Some(stderr) = stderr {
        // The bound only costs text of the error.
        let _ = timeout(LAST_WORDS, stderr.drained()).await;
        stderr_tail = stderr.text();
    }
    let pid = process.map(|process| process.identity().pid);
    StartError {
        worker: id,
        pid,
        phase,
        kind,
        outcome,
        stderr_tail,
    }
}
