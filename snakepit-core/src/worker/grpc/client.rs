//! Calls over the worker's connections.

use std::{sync::Arc, time::Duration};

use snakepit_proto::v1::{
    CallRequest, CallResponse, CancelRequest, PingRequest, ShutdownRequest, StreamRequest, StreamResponse,
    StreamStart, ValueInArena, stream_request::Message, stream_response,
    worker_control_client::WorkerControlClient,
};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::UnboundedReceiverStream};
use tonic::{Status, Streaming};

use super::data::Data;
use crate::{
    arena::{Arena, Placed},
    rpc::{Calls, Connection, MAX_MESSAGE_LEN},
    worker::{Aside, BoxFuture, ItemStream, Received, TransportError, WorkerClient},
};

pub(super) type Control = WorkerControlClient<Connection>;

pub(super) fn control(connection: Connection) -> Control {
    WorkerControlClient::with_origin(connection, Connection::origin())
        .max_decoding_message_size(MAX_MESSAGE_LEN)
        .max_encoding_message_size(MAX_MESSAGE_LEN)
}

/// A failed RPC, which says nothing of the worker: user code's errors travel inside of answers.
fn failed(status: &Status) -> TransportError {
    TransportError {
        message: format!("{:?}: {}", status.code(), status.message()),
    }
}

/// The ways to one worker.
#[derive(Debug)]
pub(super) struct GrpcClient {
    pub(super) data: Data,
    /// The socket that calls go over, where the worker reads one.
    pub(super) calls: Option<Calls>,
    pub(super) control: Control,
    /// The memory that it shares with the worker.
    pub(super) arena: Option<Arc<Arena>>,
}

impl GrpcClient {
    /// The request with large arguments where the worker finds them, and what keeps them there.
    fn place(&self, request: CallRequest, aside: &Aside) -> (CallRequest, Option<Placed>) {
        let arena = self.arena.as_ref();
        match arena.and_then(|arena| arena.place(&aside.args, &aside.kwargs)) {
            None => (aside.inline(request), None),
            Some(placed) => {
                let request = CallRequest {
                    blocks: Some(Box::new(placed.blocks.clone())),
                    ..request
                };
                (request, Some(placed))
            }
        }
    }

    async fn stream(
        data: Data,
        request: CallRequest,
        credit: u32,
        arena: Option<Arc<Arena>>,
        placed: Option<Placed>,
    ) -> Result<ItemStream, TransportError> {
        let (granted, grants) = mpsc::unbounded_channel();
        let start = Message::Start(StreamStart {
            call: Some(request),
            credit,
        });
        let later = UnboundedReceiverStream::new(grants).map(Message::Credit);
        let messages = tokio_stream::once(start).chain(later);
        let messages = messages.map(|message| StreamRequest {
            message: Some(message),
        });
        let answers = data
            .client()
            .await?
            .call_stream(messages)
            .await
            .map_err(|status| failed(&status))?
            .into_inner();
        // The worker sends no more items than were granted, so this never waits for long; one more for the
        // error that may follow the last item.
        let (items, receiver) = mpsc::channel(credit as usize + 1);
        let forward = Forward {
            items,
            arena,
            _placed: placed,
            ended: false,
        };
        tokio::spawn(forward.run(answers));
        Ok(ItemStream {
            items: receiver,
            credit: granted,
        })
    }
}

/// Hands on what a stream yields. Dropped with its runtime before the end, it says so: a stream that was cut off must not look
/// complete.
struct Forward {
    items: mpsc::Sender<Result<StreamResponse, TransportError>>,
    arena: Option<Arc<Arena>>,
    /// The function may read its arguments until the stream ends.
    _placed: Option<Placed>,
    ended: bool,
}

impl Forward {
    async fn run(mut self, mut answers: Streaming<StreamResponse>) {
        while !self.ended {
            let answer = tokio::select! {
                answer = answers.message() => answer,
                () = self.items.closed() => Ok(None),
            };
            let (item, last) = match answer {
                Ok(Some(item)) => {
                    let item = self.received(item);
                    let failed = item.is_err();
                    (item, failed)
                }
                Ok(None) => break,
                Err(status) => (Err(failed(&status)), true),
            };
            self.ended = self.items.send(item).await.is_err() || last;
        }
        self.ended = true;
    }

    /// The message, with what it refers to in it.
    fn received(&self, response: StreamResponse) -> Result<StreamResponse, TransportError> {
        let StreamResponse {
            call_id,
            message: Some(stream_response::Message::InArena(value)),
        } = response
        else {
            return Ok(response);
        };
        let item = receive(self.arena.as_ref(), value).and_then(Received::inline);
        let item = item.map_err(|why| TransportError {
            message: format!("the worker sent an item that is none: {why}"),
        })?;
        Ok(StreamResponse {
            call_id,
            message: Some(stream_response::Message::Item(item)),
        })
    }
}

fn receive(arena: Option<&Arc<Arena>>, value: ValueInArena) -> Result<Received, String> {
    let arena = arena.ok_or("it refers to shared memory, and the worker was sent none")?;
    Received::new(arena, value)
}

impl Drop for Forward {
    fn drop(&mut self) {
        if !self.ended {
            // The channel has room for one more than was granted; an error says that nobody listens.
            let _ = self.items.try_send(Err(TransportError {
                message: "the runtime that received the stream is gone".into(),
            }));
        }
    }
}

impl WorkerClient for GrpcClient {
    fn call(&self, request: CallRequest) -> BoxFuture<Result<CallResponse, TransportError>> {
        if let Some(calls) = &self.calls {
            let calls = calls.clone();
            return Box::pin(async move {
                calls.call(&request).await.unwrap_or_else(|_| {
                    Err(TransportError {
                        message: "the socket of calls is gone".into(),
                    })
                })
            });
        }
        let data = self.data.clone();
        Box::pin(async move {
            Ok(data
                .client()
                .await?
                .call(request)
                .await
                .map_err(|status| failed(&status))?
                .into_inner())
        })
    }

    fn call_stream(
        &self,
        request: CallRequest,
        credit: u32,
    ) -> BoxFuture<Result<ItemStream, TransportError>> {
        let (data, arena) = (self.data.clone(), self.arena.clone());
        Box::pin(Self::stream(data, request, credit, arena, None))
    }

    fn call_with(
        &self,
        request: CallRequest,
        aside: Aside,
    ) -> BoxFuture<Result<CallResponse, TransportError>> {
        let (request, placed) = self.place(request, &aside);
        let call = self.call(request);
        Box::pin(async move {
            let answer = call.await;
            // The worker has answered, and has a hold on what it keeps; or it is lost; or the call is given up, which is when it
            // is over.
            drop(placed);
            answer
        })
    }

    fn call_stream_with(
        &self,
        request: CallRequest,
        aside: Aside,
        credit: u32,
    ) -> BoxFuture<Result<ItemStream, TransportError>> {
        let (request, placed) = self.place(request, &aside);
        let (data, arena) = (self.data.clone(), self.arena.clone());
        Box::pin(Self::stream(data, request, credit, arena, placed))
    }

    fn receive(&self, value: ValueInArena) -> Result<Received, String> {
        receive(self.arena.as_ref(), value)
    }

    fn cancel(&self, call_id: u64) -> BoxFuture<Result<bool, TransportError>> {
        let mut control = self.control.clone();
        Box::pin(async move {
            let request = CancelRequest {
                call_id,
                only_waiting: false,
            };
            let answer = control.cancel(request).await.map_err(|status| failed(&status))?;
            Ok(answer.into_inner().was_running)
        })
    }

    fn recall(&self, call_id: u64) -> BoxFuture<Result<(), TransportError>> {
        let mut control = self.control.clone();
        Box::pin(async move {
            let request = CancelRequest {
                call_id,
                only_waiting: true,
            };
            control.cancel(request).await.map_err(|status| failed(&status))?;
            Ok(())
        })
    }
}

/// Asks the control thread whether it lives.
pub(super) async fn ping(control: &Control) -> Result<(), TransportError> {
    control
        .clone()
        .ping(PingRequest {})
        .await
        .map_err(|status| failed(&status))?;
    Ok(())
}

/// Asks the worker to finish its running call within `grace` and to leave.
pub(super) async fn shutdown(control: &Control, grace: Duration) -> Result<(), TransportError> {
    let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
    control
        .clone()
        .shutdown(ShutdownRequest { grace_ms })
        .await
        .map_err(|status| failed(&status))?;
    Ok(())
}
