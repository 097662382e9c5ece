//! How many calls run at the same time, and on what.

use snakepit_proto::v1::{HandshakeRequest, handshake_request::ConcurrencyKind};

use crate::place::Place;

/// The most threads. Each is a thread of the operating system with a stack of its own.
pub(crate) const MAX_THREADS: u32 = 1000;
/// The most tasks of the event loop, well below the places there are.
pub(crate) const MAX_TASKS: u32 = Place::LIMIT / 2;

/// How many calls run at the same time, and on what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Concurrency {
    /// One after the other, on Python's main thread.
    One,
    /// Each on a thread of its own; at most so many.
    Threads(u32),
    /// Asynchronous functions on one event loop, others on threads; at most so many.
    Asyncio(u32),
}

impl Concurrency {
    /// What the host asks for, as far as it can be had.
    pub(crate) fn asked(request: &HandshakeRequest) -> Self {
        let told = match request.concurrency_kind() {
            ConcurrencyKind::Threads => Self::told(request.concurrency, 0),
            ConcurrencyKind::Asyncio => Self::told(0, request.concurrency),
            ConcurrencyKind::Unspecified => None,
        };
        // A host that leaves the choice to us knows nothing of its functions that would let them run side by side.
        told.unwrap_or(Self::One)
    }

    /// What one of two numbers asks for, as far as it can be had; `None` when both are 0.
    pub(crate) fn told(threads: u32, tasks: u32) -> Option<Self> {
        match (threads, tasks) {
            (0, 0) => None,
            (0, tasks) => Some(Self::Asyncio(tasks.min(MAX_TASKS))),
            (threads, _) => Some(Self::Threads(threads.min(MAX_THREADS))),
        }
    }

    /// Calls that run at the same time.
    pub(crate) fn limit(self) -> u32 {
        match self {
            Self::One => 1,
            Self::Threads(count) | Self::Asyncio(count) => count,
        }
    }
}
