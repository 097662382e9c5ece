//! How calls reach a fake worker.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use snakepit_proto::v1::{
    CallError, CallRequest, CallResponse, StreamResponse, call_error::Kind, call_response::Outcome,
    stream_response::Message,
};
use tokio::sync::{mpsc, watch};

use super::lock;
use crate::{
    id::WorkerId,
    worker::{BoxFuture, Down, ItemStream, TransportError, WorkerClient},
};

/// Answers a call.
pub type CallHandler =
    Arc<dyn Fn(CallRequest) -> BoxFuture<Result<CallResponse, TransportError>> + Send + Sync>;

/// Produces the items of a stream, MessagePack values, and ends it by its answer: a value is the end, an error the last
/// message. Items beyond the stream's credit wait in the channel.
pub type ItemProducer = Arc<
    dyn Fn(CallRequest, mpsc::UnboundedSender<Bytes>) -> BoxFuture<Result<CallResponse, TransportError>>
        + Send
        + Sync,
>;

/// Says what a worker does with a call.
pub type CallChooser = Arc<dyn Fn(WorkerId, &CallRequest) -> FakeBehaviour + Send + Sync>;

/// An empty MessagePack array.
const EMPTY_ARRAY: Bytes = Bytes::from_static(&[0x90]);

/// What a fake worker does with calls.
#[derive(Clone)]
#[non_exhaustive]
pub enum FakeBehaviour {
    /// Answers the positional arguments as an array, at once. A stream yields them as its only item.
    Echo,
    /// Answers this MessagePack value. A stream yields it as its only item.
    Value(Bytes),
    /// Streams these MessagePack values, as far as it has credit. A call is answered the last one.
    Items(Vec<Bytes>),
    /// Answers this error.
    Error(CallError),
    /// Does not answer until the call is cancelled.
    Hang,
    /// Does not answer, and does not stop when it is cancelled.
    HangDeaf,
    /// Fails in the transport with this message.
    FailTransport(String),
    /// Does what the handler says; a stream yields its answer as the only item. Cancelling drops the future.
    Handler(CallHandler),
    /// The same, and goes on when the call is cancelled.
    Deaf(CallHandler),
    /// Produces a stream's items. A call is answered what the producer answers. Cancelling drops the future.
    Producer(ItemProducer),
    /// What the function says, for each call anew.
    ByCall(CallChooser),
}

impl FakeBehaviour {
    /// Answers calls with an async function.
    pub fn handler<F, Fut>(handle: F) -> Self
    where
        F: Fn(CallRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<CallResponse, TransportError>> + Send + 'static,
    {
        Self::Handler(Arc::new(move |request| Box::pin(handle(request))))
    }

    /// Chooses for each call by the worker that it came to and what it is.
    pub fn by_call(choose: impl Fn(WorkerId, &CallRequest) -> Self + Send + Sync + 'static) -> Self {
        Self::ByCall(Arc::new(choose))
    }
}

impl fmt::Debug for FakeBehaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Echo => "Echo",
            Self::Value(_) => "Value",
            Self::Items(_) => "Items",
            Self::Error(_) => "Error",
            Self::Hang => "Hang",
            Self::HangDeaf => "HangDeaf",
            Self::FailTransport(_) => "FailTransport",
            Self::Handler(_) => "Handler",
            Self::Deaf(_) => "Deaf",
            Self::Producer(_) => "Producer",
            Self::ByCall(_) => "ByCall",
        })
    }
}

/// How calls reach a fake worker. A call under way when the worker goes down fails in the transport.
#[derive(Clone, Debug)]
pub struct FakeClient {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    worker: WorkerId,
    behaviour: Mutex<FakeBehaviour>,
    running: Mutex<BTreeMap<u64, watch::Sender<bool>>>,
    requests: Mutex<Vec<CallRequest>>,
    down: watch::Receiver<Option<Down>>,
}

/// A call that is under way; it counts as running until this is dropped.
struct Running {
    call_id: u64,
    shared: Arc<Shared>,
}

impl Drop for Running {
    fn drop(&mut self) {
        lock(&self.shared.running).remove(&self.call_id);
    }
}

impl FakeClient {
    pub(super) fn new(
        worker: WorkerId,
        behaviour: FakeBehaviour,
        down: watch::Receiver<Option<Down>>,
    ) -> Self {
        let shared = Shared {
            worker,
            behaviour: Mutex::new(behaviour),
            running: Mutex::default(),
            requests: Mutex::default(),
            down,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Changes what later calls do.
    pub fn set_behaviour(&self, behaviour: FakeBehaviour) {
        *lock(&self.shared.behaviour) = behaviour;
    }

    /// The calls that arrived, in order.
    pub fn requests(&self) -> Vec<CallRequest> {
        lock(&self.shared.requests).clone()
    }

    /// The ids of the calls that run now.
    pub fn running(&self) -> Vec<u64> {
        lock(&self.shared.running).keys().copied().collect()
    }

    /// What is done with this call.
    fn behaviour(&self, request: &CallRequest) -> FakeBehaviour {
        let mut behaviour = lock(&self.shared.behaviour).clone();
        while let FakeBehaviour::ByCall(choose) = behaviour {
            behaviour = choose(self.shared.worker, request);
        }
        behaviour
    }

    /// Runs a call the way a worker does: also when nobody waits for it any more.
    async fn answer(
        self,
        request: CallRequest,
        behaviour: FakeBehaviour,
        items: mpsc::UnboundedSender<Bytes>,
    ) -> Result<CallResponse, TransportError> {
        let call_id = request.call_id;
        let (cancel, mut cancelled) = watch::channel(false);
        lock(&self.shared.running).insert(call_id, cancel);
        let _running = Running {
            call_id,
            shared: Arc::clone(&self.shared),
        };
        lock(&self.shared.requests).push(request.clone());
        let deaf = matches!(behaviour, FakeBehaviour::HangDeaf | FakeBehaviour::Deaf(_));
        let mut down = self.shared.down.clone();
        tokio::select! {
            biased;
            _ = down.wait_for(Option::is_some) => Err(closed()),
            _ = cancelled.wait_for(|&cancelled| cancelled), if !deaf => Ok(failure(call_id, cancel_error())),
            answer = perform(behaviour, request, items) => answer,
        }
    }
}

async fn perform(
    behaviour: FakeBehaviour,
    request: CallRequest,
    items: mpsc::UnboundedSender<Bytes>,
) -> Result<CallResponse, TransportError> {
    let value = match behaviour {
        FakeBehaviour::Echo if request.args.is_empty() => EMPTY_ARRAY,
        FakeBehaviour::Echo => request.args,
        FakeBehaviour::Value(value) => value,
        FakeBehaviour::Items(items) => items.last().cloned().unwrap_or(EMPTY_ARRAY),
        FakeBehaviour::Error(error) => return Ok(failure(request.call_id, error)),
        // A choice that is left is one that nobody has made.
        FakeBehaviour::Hang | FakeBehaviour::HangDeaf | FakeBehaviour::ByCall(_) => {
            std::future::pending().await
        }
        FakeBehaviour::FailTransport(message) => return Err(TransportError { message }),
        FakeBehaviour::Handler(handle) | FakeBehaviour::Deaf(handle) => return handle(request).await,
        FakeBehaviour::Producer(produce) => return produce(request, items).await,
    };
    Ok(CallResponse {
        call_id: request.call_id,
        outcome: Some(Outcome::Value(value)),
    })
}

fn failure(call_id: u64, error: CallError) -> CallResponse {
    CallResponse {
        call_id,
        outcome: Some(Outcome::Error(error)),
    }
}

fn cancel_error() -> CallError {
    CallError {
        kind: Kind::Cancelled.into(),
        message: "cancelled".into(),
        ..CallError::default()
    }
}

fn closed() -> TransportError {
    TransportError {
        message: "the fake worker is down".into(),
    }
}

impl WorkerClient for FakeClient {
    fn call(&self, request: CallRequest) -> BoxFuture<Result<CallResponse, TransportError>> {
        let behaviour = self.behaviour(&request);
        // Only a stream has a use for items.
        let (items, _) = mpsc::unbounded_channel();
        Box::pin(self.clone().answer(request, behaviour, items))
    }

    fn call_stream(
        &self,
        request: CallRequest,
        credit: u32,
    ) -> BoxFuture<Result<ItemStream, TransportError>> {
        let client = self.clone();
        Box::pin(async move {
            if client.shared.down.borrow().is_some() {
                return Err(closed());
            }
            let (send, items) = mpsc::channel(1);
            let (grant, grants) = mpsc::unbounded_channel();
            tokio::spawn(produce(client, request, credit, send, grants));
            Ok(ItemStream { items, credit: grant })
        })
    }

    fn cancel(&self, call_id: u64) -> BoxFuture<Result<bool, TransportError>> {
        let was_running = lock(&self.shared.running)
            .get(&call_id)
            .is_some_and(|cancel| cancel.send(true).is_ok());
        let down = self.shared.down.borrow().is_some();
        Box::pin(async move { if down { Err(closed()) } else { Ok(was_running) } })
    }
}

/// Produces a stream's messages; stops when its consumer is gone.
async fn produce(
    client: FakeClient,
    request: CallRequest,
    mut credit: u32,
    send: mpsc::Sender<Result<StreamResponse, TransportError>>,
    mut grants: mpsc::UnboundedReceiver<u32>,
) {
    let call_id = request.call_id;
    let behaviour = client.behaviour(&request);
    let mut down = client.shared.down.clone();
    let (items, mut produced) = mpsc::unbounded_channel();
    let rest = match &behaviour {
        FakeBehaviour::Items(script) => Rest::Script(items.clone(), script.clone()),
        FakeBehaviour::Producer(_) => Rest::Produced,
        _ => Rest::Answer(items.clone()),
    };
    let work = client.answer(request, behaviour, items);
    tokio::pin!(work);
    let mut rest = Some(rest);
    let mut next = None;
    let last = loop {
        tokio::select! {
            biased;
            answer = &mut work, if rest.is_some() => match (answer, rest.take()) {
                (Ok(CallResponse { outcome: Some(Outcome::Value(value)), .. }), Some(rest)) => rest.come(value),
                (Ok(CallResponse { outcome: Some(Outcome::Error(error)), .. }), _) => {
                    let message = Some(Message::Error(error));
                    break Ok(StreamResponse { call_id, message });
                }
                (Ok(_), _) => return,
                (Err(error), _) => break Err(error),
            },
            () = gone(&mut down), if rest.is_none() => break Err(closed()),
            () = send.closed() => return,
            granted = grants.recv() => match granted {
                Some(more) => credit = credit.saturating_add(more),
                None => return,
            },
            item = produced.recv(), if next.is_none() => match item {
                Some(item) => next = Some(item),
                None => return,
            },
            Ok(place) = send.reserve(), if credit > 0 && next.is_some() => {
                credit -= 1;
                let message = next.take().map(Message::Item);
                place.send(Ok(StreamResponse { call_id, message }));
            }
        }
    };
    // An error only says that the consumer is gone.
    let _ = send.send(last).await;
}

async fn gone(down: &mut watch::Receiver<Option<Down>>) {
    // A sender that is dropped goes with the worker.
    let _ = down.wait_for(Option::is_some).await;
}

/// The items that come once a stream's call was answered a value. Each has a place to put them: the stream ends when it is gone.
enum Rest {
    Script(mpsc::UnboundedSender<Bytes>, Vec<Bytes>),
    Answer(mpsc::UnboundedSender<Bytes>),
    /// All have come already.
    Produced,
}

impl Rest {
    fn come(self, answer: Bytes) {
        let (items, values) = match self {
            Self::Script(items, script) => (items, script),
            Self::Answer(items) => (items, vec![answer]),
            Self::Produced => return,
        };
        for value in values {
            // An error only says that the consumer is gone.
            let _ = items.send(value);
        }
    }
}
