//! HTTP/2 on one socket, without a transport server around it: hyper's connection and a router over the
//! generated services.

use std::{future::Future, sync::Arc, time::Duration};

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::router::Router;

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

/// Serves one connection until its peer closes it. When `leave` completes, what is under way is finished and
/// flushed, within [`FLUSH_LIMIT`].
pub(crate) async fn connection<S>(socket: S, router: Arc<Router>, leave: impl Future<Output = ()>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
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
        .auto_date_header(false);
    let service = hyper::service::service_fn(move |request| router.route(request));
    let connection = builder.serve_connection(TokioIo::new(socket), service);
    let mut connection = std::pin::pin!(connection);
    // How a connection ends, cleanly or not, makes no difference to what follows: its peer is gone.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = leave => {
            connection.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(FLUSH_LIMIT, connection).await;
        }
    }
}
