//! Calls over the worker's connections.

use std::time::Duration;

use snakepit_proto::v1::{
    CallRequest, CallResponse, CancelRequest, PingRequest, ShutdownRequest, StreamRequest, StreamResponse,
    StreamStart, stream_request::Message, worker_client::WorkerClient as DataClient,
    worker_control_client::WorkerControlClient,
};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::UnboundedReceiverStream};
use tonic::{Status, Streaming};

use crate::{
    rpc::{Connection, MAX_MESSAGE_LEN},
    worker::{BoxFuture, ItemStream, TransportError, WorkerClient},
};

pub(super) type Data = DataClient<Connection>;
pub(super) type Control = WorkerControlClient<Connection>;

pub(super) fn data(connection: Connection) -> Data {
    DataClient::with_origin(connection, Connection::origin())
        .max_decoding_message_size(MAX_MESSAGE_LEN)
        .max_encoding_message_size(MAX_MESSAGE_LEN)
}

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

/// The data and control connections of one worker.
#[derive(Debug)]
pub(super) struct GrpcClient {
    pub(super) data: Data,
    pub(super) control: Control,
}

/// Hands on what a stream yields. Dropped with its runtime before the end, it says so: a stream that was cut off must not look
/// complete.
struct Forward {
    items: mpsc::Sender<Result<StreamResponse, TransportError>>,
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
                Ok(Some(item)) => (Ok(item), false),
                Ok(None) => break,
                Err(status) => (Err(failed(&status)), true),
            };
            self.ended = self.items.send(item).await.is_err() || last;
        }
        self.ended = true;
    }
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
        let mut data = self.data.clone();
        Box::pin(async move {
            Ok(data
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
        let mut data = self.data.clone();
        Box::pin(async move {
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
                .call_stream(messages)
                .await
                .map_err(|status| failed(&status))?
                .into_inner();
            // The worker sends no more items than were granted, so this never waits for long; one more for the
            // error that may follow the last item.
            let (items, receiver) = mpsc::channel(credit as usize + 1);
            tokio::spawn(Forward { items, ended: false }.run(answers));
            Ok(ItemStream {
                items: receiver,
                credit: granted,
            })
        })
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
