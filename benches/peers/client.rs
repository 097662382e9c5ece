//! The client side of both gRPC systems: the generated client over one hyper HTTP/2 connection.

use std::{
    path::Path,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use snakepit_proto::v1::{CallRequest, call_response::Outcome, worker_client::WorkerClient};
use tokio::net::UnixStream;
use tonic::body::Body;

use crate::{Error, Result};

/// One HTTP/2 connection; clones share it.
#[derive(Clone, Debug)]
pub struct Connection(http2::SendRequest<Body>);

impl tower_service::Service<http::Request<Body>> for Connection {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = std::result::Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<std::result::Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// A client for a worker that listens on a Unix path.
#[derive(Clone, Debug)]
pub struct Client(WorkerClient<Connection>);

impl Client {
    /// Connects; the connection is driven by a task that ends with it.
    pub async fn connect(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).await?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(async move {
            // The error of a lost connection reaches the calls on it.
            let _ = connection.await;
        });
        let client = WorkerClient::with_origin(Connection(sender), http::Uri::from_static("http://worker"));
        Ok(Self(
            client
                .max_decoding_message_size(usize::MAX)
                .max_encoding_message_size(usize::MAX),
        ))
    }

    /// Echoes encoded arguments and checks that as much comes back.
    pub async fn echo(&self, args: Bytes) -> Result<()> {
        let sent = args.len();
        let request = CallRequest {
            function: "echo".into(),
            args,
            ..CallRequest::default()
        };
        let answer = self.0.clone().call(request).await?.into_inner();
        match answer.outcome {
            Some(Outcome::Value(value)) if value.len() == sent => Ok(()),
            other => Err(Error::from(format!("the server answered something else: {other:?}"))),
        }
    }
}
