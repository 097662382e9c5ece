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
use crate::worker::{BoxFuture, Down, ItemStream, TransportError, WorkerClient};

/// Answers a call.
pub type CallHandler =
    Arc<dyn Fn(CallRequest) -> BoxFuture<Result<CallResponse, TransportError>> + Send + Sync>;

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
    pub(super) fn new(behaviour: FakeBehaviour, down: watch::Receiver<Option<Down>>) -> Self {
        let shared = Shared {
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

    /// Runs a call the way a worker does: also when nobody waits for it any more.
    async fn answer(self, request: CallRequest) -> Result<CallResponse, TransportError> {
        let call_id = request.call_id;
        let (cancel, mut cancelled) = watch::channel(false);
        lock(&self.shared.running).insert(call_id, cancel);
        let _running = Running {
            call_id,
            shared: Arc::clone(&self.shared),
        };
        lock(&self.shared.requests).push(request.clone());
        let behaviour = lock(&self.shared.behaviour).clone();
        let deaf = matches!(behaviour, FakeBehaviour::HangDeaf);
        let mut down = self.shared.down.clone();
        tokio::select! {
            biased;
            _ = down.wait_for(Option::is_some) => Err(closed()),
            _ = cancelled.wait_for(|&cancelled| cancelled), if !deaf => Ok(failure(call_id, cancel_error())),
            answer = perform(behaviour, request) => answer,
        }
    }
}

async fn perform(behaviour: FakeBehaviour, request: CallRequest) -> Result<CallResponse, TransportError> {
    let value = match behaviour {
        FakeBehaviour::Echo if request.args.is_empty() => EMPTY_ARRAY,
        FakeBehaviour::Echo => request.args,
        FakeBehaviour::Value(value) => value,
        FakeBehaviour::Items(items) => items.last().cloned().unwrap_or(EMPTY_ARRAY),
        FakeBehaviour::Error(error) => return Ok(failure(request.call_id, error)),
        FakeBehaviour::Hang | FakeBehaviour::HangDeaf => std::future::pending().await,
        FakeBehaviour::FailTransport(message) => return Err(TransportError { message }),
        FakeBehaviour::Handler(handle) => return handle(request).await,
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
        Box::pin(self.clone().answer(request))
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
    let script = match &*lock(&client.shared.behaviour) {
        FakeBehaviour::Items(items) => Some(items.clone()),
        _ => None,
    };
    // The handler's part of the stream: its one answer, or nothing but the cancel and the worker's end.
    let answer = tokio::select! {
        answer = client.answer(request) => answer,
        () = send.closed() => return,
    };
    let items = match (answer, script) {
        (
            Ok(CallResponse {
                outcome: Some(Outcome::Value(_)),
                ..
            }),
            Some(script),
        ) => script,
        (
            Ok(CallResponse {
                outcome: Some(Outcome::Value(value)),
                ..
            }),
            None,
        ) => vec![value],
        (
            Ok(CallResponse {
                outcome: Some(Outcome::Error(error)),
                ..
            }),
            _,
        ) => {
            let message = Some(Message::Error(error));
            // An error only says that the consumer is gone.
            let _ = send.send(Ok(StreamResponse { call_id, message })).await;
            return;
        }
        (Ok(CallResponse { outcome: None, .. }), _) => return,
        (Err(error), _) => {
            let _ = send.send(Err(error)).await;
            return;
        }
    };
    for item in items {
        while credit == 0 {
            match grants.recv().await {
                Some(more) => credit += more,
                None => return,
            }
        }
        credit -= 1;
        let message = Some(Message::Item(item));
        if send.send(Ok(StreamResponse { call_id, message })).await.is_err() {
            return;
        }
    }
}
