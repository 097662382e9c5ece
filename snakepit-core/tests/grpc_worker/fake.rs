//! A launcher, a process and a ledger that write down what is done with them and fail where a test says so.
//!
//! The process is a thread of the test that serves the protocol on a Unix path, or on an inherited channel; like a real worker it
//! goes on while the host stands still.

use std::{
    convert::Infallible,
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream},
    },
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use snakepit_core::{
    RunId, WorkerId,
    event::Events,
    launch::{ChannelForm, LaunchError, LaunchSpec, LaunchedProcess, Launcher, ProcessIo},
    ledger::{Ledger, LedgerError, MemoryLedger, Row},
    process::{Containment, EndReport, EndStep, ExitOutcome, ProcessIdentity},
    worker::{ChannelSpec, GrpcWorkerFactory, GrpcWorkerSpec},
};
use snakepit_proto::{
    preamble::{self, journal},
    v1::{
        AdapterReport, CallError, CallRequest, CallResponse, CancelRequest, CancelResponse, Event,
        EventsRequest, HandshakeRequest, HandshakeResponse, HostRequest, HostResponse, PingRequest,
        PingResponse, ReadyRequest, ReadyResponse, ShutdownRequest, ShutdownResponse, StreamRequest,
        StreamResponse, ready_response,
        worker_control_server::{WorkerControl, WorkerControlServer},
        worker_server::{Worker, WorkerServer},
    },
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, body::Body, codegen::Service as _};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Reserve,
    Launch,
    Activate,
    Gate,
    Handshake,
    Import,
    Ending,
    Release,
    /// The end of the process cannot be confirmed, and nothing that remains is known.
    Unconfirmed,
    /// The worker answers no ping.
    Mute,
    /// The worker answers the first pings with an error, and then none.
    MuteAfterErrors,
    /// The worker does not have the capabilities "host" and "input".
    Hostless,
    /// The worker has the capability "beats".
    Beats,
}

/// The worker's half of a stream of host calls.
#[derive(Debug)]
pub(crate) struct HostStream {
    pub(crate) requests: mpsc::UnboundedSender<Result<HostRequest, Status>>,
    pub(crate) responses: Streaming<HostResponse>,
}

/// What a test and its fakes share.
#[derive(Debug, Default)]
pub(crate) struct Stage {
    faults: Vec<Fault>,
    /// How long a launch takes.
    launch_takes: Duration,
    /// Whether the launcher holds processes.
    holds: bool,
    done: Mutex<Vec<&'static str>>,
    pub(crate) pings: Mutex<u32>,
    pub(crate) ready: AtomicBool,
    /// Whether a worker that could beat does not.
    pub(crate) still: AtomicBool,
    /// What the host said when it shook hands.
    pub(crate) handshake: Mutex<Option<HandshakeRequest>>,
    /// The worker's half of the stream of host calls, once the host has opened it.
    pub(crate) host: Mutex<Option<HostStream>>,
    memory: MemoryLedger,
}

impl Stage {
    pub(crate) fn with(faults: &[Fault]) -> Arc<Self> {
        Arc::new(Self {
            faults: faults.to_vec(),
            ..Self::default()
        })
    }

    pub(crate) fn with_slow_launch() -> Arc<Self> {
        Arc::new(Self {
            launch_takes: Duration::from_millis(200),
            ..Self::default()
        })
    }

    pub(crate) fn holding(holds: bool) -> Arc<Self> {
        Arc::new(Self {
            holds,
            ..Self::default()
        })
    }

    fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    fn note(&self, what: &'static str) {
        lock(&self.done).push(what);
    }

    /// What was done, in order.
    pub(crate) fn done(&self) -> Vec<&'static str> {
        lock(&self.done).clone()
    }

    pub(crate) async fn rows(&self) -> Vec<Row> {
        self.memory.rows().await.unwrap()
    }

    /// A factory of workers that act on this stage. Their sockets are in a directory of its own.
    pub(crate) fn factory(self: &Arc<Self>, change: impl FnOnce(&mut GrpcWorkerSpec)) -> GrpcWorkerFactory {
        let launcher = FakeLauncher {
            stage: Arc::clone(self),
        };
        let mut spec = GrpcWorkerSpec::new(
            Events::new("test"),
            Arc::new(launcher),
            Arc::new(FakeLedger {
                stage: Arc::clone(self),
            }),
            PathBuf::from("fake"),
        );
        // Its own, so that two tests never share a socket's name.
        spec.run_id = RunId::random();
        spec.channel = ChannelSpec::UnixIn(std::env::temp_dir());
        spec.start_deadline = Duration::from_secs(20);
        change(&mut spec);
        GrpcWorkerFactory::new(spec)
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct FakeLedger {
    stage: Arc<Stage>,
}

impl FakeLedger {
    fn step(&self, fault: Fault, what: &'static str, worker: WorkerId) -> Result<(), LedgerError> {
        self.stage.note(what);
        if self.stage.has(fault) {
            let source = io::Error::other("disk full").into();
            return Err(LedgerError::Store { worker, source });
        }
        Ok(())
    }
}

#[async_trait]
impl Ledger for FakeLedger {
    async fn reserve(&self, row: Row) -> Result<(), LedgerError> {
        self.step(Fault::Reserve, "reserve", row.worker_id)?;
        self.stage.memory.reserve(row).await
    }

    async fn activate(
        &self,
        worker: WorkerId,
        identity: &ProcessIdentity,
        containment: &Containment,
    ) -> Result<(), LedgerError> {
        self.step(Fault::Activate, "activate", worker)?;
        self.stage.memory.activate(worker, identity, containment).await
    }

    async fn ending(&self, worker: WorkerId) -> Result<(), LedgerError> {
        self.step(Fault::Ending, "ending", worker)?;
        self.stage.memory.ending(worker).await
    }

    async fn release(&self, worker: WorkerId) -> Result<(), LedgerError> {
        self.step(Fault::Release, "release", worker)?;
        self.stage.memory.release(worker).await
    }

    async fn rows(&self) -> Result<Vec<Row>, LedgerError> {
        self.stage.memory.rows().await
    }
}

#[derive(Debug)]
struct FakeLauncher {
    stage: Arc<Stage>,
}

/// Notes a launch that was dropped before it was done.
struct Dropped<'a>(Option<&'a Stage>);

impl Drop for Dropped<'_> {
    fn drop(&mut self) {
        if let Some(stage) = self.0 {
            stage.note("launch dropped");
        }
    }
}

#[async_trait]
impl Launcher for FakeLauncher {
    fn name(&self) -> &str {
        "fake"
    }

    fn holds(&self) -> bool {
        self.stage.holds
    }

    async fn launch(&self, spec: &LaunchSpec) -> Result<Arc<dyn LaunchedProcess>, LaunchError> {
        self.stage.note("launch");
        if self.stage.has(Fault::Launch) {
            let source = io::Error::from_raw_os_error(libc::EAGAIN);
            let step = "create the process";
            return Err(LaunchError::Os { step, source });
        }
        let mut dropped = Dropped(Some(&self.stage));
        tokio::time::sleep(self.stage.launch_takes).await;
        dropped.0 = None;
        let (theirs, channel) = match &spec.channel {
            ChannelForm::Unix(path) => (Channel::Listening(StdUnixListener::bind(path).unwrap()), None),
            ChannelForm::Inherited => {
                let (ours, theirs) = StdUnixStream::pair().unwrap();
                (Channel::Inherited(theirs), Some(ours))
            }
            other => panic!("the fake process cannot serve {other}"),
        };
        Ok(Arc::new(FakeProcess::start(&self.stage, theirs, channel)))
    }
}

#[derive(Debug)]
struct FakeProcess {
    stage: Arc<Stage>,
    identity: ProcessIdentity,
    channel: Mutex<Option<StdUnixStream>>,
    exit: watch::Sender<Option<ExitOutcome>>,
    stop: CancellationToken,
}

impl FakeProcess {
    fn start(stage: &Arc<Stage>, theirs: Channel, channel: Option<StdUnixStream>) -> Self {
        let stop = CancellationToken::new();
        let serve = stop
            .clone()
            .run_until_cancelled_owned(serve(theirs, Served(Arc::clone(stage))));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(serve)
        });
        Self {
            stage: Arc::clone(stage),
            // Above the kernel's highest pid, so that it names no process.
            identity: ProcessIdentity {
                pid: 5_000_000,
                pgid: 5_000_000,
                start_ticks: 1,
                handle: None,
                boot_id: "boot".into(),
                pid_namespace: 1,
            },
            channel: Mutex::new(channel),
            exit: watch::Sender::new(None),
            stop,
        }
    }
}

#[async_trait]
impl LaunchedProcess for FakeProcess {
    fn identity(&self) -> &ProcessIdentity {
        &self.identity
    }

    fn take_io(&self) -> ProcessIo {
        ProcessIo {
            channel: lock(&self.channel).take(),
            ..ProcessIo::default()
        }
    }

    async fn open_gate(&self) -> Result<(), LaunchError> {
        self.stage.note("gate");
        if self.stage.has(Fault::Gate) {
            let source = io::Error::other("stuck");
            let step = "open the gate";
            return Err(LaunchError::Os { step, source });
        }
        Ok(())
    }

    async fn exited(&self) -> ExitOutcome {
        let mut exit = self.exit.subscribe();
        let outcome = exit.wait_for(Option::is_some).await.unwrap();
        outcome.unwrap()
    }

    fn try_exited(&self) -> Option<ExitOutcome> {
        *self.exit.borrow()
    }

    fn signal(&self, _: i32) -> io::Result<()> {
        Ok(())
    }

    async fn end(&self, _: Duration) -> EndReport {
        self.stage.note("end");
        self.stop.cancel();
        let outcome = ExitOutcome::Exited(0);
        self.exit.send_replace(Some(outcome));
        EndReport {
            outcome,
            step: if self.stage.has(Fault::Unconfirmed) {
                EndStep::Incomplete
            } else {
                EndStep::Kill
            },
            took: Duration::ZERO,
            swept: 0,
            remaining: Vec::new(),
        }
    }
}

impl Drop for FakeProcess {
    fn drop(&mut self) {
        if self.try_exited().is_none() {
            self.stage.note("process dropped");
            self.stop.cancel();
        }
    }
}

/// The worker's side of the protocol.
#[derive(Clone)]
struct Served(Arc<Stage>);

/// Where the worker finds its host.
enum Channel {
    Listening(StdUnixListener),
    Inherited(StdUnixStream),
}

async fn serve(channel: Channel, served: Served) {
    match channel {
        Channel::Listening(listener) => {
            listener.set_nonblocking(true).unwrap();
            let listener = UnixListener::from_std(listener).unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            serve_stream(stream, served).await;
        }
        Channel::Inherited(data) => {
            let [control, _calls, journal] = read_preamble(&data);
            let streams = [data, control.into()].map(|stream| {
                stream.set_nonblocking(true).unwrap();
                UnixStream::from_std(stream).unwrap()
            });
            let [data, control] = streams.map(|stream| serve_stream(stream, served.clone()));
            tokio::join!(data, control, beat(&served.0, &journal));
        }
    }
}

/// What comes with the preamble: the control socket, the socket of calls and the journal.
fn read_preamble(data: &StdUnixStream) -> [OwnedFd; 3] {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; preamble::LEN];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let read = recvmsg(data, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags).unwrap();
    assert_eq!(read.bytes, preamble::LEN);
    let sent: Vec<OwnedFd> = ancillary
        .drain()
        .filter_map(|part| match part {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    sent.try_into().expect("the host shares no arena")
}

async fn beat(stage: &Stage, journal: &OwnedFd) {
    for beat in 1_u64.. {
        while stage.still.load(Ordering::Acquire) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        rustix::io::pwrite(journal, &beat.to_ne_bytes(), journal::BEATS as u64).unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn serve_stream(stream: UnixStream, served: Served) {
    let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let served = served.clone();
        async move {
            let path = request.uri().path().to_owned();
            let answer: http::Response<Body> = if path.starts_with("/snakepit.worker.v1.WorkerControl/") {
                WorkerControlServer::new(served).call(request).await?
            } else {
                WorkerServer::new(served).call(request).await?
            };
            Ok::<_, Infallible>(answer)
        }
    });
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    // The connection's end, however it comes about, is this worker's.
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

type Nothing<T> = tokio_stream::Pending<Result<T, Status>>;

#[async_trait]
impl WorkerControl for Served {
    type EventsStream = Nothing<Event>;
    type HostStream = UnboundedReceiverStream<Result<HostRequest, Status>>;

    async fn handshake(
        &self,
        request: Request<HandshakeRequest>,
    ) -> Result<Response<HandshakeResponse>, Status> {
        let request = request.into_inner();
        let beats = self.0.has(Fault::Beats) && request.beat_ms > 0;
        *lock(&self.0.handshake) = Some(request);
        let fits = !self.0.has(Fault::Handshake);
        Ok(Response::new(HandshakeResponse {
            protocol_version: u32::from(fits),
            protocol_versions: vec![if fits { 1 } else { 99 }],
            capabilities: [
                ("host", !self.0.has(Fault::Hostless)),
                ("input", !self.0.has(Fault::Hostless)),
                ("beats", beats),
            ]
            .into_iter()
            .filter(|(_, has)| *has)
            .map(|(name, _)| name.to_owned())
            .collect(),
            ..HandshakeResponse::default()
        }))
    }

    async fn ready(&self, _: Request<ReadyRequest>) -> Result<Response<ReadyResponse>, Status> {
        let outcome = if self.0.has(Fault::Import) {
            ready_response::Outcome::Error(CallError::default())
        } else {
            ready_response::Outcome::Ready(AdapterReport::default())
        };
        self.0.ready.store(true, Ordering::Release);
        let outcome = Some(outcome);
        Ok(Response::new(ReadyResponse { outcome }))
    }

    async fn ping(&self, _: Request<PingRequest>) -> Result<Response<PingResponse>, Status> {
        let before = {
            let mut pings = lock(&self.0.pings);
            *pings += 1;
            *pings - 1
        };
        if self.0.has(Fault::MuteAfterErrors) && before < 3 {
            return Err(Status::unimplemented("not yet"));
        }
        if self.0.has(Fault::Mute) || self.0.has(Fault::MuteAfterErrors) {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(PingResponse::default()))
    }

    async fn cancel(&self, _: Request<CancelRequest>) -> Result<Response<CancelResponse>, Status> {
        Ok(Response::new(CancelResponse { was_running: false }))
    }

    /// Says that it will leave, and does not.
    async fn shutdown(&self, _: Request<ShutdownRequest>) -> Result<Response<ShutdownResponse>, Status> {
        self.0.note("asked to leave");
        Ok(Response::new(ShutdownResponse {}))
    }

    async fn events(&self, _: Request<EventsRequest>) -> Result<Response<Self::EventsStream>, Status> {
        Ok(Response::new(tokio_stream::pending()))
    }

    async fn host(
        &self,
        request: Request<Streaming<HostResponse>>,
    ) -> Result<Response<Self::HostStream>, Status> {
        let (requests, receiver) = mpsc::unbounded_channel();
        let responses = request.into_inner();
        *lock(&self.0.host) = Some(HostStream { requests, responses });
        Ok(Response::new(UnboundedReceiverStream::new(receiver)))
    }
}

#[async_trait]
impl Worker for Served {
    type CallStreamStream = Nothing<StreamResponse>;

    async fn call(&self, _: Request<CallRequest>) -> Result<Response<CallResponse>, Status> {
        Err(Status::unimplemented("no test of this file calls"))
    }

    /// Yields nothing, and does not end.
    async fn call_stream(
        &self,
        _: Request<Streaming<StreamRequest>>,
    ) -> Result<Response<Self::CallStreamStream>, Status> {
        Ok(Response::new(tokio_stream::pending()))
    }
}
