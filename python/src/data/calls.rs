//! Calls over a socket of their own, one after the other.

use std::{future::poll_fn, io, os::unix::net::UnixStream, pin::pin, sync::Arc, task::Poll, time::Duration};

use snakepit_proto::{
    frames::{self, FrameReader, FrameWriter},
    v1::CallRequest,
};
use tokio::{sync::watch, task::yield_now, time::Instant};

use super::{lookout::Lookout, named};
use crate::call::Engine;

/// Signals, commands and streams have their turn this often while calls come upon calls. Each turn is a system call.
const TURN: Duration = Duration::from_millis(1);

/// Answers the calls that come over the socket, until the host closes it, or the worker leaves and what is there has been answered.
/// The next call is taken when the one before it has been answered. The socket is closed when what this yields is dropped.
///
/// # Errors
/// When the socket fails, or what comes is no call.
pub(crate) async fn serve(
    socket: UnixStream,
    engine: Arc<Engine>,
    mut leaving: watch::Receiver<bool>,
) -> io::Result<(FrameReader, FrameWriter)> {
    let (mut requests, mut answers) = frames::split(socket)?;
    // Waited for once, since beginning to wait costs more than looking again.
    let mut left = pin!(leaving.wait_for(|leaving| *leaving));
    let mut is_leaving = false;
    let mut lookout = Lookout::new();
    let mut turn = Instant::now();
    loop {
        lookout.look(&mut requests);
        if is_leaving {
            // What has come while the stop hooks ran is not known before the runtime has looked.
            yield_now().await;
        }
        let mut waited = false;
        let next = poll_fn(|cx| {
            let next = requests.poll_next::<CallRequest>(cx);
            if next.is_pending() && is_leaving {
                return Poll::Ready(Ok(None));
            }
            waited |= next.is_pending();
            next
        });
        let request = tokio::select! {
            // What is there is answered before the worker leaves.
            biased;
            request = next => request?,
            // An error means that the sockets are being closed.
            _ = &mut left, if !is_leaving => {
                is_leaving = true;
                continue;
            }
        };
        let Some(request) = request else {
            return Ok((requests, answers));
        };
        lookout.came();
        if !waited && turn.elapsed() > TURN {
            yield_now().await;
            waited = true;
        }
        if waited {
            turn = Instant::now();
        }
        engine.answer(named(request), &mut answers).await?;
        lookout.answered();
    }
}
