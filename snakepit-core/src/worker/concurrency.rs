//! How many calls a worker runs at the same time.

use snakepit_proto::v1::handshake_request::ConcurrencyKind;

/// How many calls a worker runs at the same time, and on what.
///
/// A worker is asked for it when it is started, and says what it does; it is lent to no more calls than that. Our runtime does as it is
/// asked, up to 1,000 threads and 32,768 tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Concurrency {
    /// One after the other, on Python's main thread; the default, and the quickest for calls that compute. A program other than our
    /// runtime that says it runs more is lent to more.
    #[default]
    One,
    /// Each on a thread of its own, at most so many; at least 1. For functions that wait, or that compute without the GIL.
    Threads(u32),
    /// `async def` functions as tasks of one event loop, at most so many calls; at least 1. Other functions run on threads
    /// beside it, at most 40 of them at once.
    Asyncio(u32),
}

impl Concurrency {
    /// What is asked for.
    pub(crate) fn asked(self) -> (ConcurrencyKind, u32) {
        match self {
            Self::One => (ConcurrencyKind::Unspecified, 1),
            Self::Threads(count) => (ConcurrencyKind::Threads, count.max(1)),
            Self::Asyncio(count) => (ConcurrencyKind::Asyncio, count.max(1)),
        }
    }

    /// Calls to lend a worker to at the same time that answered so.
    pub(crate) fn agreed(self, answered: u32) -> usize {
        let most = match self {
            Self::One => u32::MAX,
            Self::Threads(count) | Self::Asyncio(count) => count,
        };
        answered.min(most).max(1) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_lent_what_it_says_and_no_more_than_was_asked_for() {
        let cases = [
            (Concurrency::One, 0, 1),
            (Concurrency::One, 1, 1),
            (Concurrency::One, 8, 8),
            (Concurrency::Threads(4), 0, 1),
            (Concurrency::Threads(4), 2, 2),
            (Concurrency::Threads(4), 9, 4),
            (Concurrency::Threads(1), 9, 1),
            (Concurrency::Asyncio(0), 9, 1),
        ];
        for (asked, answered, agreed) in cases {
            assert_eq!(asked.agreed(answered), agreed, "{asked:?} answered {answered}");
        }
    }
}
