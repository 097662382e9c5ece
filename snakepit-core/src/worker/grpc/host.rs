//! What one worker asks of its host, as long as it lives: calls of functions, and the input of its own calls.

mod desk;
mod inputs;

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock},
    task::Poll,
};

use desk::Desk;
use inputs::Inputs;
use snakepit_proto::{
    MAX_HOST_MESSAGE,
    v1::{HostRequest, HostResponse, host_request::Message},
};
use tokio::{
    runtime::Handle,
    sync::mpsc::{self, UnboundedReceiver},
    task::JoinHandle,
    time::sleep,
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Status;

use super::{GrpcWorkerSpec, Live, client::Control, monitor::EXIT_FOLLOWS_EOF};
use crate::{
    arena::Arena,
    id::WorkerId,
    launch::LaunchedProcess,
    rpc::Connection,
    worker::{DownReason, Feed, Input},
};

/// Host calls of one worker under way at the same time; more wait in the worker. As many as a worker sensibly has threads, and
/// 1,000 workers cannot ask more of the host than 64,000 tasks.
pub(super) const UNDER_WAY: usize = 64;

/// The stream on which a worker asks. It is opened before the worker is ready if it may call functions, since its start hooks may;
/// else when a call first has input.
#[derive(Debug)]
pub(super) struct HostStream {
    spec: Arc<GrpcWorkerSpec>,
    worker: WorkerId,
    process: Arc<dyn LaunchedProcess>,
    control: Control,
    /// For the death of the connection, which is told by whoever watches that.
    connection: Connection,
    /// The memory that it shares with the worker.
    arena: Option<Arc<Arena>>,
    /// The one that started the worker; a call may come from another one, which ends before the worker does.
    runtime: Handle,
    inputs: OnceLock<Arc<Inputs>>,
}

/// A stream that is being served, and how it ends.
pub(super) type Serving = JoinHandle<Result<(), Status>>;

impl HostStream {
    pub(super) fn new(
        spec: &Arc<GrpcWorkerSpec>,
        worker: WorkerId,
        process: &Arc<dyn LaunchedProcess>,
        control: &Control,
        connection: &Connection,
        arena: Option<&Arc<Arena>>,
    ) -> Self {
        Self {
            spec: Arc::clone(spec),
            worker,
            process: Arc::clone(process),
            control: control.clone(),
            connection: connection.clone(),
            arena: arena.cloned(),
            runtime: Handle::current(),
            inputs: OnceLock::new(),
        }
    }

    /// Opens it. Whoever has done so has it [watched](Self::watch) when there is a worker to condemn.
    pub(super) fn begin(&self) -> Option<Serving> {
        self.open().1
    }

    fn open(&self) -> (&Arc<Inputs>, Option<Serving>) {
        let mut serving = None;
        let inputs = self.inputs.get_or_init(|| {
            let (answers, outgoing) = mpsc::unbounded_channel();
            let inputs = Inputs::new(answers.clone(), self.arena.clone(), self.runtime.clone());
            let inputs = Arc::new(inputs);
            let desk = Desk {
                functions: self.spec.host_functions.clone(),
                worker: self.worker,
                arena: self.arena.clone(),
                answers,
                running: Arc::default(),
            };
            let answering = answer(desk, Arc::clone(&inputs), outgoing, self.control.clone());
            let process = Arc::clone(&self.process);
            serving = Some(self.runtime.spawn(async move {
                tokio::select! {
                    ended = answering => ended,
                    // A child that a worker forked may hold its socket open.
                    _ = process.exited() => Ok(()),
                }
            }));
            inputs
        });
        (inputs, serving)
    }

    /// Takes the input of a call of this worker.
    pub(super) fn feed(&self, live: &Arc<Live>, call_id: u64, input: Input) -> Feed {
        let (inputs, serving) = self.open();
        if let Some(serving) = serving {
            self.watch(serving, live);
        }
        inputs.open(call_id, input)
    }

    /// A worker whose stream broke while it lives on would fail whatever it asks: it is condemned.
    pub(super) fn watch(&self, serving: Serving, live: &Arc<Live>) {
        let (worker, process) = (Arc::downgrade(live), Arc::clone(&self.process));
        let connection = self.connection.clone();
        self.runtime.spawn(async move {
            // A task that was cut off has ended with its runtime.
            let Ok(Err(status)) = serving.await else { return };
            tokio::select! {
                // What these mean is told by whoever watches them.
                () = connection.closed() => return,
                _ = process.exited() => return,
                () = sleep(EXIT_FOLLOWS_EOF) => {}
            }
            if let Some(worker) = worker.upgrade() {
                let message = format!("host calls: {:?}: {}", status.code(), status.message());
                worker.condemn(DownReason::ChannelFailed { message });
            }
        });
    }
}

async fn answer(
    desk: Desk,
    inputs: Arc<Inputs>,
    outgoing: UnboundedReceiver<HostResponse>,
    control: Control,
) -> Result<(), Status> {
    // However this ends, nobody reads the inputs any more.
    let _ends = inputs.ends();
    let mut control = control.max_decoding_message_size(MAX_HOST_MESSAGE);
    let mut requests = control
        .host(UnboundedReceiverStream::new(outgoing))
        .await?
        .into_inner();
    while let Some(HostRequest { message }) = requests.message().await? {
        match message {
            Some(Message::Call(request)) => desk.begin(request)?,
            Some(Message::Cancel(id)) => desk.running.give_up(id),
            Some(Message::Grant(grant)) => inputs.grant(grant.call_id, grant.items),
            Some(Message::Leave(call_id)) => inputs.leave(call_id),
            // From a later version.
            None => {}
        }
    }
    Ok(())
}

/// Polls what is not ours; what it panics with is its own end and nobody else's.
fn unwinding<T>(poll: impl FnOnce() -> Poll<T>) -> Poll<Result<T, Box<dyn Any + Send>>> {
    // Not polled again after a panic.
    match catch_unwind(AssertUnwindSafe(poll)) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
