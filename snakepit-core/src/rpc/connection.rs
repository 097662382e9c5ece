//! One HTTP/2 connection to a worker.
//!
//! It belongs to one incarnation of a worker and never reconnects: when it is closed, it stays closed. Hyper's
//! client is used directly, without the buffering and reconnecting layers of tonic's channel, because each
//! costs a call a hand-over between tasks and neither has a purpose here.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response, Uri};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;

/// The largest message either side accepts, in bytes: gRPC's own length is 32 bits, and a usize must hold it.
pub const MAX_MESSAGE_LEN: usize = i32::MAX as usize;

/// Flow-control window of a stream and of the connection, in bytes. Both ends are on one machine and a message is
/// collected whole anyway, so the window only has to be large enough not to stall a large message.
const WINDOW: u32 = 16 * 1024 * 1024;

/// Largest HTTP/2 frame accepted, in bytes; a large message then takes few frames.
const MAX_FRAME: u32 = 1024 * 1024;

/// Bytes hyper may buffer per stream before it waits for the socket.
const SEND_BUFFER: usize = 1024 * 1024;

/// The connection could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot begin HTTP/2 on the channel")]
pub struct ConnectionError(#[from] hyper::Error);

/// A connection to a worker; clones share it. Usable as the transport of a generated tonic client.
#[derive(Clone)]
pub struct Connection {
    sender: SendRequest<Body>,
    closed: CancellationToken,
}

impl Connection {
    /// Begins HTTP/2 on a byte stream. Returns at once: the peer need not have answered anything yet.
    ///
    /// # Errors
    /// When the stream fails before the client's preface is buffered.
    ///
    /// # Panics
    /// Outside of a tokio runtime: the connection is driven by a task.
    pub async fn open<I>(io: I) -> Result<Self, ConnectionError>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_frame_size(MAX_FRAME)
            .max_send_buf_size(SEND_BUFFER)
            .handshake(TokioIo::new(io))
            .await?;
        let closed = CancellationToken::new();
        let done = closed.clone().drop_guard();
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a worker's connection ended");
            }
            drop(done);
        });
        Ok(Self { sender, closed })
    }

    /// Resolves when the connection is closed, by whichever side.
    ///
    /// # Cancel safety
    /// Safe; nothing is lost.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// The origin to give generated clients; what it names is not looked at.
    pub fn origin() -> Uri {
        Uri::from_static("http://worker")
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("closed", &self.closed.is_cancelled())
            .finish_non_exhaustive()
    }
}

impl tower_service::Service<Request<Body>> for Connection {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.sender.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.sender.send_request(request))
    }
}
