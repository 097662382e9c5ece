//! The `Worker` service: takes calls off a connection and hands them to the engine, either right here (inline,
//! when the connection is served on Python's main thread) or across to the threads that run them.

pub(crate) mod calls;
mod lookout;

use std::{pin::Pin, sync::Arc};

use bytes::Bytes;
use snakepit_proto::v1::{
    CallRequest, CallResponse, StreamRequest, StreamResponse, stream_request, worker_server::Worker,
};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use crate::{
    call::Engine,
    credit::Credit,
    jobs::{Consumer, Job, Jobs},
};

/// Items between the producer and the connection. Credit is what bounds a stream; this only keeps a producer
/// with much credit from encoding far ahead of the socket.
const ITEMS_UNDER_WAY: usize = 4;

/// What runs the end hooks of the session of a call.
const END_SESSION: &str = "snakepit._session:end";

/// Where calls run.
#[derive(Clone)]
pub(crate) enum Data {
    /// On the thread that serves the connection, which is Python's main thread.
    Inline(Arc<Engine>),
    /// On other threads.
    Hop(Arc<Jobs>),
}

impl Data {
    async fn run_call(&self, request: CallRequest) -> Result<CallResponse, Status> {
        let request = named(request);
        match self {
            Self::Inline(engine) => Ok(engine.call(request).await),
            Self::Hop(jobs) => {
                let (sender, receiver) = oneshot::channel();
                jobs.push(Job {
                    request,
                    consumer: Consumer::Call(sender),
                    turn: None,
                });
                receiver.await.map_err(|_| leaving())
            }
        }
    }
}

/// The end of a session is a call of a function of our own.
fn named(request: CallRequest) -> CallRequest {
    if !request.end_session {
        return request;
    }
    CallRequest {
        function: END_SESSION.to_owned(),
        args: Bytes::new(),
        kwargs: Bytes::new(),
        ..request
    }
}

fn leaving() -> Status {
    Status::unavailable("the worker is leaving")
}

#[tonic::async_trait]
impl Worker for Data {
    async fn call(&self, request: Request<CallRequest>) -> Result<Response<CallResponse>, Status> {
        self.run_call(request.into_inner()).await.map(Response::new)
    }

    type CallStreamStream = Pin<Box<dyn Stream<Item = Result<StreamResponse, Status>> + Send>>;

    async fn call_stream(
        &self,
        request: Request<Streaming<StreamRequest>>,
    ) -> Result<Response<Self::CallStreamStream>, Status> {
        let mut requests = request.into_inner();
        let (call, first) = match requests
            .next()
            .await
            .transpose()?
            .and_then(|request| request.message)
        {
            Some(stream_request::Message::Start(start)) => match start.call {
                Some(call) => (named(call), start.credit.max(1)),
                None => return Err(Status::invalid_argument("the stream's start has no call")),
            },
            Some(stream_request::Message::Credit(_)) | None => {
                return Err(Status::invalid_argument(
                    "the first message of a stream must be its start",
                ));
            }
        };
        let credit = Arc::new(Credit::new(first));
        let (sender, receiver) = mpsc::channel(ITEMS_UNDER_WAY);
        tokio::spawn(take_credit(requests, Arc::clone(&credit)));
        match self {
            Self::Inline(engine) => {
                let (engine, taker) = (Arc::clone(engine), Arc::clone(engine));
                tokio::spawn(async move { engine.stream(call, &credit, &sender).await });
                let items = ReceiverStream::new(receiver).map(move |item| {
                    taker.item_taken();
                    item
                });
                Ok(Response::new(Box::pin(items)))
            }
            Self::Hop(jobs) => {
                jobs.push(Job {
                    request: call,
                    consumer: Consumer::Stream(credit, sender),
                    turn: None,
                });
                Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
            }
        }
    }
}

/// Reads the consumer's grants until it has no more, or the stream is over.
async fn take_credit(mut requests: Streaming<StreamRequest>, credit: Arc<Credit>) {
    loop {
        // A client need not close its side at the end; held on to, the stream would stay half open.
        let request = tokio::select! {
            request = requests.next() => request,
            () = credit.ended() => return,
        };
        match request {
            Some(Ok(StreamRequest {
                message: Some(stream_request::Message::Credit(more)),
            })) => credit.grant(more),
            // A second start is no grant; an unknown message is from a later version.
            Some(Ok(_)) => {}
            // A reset arrives here as an error, and the response's receiver is dropped with it.
            Some(Err(_)) | None => break,
        }
    }
    credit.close();
}
