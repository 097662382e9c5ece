//! What these tests share: streams that tell how far they were read, and when they were dropped.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use snakepit::{Concurrency, InputRequest, Pool};
use tokio_stream::Stream;

use crate::common::{builder, until};

/// A deadline that a test lets pass.
pub(crate) const SHORT: Duration = Duration::from_secs(1);

/// What is known of a stream from outside.
#[derive(Clone, Default)]
pub(crate) struct Watch {
    read: Arc<AtomicU64>,
    dropped: Arc<AtomicBool>,
}

impl Watch {
    /// How many items were read.
    pub(crate) fn read(&self) -> u64 {
        self.read.load(Ordering::SeqCst)
    }

    pub(crate) fn is_dropped(&self) -> bool {
        self.dropped.load(Ordering::SeqCst)
    }

    pub(crate) async fn until_read(&self, count: u64) {
        until("the stream was read", async || self.read() >= count).await;
    }

    pub(crate) async fn until_dropped(&self) {
        until("the stream is dropped", async || self.is_dropped()).await;
    }
}

/// Numbers from 0 on.
pub(crate) struct Numbers {
    watch: Watch,
    /// Whether it ends there, or has nothing more to give.
    ends: bool,
    count: u64,
}

impl Stream for Numbers {
    type Item = u64;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<u64>> {
        let number = self.watch.read();
        if number < self.count {
            self.watch.read.store(number + 1, Ordering::SeqCst);
            Poll::Ready(Some(number))
        } else if self.ends {
            Poll::Ready(None)
        } else {
            Poll::Pending
        }
    }
}

impl Drop for Numbers {
    fn drop(&mut self) {
        self.watch.dropped.store(true, Ordering::SeqCst);
    }
}

/// So many numbers, and then the end.
pub(crate) fn numbers(count: u64) -> (Numbers, Watch) {
    let watch = Watch::default();
    let numbers = Numbers {
        watch: watch.clone(),
        ends: true,
        count,
    };
    (numbers, watch)
}

/// So many numbers, and then nothing for ever.
pub(crate) fn stalling(count: u64) -> (Numbers, Watch) {
    let (mut numbers, watch) = numbers(count);
    numbers.ends = false;
    (numbers, watch)
}

/// All the ways a worker runs calls, each with a function that reads plainly and one that is asynchronous.
pub(crate) const MODES: [Concurrency; 3] =
    [Concurrency::One, Concurrency::Threads(4), Concurrency::Asyncio(4)];

pub(crate) async fn pool(concurrency: Concurrency) -> Pool {
    let builder = builder().adapter("reads_input").concurrency(concurrency);
    builder.start().await.unwrap()
}

pub(crate) fn with_input<'a, S>(pool: &'a Pool, function: &str, stream: S) -> InputRequest<'a>
where
    S: Stream<Item: serde::Serialize> + Send + 'static,
{
    pool.request(format!("reads_input:{function}")).input(stream)
}
