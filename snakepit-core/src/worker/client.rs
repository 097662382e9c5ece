//! How calls reach a worker.

use std::{fmt, future::Future, pin::Pin};

use snakepit_proto::v1::{CallRequest, CallResponse, ValueInArena};
use tokio::sync::mpsc;

pub use crate::arena::Received;
use crate::rpc::codec::Encoded;

/// A boxed future that owns all it needs, so that it can be driven on after its caller has left.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// The connection to the worker failed. What that means for the worker is told by
/// [`Worker::down`](super::Worker::down), never by this error.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the worker's connection failed: {message}")]
pub struct TransportError {
    /// What the transport said, for people.
    pub message: String,
}

/// The consumer's side of a stream of items.
///
/// Dropping it cancels the stream in the worker.
#[derive(Debug)]
pub struct ItemStream {
    /// Messages of the stream, in order; it ends after an error or the last item.
    pub items: mpsc::Receiver<Result<snakepit_proto::v1::StreamResponse, TransportError>>,
    /// Grants the worker further items.
    pub credit: mpsc::UnboundedSender<u32>,
}

/// Large buffers of a call's arguments, which are not in its request: that only refers to them, until it is known how they
/// reach the worker.
#[derive(Debug)]
pub struct Aside {
    pub(crate) args: Encoded,
    pub(crate) kwargs: Encoded,
}

impl Aside {
    pub(crate) fn new(args: Encoded, kwargs: Encoded) -> Self {
        Self { args, kwargs }
    }

    /// The request with the buffers in it.
    pub fn inline(&self, request: CallRequest) -> CallRequest {
        CallRequest {
            args: self.args.inline(),
            kwargs: self.kwargs.inline(),
            ..request
        }
    }
}

/// How calls reach a worker. Which calls may run at the same time is the pool's business.
pub trait WorkerClient: Send + Sync + fmt::Debug {
    /// Sends a call and waits for its answer.
    fn call(&self, request: CallRequest) -> BoxFuture<Result<CallResponse, TransportError>>;

    /// Begins a stream; the consumer takes `credit` items before it grants more.
    fn call_stream(&self, request: CallRequest, credit: u32)
    -> BoxFuture<Result<ItemStream, TransportError>>;

    /// As [`call`](Self::call), with large arguments. The default sends them in the request.
    fn call_with(
        &self,
        request: CallRequest,
        aside: Aside,
    ) -> BoxFuture<Result<CallResponse, TransportError>> {
        self.call(aside.inline(request))
    }

    /// As [`call_stream`](Self::call_stream), with large arguments. The default sends them in the request.
    fn call_stream_with(
        &self,
        request: CallRequest,
        aside: Aside,
        credit: u32,
    ) -> BoxFuture<Result<ItemStream, TransportError>> {
        self.call_stream(aside.inline(request), credit)
    }

    /// Takes over what a value refers to in the memory that is shared with the worker. The default knows of none.
    ///
    /// # Errors
    /// What is wrong with the value.
    fn receive(&self, value: ValueInArena) -> Result<Received, String> {
        let _ = value;
        Err("it refers to shared memory, and the worker was sent none".to_owned())
    }

    /// Interrupts a call; answers whether it was running.
    fn cancel(&self, call_id: u64) -> BoxFuture<Result<bool, TransportError>>;

    /// Takes a call back if it has not begun; whether it had is told by [`Worker::has_begun`](super::Worker::has_begun).
    /// Needed only of workers whose depth is more than 1. The default fails.
    fn recall(&self, call_id: u64) -> BoxFuture<Result<(), TransportError>> {
        let message = format!("call {call_id} cannot be taken back from this worker");
        Box::pin(std::future::ready(Err(TransportError { message })))
    }
}
