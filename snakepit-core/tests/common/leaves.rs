//! Callers that leave at a chosen point.

#![allow(unreachable_pub, reason = "more than one test file has it as a module")]

use std::{future::poll_fn, pin::pin, task::Poll};

/// When a caller leaves.
#[derive(Clone, Copy, Debug)]
pub enum Leaves {
    /// As soon as it has to wait.
    Waiting,
    /// When it is told to go on, before it has: what it waited for may be its own by then.
    Woken,
}

/// Polls a future so many times, whenever it wants to be, and then drops it. What it resolved to, if it did before.
pub async fn polled<T>(times: usize, leaves: Leaves, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut left = times;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match (future.as_mut().poll(context), leaves) {
            (Poll::Ready(value), _) => Poll::Ready(Some(value)),
            (Poll::Pending, Leaves::Waiting) if left == 0 => Poll::Ready(None),
            (Poll::Pending, _) => Poll::Pending,
        }
    })
    .await
}
