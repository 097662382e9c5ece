//! The client of the grpcio servers: the generated one over the very connection type that the pool uses.

use std::path::Path;

use bytes::Bytes;
use snakepit_core::rpc::{Connection, MAX_MESSAGE_LEN};
use snakepit_proto::v1::{CallRequest, call_response::Outcome, worker_client::WorkerClient};
use tokio::net::UnixStream;

use crate::Result;

/// A client for a worker that listens on a Unix path; clones share its connection.
#[derive(Clone, Debug)]
pub(crate) struct Client(WorkerClient<Connection>);

impl Client {
    /// Connects to a server that listens.
    pub(crate) async fn connect(path: &Path) -> Result<Self> {
        let connection = Connection::open(UnixStream::connect(path).await?.into_std()?).await?;
        let client = WorkerClient::with_origin(connection, Connection::origin());
        Ok(Self(
            client
                .max_decoding_message_size(MAX_MESSAGE_LEN)
                .max_encoding_message_size(MAX_MESSAGE_LEN),
        ))
    }

    /// Echoes encoded arguments and checks that as much comes back.
    pub(crate) async fn echo(&self, args: Bytes) -> Result<()> {
        let sent = args.len();
        let request = CallRequest {
            function: "echo".into(),
            args,
            ..CallRequest::default()
        };
        let answer = self.0.clone().call(request).await?.into_inner();
        match answer.outcome {
            Some(Outcome::Value(value)) if value.len() == sent => Ok(()),
            other => Err(format!("the server answered something else: {other:?}").into()),
        }
    }
}
