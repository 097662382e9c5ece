//! From a spec to a ready worker, in the order that never leaves a live worker without a row.

use std::{
    io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixStream as StdUnixStream,
    },
    sync::{Arc, Mutex},
    time::Duration,
};

use snakepit_proto::{
    PROTOCOL_VERSIONS,
    v1::{AdapterReport, HandshakeRequest, ReadyRequest, ready_response::Outcome},
};
use tokio::{
    net::{TcpStream, UnixStream},
    sync::{oneshot, watch},
    time::{Instant, sleep, timeout},
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
    arena::Arena,
    clock::within,
    event::EventKind,
    id::{SlotId, WorkerId},
    launch::{ChannelForm, LaunchError, LaunchSpec, LaunchedProcess, StderrTail, drain},
    ledger::{LedgerError, Row},
    rpc::{Calls, Connection, ConnectionError, Journal, RemoteError, error_chain, send_preamble},
    worker::{BoxFuture, StartError, StartErrorKind, StartPhase, StartTurn, Worker},
};

/// How long to wait for a worker's last words once its start has failed.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// How long a launch that was given up may go on: a program that takes longer to execute waits for a disk that does not
/// answer.
const LAUNCH_ENDS: Duration = Duration::from_secs(5);
/// Pause between two attempts to connect to a worker that listens on a path: it makes its socket when it likes.
const CONNECT_PAUSE: Duration = Duration::from_millis(2);

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
    let mut arena = arena(spec, id, &form);
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
    let host = HostStream::new(spec, id, &process, &control, &connected.control);
    let calls_host = agreed.calls_host && !spec.host_functions.is_empty();
    let serving = if calls_host { host.begin() } else { None };
    arena = arena.filter(|_| agreed.maps_arena);
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
        arena: arena.map(|(arena, _)| Arc::new(arena)),
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

/// The memory to share with a worker that can be sent it. Without it, all values go in messages.
fn arena(spec: &GrpcWorkerSpec, id: WorkerId, form: &ChannelForm) -> Option<(Arena, OwnedFd)> {
    let size = spec.arena.filter(|_| *form == ChannelForm::Inherited)?;
    Arena::new(size)
        .inspect_err(
            |error| tracing::warn!(worker = %id, size, %error, "no memory can be shared with the worker"),
        )
        .ok()
}

/// The ways to a worker.
struct Connected {
    control: Connection,
    /// For the service `Worker`; without it, `control` is for both.
    data: Option<StdUnixStream>,
    /// For calls alone.
    calls: Option<StdUnixStream>,
}

impl Connected {
    fn by_one(control: Connection) -> Self {
        Self {
            control,
            data: None,
            calls: None,
        }
    }
}

fn opened(connection: Result<Connection, ConnectionError>) -> Result<Connection, StartErrorKind> {
    connection.map_err(|error| StartErrorKind::Channel(error_chain(&error)))
}

/// Opens the ways to a worker: a socket for each purpose on an inherited channel, else one connection for all.
async fn connect(
    channel: Option<StdUnixStream>,
    form: &ChannelForm,
    journal: &Journal,
    arena: Option<BorrowedFd<'_>>,
) -> Result<Connected, StartErrorKind> {
    let failed = |error: &dyn std::error::Error| StartErrorKind::Channel(error.to_string());
    match (channel, form) {
        (Some(data), ChannelForm::Inherited) => {
            let pair = || StdUnixStream::pair().map_err(|error| failed(&error));
            let ((control, theirs), (calls, their_calls)) = (pair()?, pair()?);
            let sent: Vec<_> = [theirs.as_fd(), their_calls.as_fd(), journal.as_fd()]
                .into_iter()
                .chain(arena)
                .collect();
            send_preamble(&data, &sent).map_err(|error| failed(&error))?;
            drop((theirs, their_calls));
            Ok(Connected {
                control: opened(Connection::open(control).await)?,
                data: Some(data),
                calls: Some(calls),
            })
        }
        (None, ChannelForm::Inherited) => {
            Err(StartErrorKind::Channel("the launcher returned no channel".into()))
        }
        (_, ChannelForm::Unix(path)) => {
            let stream = until_listening(|| UnixStream::connect(path)).await;
            let stream = stream
                .and_then(UnixStream::into_std)
                .map_err(|error| failed(&error))?;
            Ok(Connected::by_one(opened(Connection::open(stream).await)?))
        }
        (_, ChannelForm::Tcp(address)) => {
            let stream = until_listening(|| TcpStream::connect(address)).await;
            let stream = stream.map_err(|error| failed(&error))?;
            stream.set_nodelay(true).map_err(|error| failed(&error))?;
            Ok(Connected::by_one(opened(Connection::over(stream).await)?))
        }
    }
}

/// Connects as soon as the worker listens; the start deadline bounds it.
async fn until_listening<S, F>(connect: impl Fn() -> F) -> io::Result<S>
where
    F: Future<Output = io::Result<S>>,
{
    loop {
        match connect().await {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                sleep(CONNECT_PAUSE).await;
            }
            done => return done,
        }
    }
}

/// What a worker says of itself.
struct Agreed {
    concurrency: usize,
    keeps_journal: bool,
    beats: bool,
    calls_host: bool,
    ends_sessions: bool,
    takes_input: bool,
    maps_arena: bool,
    takes_calls: bool,
    takes_batches: bool,
}

/// Shakes hands.
async fn handshake(
    spec: &GrpcWorkerSpec,
    id: WorkerId,
    mut control: Control,
) -> Result<Agreed, StartErrorKind> {
    let (kind, asked) = spec.concurrency.asked();
    let request = HandshakeRequest {
        protocol_versions: PROTOCOL_VERSIONS.to_vec(),
        run_id: spec.run_id.to_string(),
        worker_id: id.0,
        host_version: env!("CARGO_PKG_VERSION").to_owned(),
        adapters: spec.adapters.clone(),
        paths: spec.paths.iter().map(|path| path.display().to_string()).collect(),
        log_level: spec.log_level,
        concurrency: asked,
        concurrency_kind: kind.into(),
        host_functions: spec.host_functions.names().map(str::to_owned).collect(),
        host_calls: host::UNDER_WAY as u32,
        beat_ms: match spec.channel {
            ChannelSpec::Inherited => monitor::beat_ms(spec.heartbeat.interval),
            ChannelSpec::UnixIn(_) => 0,
        },
    };
    let answer = control
        .handshake(request)
        .await
        .map_err(|status| channel_error(&status))?
        .into_inner();
    if PROTOCOL_VERSIONS.contains(&answer.protocol_version) {
        let concurrency = spec.concurrency.agreed(answer.concurrency);
        if concurrency < asked as usize {
            tracing::warn!(worker = %id, asked, concurrency, "the worker runs fewer calls at the same time than it was asked to");
        }
        let has = |name| answer.capabilities.iter().any(|ability| ability == name);
        Ok(Agreed {
            concurrency,
            keeps_journal: has("journal"),
            beats: has("beats"),
            calls_host: has("host"),
            ends_sessions: has("session"),
            takes_input: has("input"),
            maps_arena: has("arena"),
            takes_calls: has("calls"),
            takes_batches: has("batch"),
        })
    } else {
        let theirs = answer.protocol_versions;
        Err(StartErrorKind::ProtocolVersion {
            ours: PROTOCOL_VERSIONS.to_vec(),
            theirs,
        })
    }
}

async fn ready(mut control: Control) -> Result<AdapterReport, StartErrorKind> {
    let answer = control
        .ready(ReadyRequest {})
        .await
        .map_err(|status| channel_error(&status))?
        .into_inner();
    match answer.outcome {
        Some(Outcome::Ready(adapters)) => Ok(adapters),
        Some(Outcome::Error(error)) => Err(StartErrorKind::Adapter(Box::new(RemoteError::from(error)))),
        None => Err(StartErrorKind::Protocol("Ready without an outcome".into())),
    }
}

fn channel_error(status: &tonic::Status) -> StartErrorKind {
    StartErrorKind::Channel(format!("{:?}: {}", status.code(), status.message()))
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
