//! Calls over a socket of their own, one after the other.

use std::{future::poll_fn, io, os::unix::net::UnixStream, sync::Arc};

use snakepit_proto::{frames, v1::CallRequest};
use tokio::{sync::watch, task::yield_now};

use super::named;
use crate::call::Engine;

/// Answers the calls that come over the socket, until the host closes it, or the worker leaves and what is there has been answered.
/// The next call is taken when the one before it has been answered.
///
/// # Errors
/// When the socket fails, or what comes is no call.
pub(crate) async fn serve(
    socket: UnixStream,
    engine: Arc<Engine>,
    mut leaving: watch::Receiver<bool>,
) -> io::Result<()> {
    let (mut requests, mut answers) = frames::split(socket)?;
    let mut leaving = std::pin::pin!(async move {
        // An error means that the sockets are being closed.
        let _ = leaving.wait_for(|leaving| *leaving).await;
    });
    loop {
        let mut waited = false;
        let next = poll_fn(|cx| {
            let next = requests.poll_next::<CallRequest>(cx);
            waited |= next.is_pending();
            next
        });
        let request = tokio::select! {
            // What is there is answered before the worker leaves.
            biased;
            request = next => request?,
            () = leaving.as_mut() => None,
        };
        let Some(request) = request else {
            return Ok(());
        };
        if !waited {
            // Call upon call would leave no turn to signals, commands and streams.
            yield_now().await;
        }
        engine.answer(named(request), &mut answers).await?;
    }
}
