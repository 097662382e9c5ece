//! One HTTP/2 connection to a worker.
//!
//! It belongs to one incarnation of a worker and never reconnects: when it is closed, it stays closed. The h2 crate is
//! used directly, without the layers of a general HTTP client on top: each costs a call a hand-over between tasks and
//! none has a purpose here (see ADR-003).

use std::{
    fmt, io,
    os::unix::net::UnixStream,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Request, Response, Uri};
use http_body::{Body as HttpBody, Frame};
use snakepit_proto::stream::{ChannelStream, Coalesced};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;

use crate::worker::BoxFuture;

/// The largest message either side accepts, in bytes: gRPC's own length is 32 bits, and a usize must hold it.
pub const MAX_MESSAGE_LEN: usize = snakepit_proto::frames::MAX_LEN;

/// Flow-control window of a stream and of the connection, in bytes. Both ends are on one machine and a message is
/// collected whole anyway, so the window only has to be large enough not to stall a large message.
const WINDOW: u32 = 16 * 1024 * 1024;

/// Largest HTTP/2 frame accepted, in bytes; a large message then takes few frames.
const MAX_FRAME: u32 = 1024 * 1024;

/// Requests open at the same time before the worker has announced its own limit. A pool sends far fewer.
const INITIAL_STREAMS: usize = 1024;

/// The connection could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The socket cannot be used.
    #[error("cannot use the channel's socket")]
    Socket(#[from] io::Error),
    /// HTTP/2 did not begin.
    #[error("cannot begin HTTP/2 on the channel")]
    Http2(#[from] h2::Error),
}

/// A connection to a worker; clones share it. Usable as the transport of a generated tonic client.
#[derive(Clone)]
pub struct Connection {
    sender: SendRequest<Bytes>,
    closed: CancellationToken,
}

impl Connection {
    /// Begins HTTP/2 on a connected Unix socket. Returns at once: the peer need not have answered anything yet.
    ///
    /// # Errors
    /// When the socket cannot be registered.
    ///
    /// # Panics
    /// Outside of a tokio runtime: the connection is driven by a task.
    pub async fn open(socket: UnixStream) -> Result<Self, ConnectionError> {
        let (stream, output) = ChannelStream::new(socket)?;
        let (sender, connection) = handshake(stream).await?;
        Ok(Self::drive(sender, Coalesced::new(connection, output)))
    }

    /// Begins HTTP/2 on any byte stream, as to a worker on another machine.
    ///
    /// # Errors
    /// When the stream fails before the client's preface is written.
    ///
    /// # Panics
    /// As [`open`](Self::open).
    pub async fn over<I>(stream: I) -> Result<Self, ConnectionError>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = handshake(stream).await?;
        Ok(Self::drive(sender, connection))
    }

    fn drive(
        sender: SendRequest<Bytes>,
        connection: impl Future<Output = Result<(), h2::Error>> + Send + 'static,
    ) -> Self {
        let closed = CancellationToken::new();
        let done = closed.clone().drop_guard();
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a worker's connection ended");
            }
            drop(done);
        });
        Self { sender, closed }
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

async fn handshake<I>(stream: I) -> Result<(SendRequest<Bytes>, h2::client::Connection<I, Bytes>), h2::Error>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    h2::client::Builder::new()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_frame_size(MAX_FRAME)
        .initial_max_send_streams(INITIAL_STREAMS)
        .enable_push(false)
        .handshake(stream)
        .await
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("closed", &self.closed.is_cancelled())
            .finish_non_exhaustive()
    }
}

impl tower_service::Service<Request<Body>> for Connection {
    type Response = Response<ResponseBody>;
    type Error = tonic::Status;
    type Future = BoxFuture<Result<Self::Response, tonic::Status>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), tonic::Status>> {
        self.sender.poll_ready(cx).map_err(status)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (head, body) = request.into_parts();
        let sent = self.sender.send_request(Request::from_parts(head, ()), false);
        Box::pin(async move {
            let (response, stream) = sent.map_err(status)?;
            let mut upload = Upload {
                body,
                stream,
                ahead: None,
            };
            // A unary call's message is there at once; a stream of messages is sent by a task as it comes.
            if std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut upload).poll(cx)))
                .await
                .is_pending()
            {
                tokio::spawn(upload);
            }
            Ok(response
                .await
                .map_err(status)?
                .map(|stream| ResponseBody { stream }))
        })
    }
}

/// A failed request. What it means for the worker is read from its process, not from this.
fn status(error: h2::Error) -> tonic::Status {
    tonic::Status::unavailable(error.to_string())
}

/// Sends a request's body. Errors end it: the answer tells what happened.
struct Upload {
    body: Body,
    stream: h2::SendStream<Bytes>,
    /// A frame held back until it is known whether it is the last, which saves an empty one after it.
    ahead: Option<Bytes>,
}

impl Future for Upload {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        loop {
            let next = Pin::new(&mut this.body).poll_frame(cx);
            let held = match &next {
                Poll::Ready(None) => {
                    let last = this.ahead.take().unwrap_or_default();
                    // The stream may have been reset meanwhile: nobody wants the rest.
                    let _ = this.stream.send_data(last, true);
                    return Poll::Ready(());
                }
                Poll::Ready(Some(_)) | Poll::Pending => this.ahead.take(),
            };
            if let Some(frame) = held
                && this.stream.send_data(frame, false).is_err()
            {
                return Poll::Ready(());
            }
            match ready!(next) {
                Some(Ok(frame)) => this.ahead = frame.into_data().ok(),
                Some(Err(_)) | None => {
                    this.stream.send_reset(h2::Reason::CANCEL);
                    return Poll::Ready(());
                }
            }
        }
    }
}

/// The body of an answer.
#[derive(Debug)]
pub struct ResponseBody {
    stream: h2::RecvStream,
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        match ready!(self.stream.poll_data(cx)) {
            Some(Ok(data)) => {
                // Fails only for more than was received.
                let _ = self.stream.flow_control().release_capacity(data.len());
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(status(error)))),
            None => {
                let trailers = ready!(self.stream.poll_trailers(cx)).map_err(status)?;
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }
}
