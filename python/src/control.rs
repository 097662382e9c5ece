//! The `WorkerControl` service. It runs on a native thread and never touches Python, so it answers while user
//! code, or C code that holds the GIL, computes.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use snakepit_proto::{
    PROTOCOL_VERSIONS,
    v1::{
        CancelRequest, CancelResponse, Event, EventsRequest, HandshakeRequest, HandshakeResponse,
        HostResponse, PingRequest, PingResponse, ReadyRequest, ReadyResponse, ShutdownRequest,
        ShutdownResponse, ready_response, worker_control_server::WorkerControl,
    },
};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior},
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use crate::{
    arena,
    concurrency::Concurrency,
    host_calls::Requests,
    shared::{Command, EXIT_LOST, Shared},
    tree::OrphanReaper,
};

/// What a worker can do beyond calls.
const CAPABILITIES: [&str; 7] = ["batch", "cancel", "stream", "events", "host", "input", "session"];
/// Events between the buffer and the connection; the buffer behind it is what absorbs bursts.
const EVENTS_UNDER_WAY: usize = 16;

/// Answers the host.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    shared: Arc<Shared>,
    reaper: Arc<Mutex<OrphanReaper>>,
}

impl Control {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            reaper: Arc::default(),
        }
    }

    /// What is done whenever the host looks at this worker.
    fn tidy(&self) {
        if self.shared.identity.keeper.is_none() {
            self.reaper.lock().unwrap_or_else(PoisonError::into_inner).look();
        }
        self.shared.heartbeat.notify_one();
        arena::tidy();
    }

    /// Shows the host that this thread lives, for as long as it does.
    async fn beat(self, pause: Duration) {
        let mut clock = tokio::time::interval_at(Instant::now() + pause, pause);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while let Some(journal) = self.shared.slot.journal() {
            clock.tick().await;
            journal.beat();
            self.tidy();
        }
    }
}

#[tonic::async_trait]
impl WorkerControl for Control {
    async fn handshake(
        &self,
        request: Request<HandshakeRequest>,
    ) -> Result<Response<HandshakeResponse>, Status> {
        let request = request.into_inner();
        let chosen = PROTOCOL_VERSIONS
            .iter()
            .rev()
            .find(|version| request.protocol_versions.contains(version));
        let mut concurrency = Concurrency::One;
        let beats = request.beat_ms > 0 && self.shared.slot.journal().is_some();
        if chosen.is_none() {
            eprintln!(
                "snakepit: the host speaks protocol versions {:?}, this worker speaks {PROTOCOL_VERSIONS:?}",
                request.protocol_versions
            );
            self.shared.set_exit_code(EXIT_LOST);
            self.shared.request_shutdown(Duration::ZERO);
        } else {
            concurrency = self.shared.settle_concurrency(Concurrency::asked(&request));
            self.shared.set_log_level(request.log_level);
            self.shared.events.expect_host();
            self.shared
                .host_calls
                .expect(request.host_functions, request.host_calls);
            self.shared.expect_prepared();
            if beats {
                tokio::spawn(self.clone().beat(Duration::from_millis(request.beat_ms.into())));
            }
            let command = Command::Prepare {
                adapters: request.adapters,
                paths: request.paths,
            };
            let commands = self.shared.commands.clone();
            tokio::spawn(async move {
                // The answer is on its way before user code gets a chance to end the process: a yield lets
                // everything that is ready run, the first the response, the second the connection.
                tokio::task::yield_now().await;
                tokio::task::yield_now().await;
                // The main thread stops listening only when the worker is on its way out.
                let _ = commands.send(command);
            });
        }
        // Of calls that run side by side more may begin than it has entries.
        let keeps_journal = self.shared.slot.journal().is_some() && concurrency == Concurrency::One;
        // They are served where calls run.
        let takes_calls = self.shared.identity.takes_calls && concurrency == Concurrency::One;
        Ok(Response::new(HandshakeResponse {
            protocol_version: chosen.copied().unwrap_or(0),
            protocol_versions: PROTOCOL_VERSIONS.to_vec(),
            pid: self.shared.identity.pid,
            worker_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime: self.shared.identity.runtime.clone(),
            concurrency: concurrency.limit(),
            capabilities: CAPABILITIES
                .into_iter()
                .chain(keeps_journal.then_some("journal"))
                .chain(beats.then_some("beats"))
                .chain(arena::is_mapped().then_some("arena"))
                .chain(takes_calls.then_some("calls"))
                .map(str::to_owned)
                .collect(),
        }))
    }

    async fn ready(&self, _: Request<ReadyRequest>) -> Result<Response<ReadyResponse>, Status> {
        let mut prepared = self.shared.prepared.subscribe();
        let outcome = tokio::select! {
            outcome = prepared.wait_for(Option::is_some) => outcome.ok().and_then(|outcome| outcome.clone()),
            _ = self.shared.until_shutdown() => None,
        };
        let Some(outcome) = outcome else {
            return Err(Status::unavailable("the worker is shutting down"));
        };
        let outcome = match &*outcome {
            Ok(report) => ready_response::Outcome::Ready(report.clone()),
            Err(error) => ready_response::Outcome::Error(error.clone()),
        };
        Ok(Response::new(ReadyResponse {
            outcome: Some(outcome),
        }))
    }

    async fn ping(&self, _: Request<PingRequest>) -> Result<Response<PingResponse>, Status> {
        let activity = self.shared.slot.activity();
        self.tidy();
        Ok(Response::new(PingResponse {
            call_id: activity.oldest.map(|(call_id, _)| call_id),
            call_us: activity.oldest.map_or(0, |(_, time)| micros(time)),
            calls: activity.calls,
            running: u32::try_from(activity.running).unwrap_or(u32::MAX),
        }))
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Result<Response<CancelResponse>, Status> {
        let CancelRequest {
            call_id,
            only_waiting,
        } = request.into_inner();
        let so_far = self.shared.host_calls.so_far();
        let was_running = self.shared.slot.cancel(call_id, only_waiting);
        if !only_waiting {
            // After the signal, which is what interrupts the code that waits for the host.
            self.shared.host_calls.cancel(call_id, so_far);
        }
        Ok(Response::new(CancelResponse { was_running }))
    }

    async fn shutdown(
        &self,
        request: Request<ShutdownRequest>,
    ) -> Result<Response<ShutdownResponse>, Status> {
        self.shared
            .request_shutdown(Duration::from_millis(request.into_inner().grace_ms));
        Ok(Response::new(ShutdownResponse {}))
    }

    type EventsStream = Pin<Box<dyn Stream<Item = Result<Event, Status>> + Send>>;

    async fn events(&self, _: Request<EventsRequest>) -> Result<Response<Self::EventsStream>, Status> {
        let (sender, receiver) = mpsc::channel(EVENTS_UNDER_WAY);
        let shared = Arc::clone(&self.shared);
        let subscription = shared.events.subscribe();
        tokio::spawn(async move {
            loop {
                let event = tokio::select! {
                    event = shared.events.next(subscription) => event,
                    () = sender.closed() => None,
                };
                let Some(event) = event else { return };
                if sender.send(Ok(event)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    type HostStream = Requests;

    async fn host(
        &self,
        request: Request<Streaming<HostResponse>>,
    ) -> Result<Response<Self::HostStream>, Status> {
        let shared = Arc::clone(&self.shared);
        let number = shared.host_calls.open();
        let requests = Requests::new(Arc::clone(&shared), number);
        let mut answers = request.into_inner();
        tokio::spawn(async move {
            // Whether it ended in order or not, nothing more will come.
            while let Ok(Some(answer)) = answers.message().await {
                shared.host_calls.answer(number, answer);
            }
            shared.host_calls.lost(number);
        });
        Ok(Response::new(requests))
    }
}

/// Microseconds for the wire.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
