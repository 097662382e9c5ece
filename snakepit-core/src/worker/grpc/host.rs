//! Answers the host calls of one worker, as long as it lives.

use std::{
    any::Any,
    collections::HashMap,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};

use snakepit_proto::{
    MAX_HOST_MESSAGE,
    v1::{
        HostCall as Request, HostRequest, HostResponse, host_error::Kind, host_request::Message,
        host_response::Outcome as Answer,
    },
};
use tokio::{
    sync::mpsc::{self, UnboundedSender},
    task::{AbortHandle, JoinHandle},
    time::{Instant, sleep, timeout_at},
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{Live, client::Control, monitor::EXIT_FOLLOWS_EOF};
use crate::{
    clock::after,
    host::{HostCall, HostFunction, HostFunctions, Outcome, failure},
    id::WorkerId,
    launch::LaunchedProcess,
    rpc::Connection,
    worker::DownReason,
};

/// Host calls of one worker under way at the same time; more wait in the worker. As many as a worker sensibly has threads, and
/// 1,000 workers cannot ask more of the host than 64,000 tasks.
pub(super) const UNDER_WAY: usize = 64;

/// Answers a worker's host calls until it ends. Begun before the worker is ready, since its start hooks may call.
pub(super) fn serve(
    functions: HostFunctions,
    worker: WorkerId,
    process: Arc<dyn LaunchedProcess>,
    control: Control,
) -> JoinHandle<Result<(), Status>> {
    tokio::spawn(async move {
        tokio::select! {
            ended = answer(functions, worker, control) => ended,
            // A child that a worker forked may hold its socket open.
            _ = process.exited() => Ok(()),
        }
    })
}

/// A worker whose stream broke while it lives on would fail every host call: it is condemned.
pub(super) fn watch(serving: JoinHandle<Result<(), Status>>, worker: &Arc<Live>, control: Connection) {
    let (worker, process) = (Arc::downgrade(worker), Arc::clone(&worker.process));
    tokio::spawn(async move {
        // A task that was cut off has ended with its runtime.
        let Ok(Err(status)) = serving.await else { return };
        tokio::select! {
            // What these mean is told by whoever watches them.
            () = control.closed() => return,
            _ = process.exited() => return,
            () = sleep(EXIT_FOLLOWS_EOF) => {}
        }
        if let Some(worker) = worker.upgrade() {
            let message = format!("host calls: {:?}: {}", status.code(), status.message());
            worker.condemn(DownReason::ChannelFailed { message });
        }
    });
}

async fn answer(functions: HostFunctions, worker: WorkerId, control: Control) -> Result<(), Status> {
    let (answers, outgoing) = mpsc::unbounded_channel();
    let mut control = control.max_decoding_message_size(MAX_HOST_MESSAGE);
    let mut requests = control
        .host(UnboundedReceiverStream::new(outgoing))
        .await?
        .into_inner();
    let desk = Desk {
        functions,
        worker,
        answers,
        running: Arc::default(),
    };
    while let Some(HostRequest { message }) = requests.message().await? {
        match message {
            Some(Message::Call(request)) => desk.begin(request)?,
            Some(Message::Cancel(id)) => desk.running.give_up(id),
            // From a later version.
            None => {}
        }
    }
    Ok(())
}

/// The calls under way. Each answers only if it is still among them when it is done.
#[derive(Default)]
struct Running(Mutex<HashMap<u64, AbortHandle>>);

impl Running {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, AbortHandle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_up(&self, id: u64) {
        if let Some(task) = self.lock().remove(&id) {
            task.abort();
        }
    }
}

/// Takes the calls of one stream. Dropped, it gives up those under way.
struct Desk {
    functions: HostFunctions,
    worker: WorkerId,
    /// Unbounded because what it holds is bounded by the calls under way.
    answers: UnboundedSender<HostResponse>,
    running: Arc<Running>,
}

impl Desk {
    fn begin(&self, request: Request) -> Result<(), Status> {
        let id = request.id;
        let mut running = self.running.lock();
        if running.contains_key(&id) {
            return Err(Status::invalid_argument(format!(
                "host call {id} is under way already"
            )));
        }
        let refusal = if running.len() >= UNDER_WAY {
            failure(
                Kind::Busy,
                format!("{UNDER_WAY} host calls are under way, which is the limit"),
            )
        } else if let Some(function) = self.functions.get(&request.function) {
            let now = Instant::now();
            let over = CancellationToken::new();
            let call = HostCall {
                function: request.function,
                args: request.args,
                kwargs: request.kwargs,
                worker: self.worker,
                call_id: request.call_id,
                deadline: request
                    .deadline_us
                    .map(|left| after(now, Duration::from_micros(left))),
                over: over.clone(),
            };
            let (answers, others) = (self.answers.clone(), Arc::clone(&self.running));
            let task = tokio::spawn(async move {
                let _over = over.drop_guard();
                let outcome = run(call, &*function).await;
                if others.lock().remove(&id).is_some() {
                    respond(&answers, id, outcome);
                }
            });
            // The task finds itself here: it takes the lock that is held.
            running.insert(id, task.abort_handle());
            return Ok(());
        } else {
            failure(Kind::UnknownFunction, "the host has no such function")
        };
        respond(&self.answers, id, Err(refusal));
        Ok(())
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        for (_, task) in self.running.lock().drain() {
            task.abort();
        }
    }
}

fn respond(answers: &UnboundedSender<HostResponse>, id: u64, outcome: Outcome) {
    let outcome = Some(match outcome {
        Ok(value) => Answer::Value(value),
        Err(error) => Answer::Error(error),
    });
    // With the stream gone nobody waits.
    let _ = answers.send(HostResponse { id, outcome });
}

/// Runs a function within its deadline. Nothing it does reaches further than its own call.
async fn run(call: HostCall, function: &HostFunction) -> Outcome {
    let (worker, name, deadline) = (call.worker, call.function.clone(), call.deadline);
    let overdue = || failure(Kind::Deadline, "the deadline of the call passed");
    let work = unwinding(async move { function(call).await });
    let outcome = match deadline {
        // It would be begun, otherwise, before the clock is looked at.
        Some(deadline) if deadline <= Instant::now() => return Err(overdue()),
        Some(deadline) => timeout_at(deadline, work).await.map_err(|_| overdue())?,
        None => work.await,
    };
    outcome.unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message");
        tracing::error!(%worker, function = name, "a host function panicked: {text}");
        Err(failure(
            Kind::Failed,
            format!("the host function panicked: {text}"),
        ))
    })
}

/// What a future comes to, or what it panicked with.
async fn unwinding<T>(work: impl Future<Output = T>) -> Result<T, Box<dyn Any + Send>> {
    let mut work = pin!(work);
    poll_fn(|cx| {
        // Not polled again after a panic, which is the end of this future too.
        match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    })
    .await
}
