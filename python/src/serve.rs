//! HTTP/2 on one socket, without a transport server around it: hyper's connection and a router over the
//! generated services.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    os::unix::net::UnixStream,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use snakepit_proto::stream::{ChannelStream, Coalesced};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::yield_now,
};
use tonic::body::Body;

use crate::{
    router::{Reply, Router},
    timers::within,
};

/// Windows are large because the peer is one process on the same machine: a 64 MiB argument should stream
/// without stalling on window updates.
const WINDOW: u32 = 16 * 1024 * 1024;
/// Larger frames mean fewer of them for large values; small ones are unaffected.
const MAX_FRAME: u32 = 1024 * 1024;
/// What hyper buffers of a response before it waits for the socket.
const SEND_BUFFER: usize = 4 * 1024 * 1024;
/// Calls queue in order, so more of them than any pool sends may be open at once.
const MAX_STREAMS: u32 = 100_000;
/// How long a connection may take to flush when the worker leaves.
pub(crate) const FLUSH_LIMIT: Duration = Duration::from_millis(250);

/// Serves one inherited connection; as [`connection`], with messages that leave in one piece. Calls `turned` after each of its
/// turns, with whether what was to be said has been, or the socket is full.
///
/// # Errors
/// When the socket cannot be registered, or fails before anything has come.
pub(crate) async fn inherited(
    socket: UnixStream,
    router: Arc<Router>,
    leave: impl Future<Output = ()>,
    turned: impl Fn(bool),
) -> io::Result<()> {
    let (mut stream, output) = ChannelStream::new(socket)?;
    let mut leave = pin!(leave);
    // A host that calls no streams says nothing here, and HTTP/2 costs time and memory.
    let leaves = tokio::select! {
        biased;
        begun = stream.readable() => begun.map(|()| false)?,
        () = leave.as_mut() => {
            // What has come while the stop hooks ran is not known before the runtime has looked.
            yield_now().await;
            if poll_fn(|cx| Poll::Ready(pin!(stream.readable()).poll(cx))).await.is_pending() {
                return Ok(());
            }
            true
        }
    };
    let leave = async {
        if !leaves {
            leave.await;
        }
    };
    let connection = Box::pin(http2(stream, router));
    let mut connection = Coalesced::new(connection, output);
    let served = poll_fn(|cx| {
        let done = Pin::new(&mut connection).poll(cx);
        turned(!connection.is_full());
        done
    });
    tokio::select! {
        // It has to have begun before it can end well.
        biased;
        _ = served => {}
        () = leave => {
            connection.get_mut().as_mut().graceful_shutdown();
            within(FLUSH_LIMIT, connection).await;
        }
    }
    Ok(())
}

/// Serves one connection until its peer closes it. When `leave` completes, what is under way is finished and
/// flushed, within [`FLUSH_LIMIT`].
pub(crate) async fn connection<S>(socket: S, router: Arc<Router>, leave: impl Future<Output = ()>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut connection = std::pin::pin!(http2(socket, router));
    // How a connection ends, cleanly or not, makes no difference to what follows: its peer is gone.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = leave => {
            connection.as_mut().graceful_shutdown();
            within(FLUSH_LIMIT, connection).await;
        }
    }
}

fn http2<S>(socket: S, router: Arc<Router>) -> http2::Connection<TokioIo<S>, Routed, TokioExecutor>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    http2::Builder::new(TokioExecutor::new())
        .adaptive_window(false)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_send_buf_size(SEND_BUFFER)
        .max_concurrent_streams(MAX_STREAMS)
        // The limits against floods of resets would end the connection, and with it the worker, when many
        // callers give up while Python computes.
        .max_pending_accept_reset_streams(MAX_STREAMS as usize)
        .max_local_error_reset_streams(None)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(socket), Routed(router))
}

/// The router as hyper asks for it.
struct Routed(Arc<Router>);

impl hyper::service::Service<Request<Incoming>> for Routed {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Reply;

    fn call(&self, request: Request<Incoming>) -> Reply {
        self.0.route(request)
    }
}
