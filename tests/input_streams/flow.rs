//! How far a stream is read ahead of the function.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use snakepit::{Concurrency, Value};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::{Stream, StreamExt as _, wrappers::UnboundedReceiverStream};

use crate::{
    common::PATIENCE,
    support::{numbers, pool, stalling, with_input},
};

/// The default credits of both directions.
const CREDIT: u64 = 16;

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_items_go_through_with_both_credits_as_the_bound() {
    for (mode, form) in [
        (Concurrency::One, "doubled"),
        (Concurrency::Threads(2), "doubled"),
        (Concurrency::Asyncio(2), "doubled_async"),
    ] {
        let count = if mode == Concurrency::One { 100_000 } else { 10_000 };
        let pool = pool(mode).await;
        let (stream, watch) = numbers(count);
        let mut items = with_input(&pool, form, stream).stream::<u64>().await.unwrap();
        let mut furthest = 0;
        for number in 0..count {
            assert_eq!(items.next().await.unwrap().unwrap(), 2 * number);
            furthest = furthest.max(watch.read() - (number + 1));
        }
        assert!(items.next().await.is_none());
        // As many as the function may have yielded, and as many as it may not have taken.
        assert!((1..=2 * CREDIT).contains(&furthest), "{mode:?}: {furthest}");
        pool.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_pauses_stops_the_producer() {
    let pool = pool(Concurrency::One).await;
    let (stream, watch) = numbers(1000);
    let request = pool.request("reads_input:doubled").credit(1);
    let request = request.input(stream).input_credit(4);
    let mut items = request.stream::<u64>().await.unwrap();
    for number in 0..20 {
        assert_eq!(items.next().await.unwrap().unwrap(), 2 * number);
        sleep(Duration::from_millis(20)).await;
        // One more is yielded, and four are on their way.
        assert!(watch.read() <= number + 1 + 1 + 4, "{} at {number}", watch.read());
    }
    drop(items);
    watch.until_dropped().await;
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_read_that_the_function_did_not_ask_for() {
    let pool = pool(Concurrency::One).await;
    let (stream, watch) = numbers(1000);
    let answer: String = with_input(&pool, "ignores", stream).send().await.unwrap();
    assert_eq!((&*answer, watch.read()), ("not read", 0));
    let (stream, watch) = stalling(1000);
    let request = with_input(&pool, "first", stream).input_credit(3);
    let error = request.send::<Value>().await.unwrap_err();
    assert!(
        error.to_string().contains("failed"),
        "it lacks an argument: {error}"
    );
    assert_eq!(watch.read(), 0);
    let (stream, watch) = stalling(1000);
    let request = pool.request("reads_input:first").args(&(1,)).unwrap();
    let taken: Vec<u64> = request.input(stream).input_credit(3).send().await.unwrap();
    assert_eq!(taken, [0]);
    watch.until_dropped().await;
    assert!(watch.read() <= 1 + 3, "{}", watch.read());
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_items_are_bounded_in_bytes_as_well() {
    const SIZE: usize = 8 << 20;
    let pool = pool(Concurrency::One).await;
    let (stream, watch) = numbers(12);
    let stream = stream.map(|_| Value::Bytes(Bytes::from(vec![7; SIZE])));
    let request = pool.request("reads_input:sizes").credit(1).input(stream);
    let mut items = request.stream::<usize>().await.unwrap();
    for number in 0..12 {
        assert_eq!(items.next().await.unwrap().unwrap(), SIZE);
        if number < 4 {
            sleep(Duration::from_millis(100)).await;
        }
        // One more is yielded, and the 16 MiB that may be on their way take two.
        assert!(watch.read() <= number + 1 + 1 + 2, "{} at {number}", watch.read());
    }
    assert!(items.next().await.is_none());
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dialogue_in_which_each_side_waits_for_the_other_goes_on() {
    for (mode, form) in [
        (Concurrency::One, "doubled"),
        (Concurrency::One, "doubled_async"),
        (Concurrency::Threads(2), "doubled"),
        (Concurrency::Asyncio(2), "doubled_async"),
    ] {
        let pool = pool(mode).await;
        let (say, said) = mpsc::unbounded_channel();
        let request = with_input(&pool, form, UnboundedReceiverStream::new(said));
        let mut items = request.stream::<u64>().await.unwrap();
        for number in 0..200_u64 {
            say.send(number).unwrap();
            let answer = timeout(PATIENCE, items.next()).await;
            let answer = answer.unwrap_or_else(|_| panic!("{mode:?} {form}: nothing came of {number}"));
            assert_eq!(answer.unwrap().unwrap(), 2 * number);
        }
        drop(say);
        assert!(items.next().await.is_none());
        pool.shutdown().await;
    }
}

/// Numbers up to a last one, none of them there when it is first asked for.
struct OneByOne {
    number: u64,
    last: u64,
    ready: bool,
}

impl Stream for OneByOne {
    type Item = u64;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<u64>> {
        self.ready = !self.ready;
        if !self.ready {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.number += 1;
        Poll::Ready((self.number <= self.last).then_some(self.number))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_gives_its_items_one_by_one_is_read_to_its_end() {
    let pool = pool(Concurrency::One).await;
    let stream = OneByOne {
        number: 0,
        last: 500,
        ready: true,
    };
    let sum: u64 = pool.request("builtins:sum").input(stream).send().await.unwrap();
    assert_eq!(sum, 500 * 501 / 2);
    pool.shutdown().await;
}
