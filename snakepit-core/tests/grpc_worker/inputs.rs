//! Inputs of calls, asked for by a worker that may say anything.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use snakepit_core::{
    host::HostFunctions,
    rpc::codec,
    worker::{Input, StartTurn, Worker, WorkerFactory as _},
};
use snakepit_proto::v1::{
    HostRequest, InputGrant, InputItems, host_request::Message, host_response::Outcome,
};
use tokio::time::timeout;
use tokio_stream::Stream;

use super::{
    LIMIT, SLOT,
    fake::{Fault, HostStream, Stage, lock},
    until,
};

/// Numbers up to an end, and what becomes of them.
#[derive(Clone, Default)]
struct Numbers {
    end: u64,
    read: Arc<AtomicU64>,
    dropped: Arc<AtomicBool>,
}

struct Source(Numbers);

impl Stream for Source {
    type Item = u64;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<u64>> {
        let number = self.0.read.load(Ordering::SeqCst);
        if number == self.0.end {
            return Poll::Ready(None);
        }
        self.0.read.store(number + 1, Ordering::SeqCst);
        Poll::Ready(Some(number))
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.0.dropped.store(true, Ordering::SeqCst);
    }
}

impl Numbers {
    fn up_to(end: u64) -> (Input, Self) {
        let numbers = Self {
            end,
            ..Self::default()
        };
        (Input::new(Source(numbers.clone())), numbers)
    }

    async fn until_dropped(&self) {
        until(|| self.dropped.load(Ordering::SeqCst)).await;
    }

    fn read(&self) -> u64 {
        self.read.load(Ordering::SeqCst)
    }
}

async fn start(stage: &Arc<Stage>) -> Arc<dyn Worker> {
    let factory = stage.factory(|spec| spec.host_functions = HostFunctions::new());
    factory.start(SLOT, StartTurn::now()).await.unwrap()
}

/// The worker's half of the stream, which the first input opens.
async fn opened(stage: &Stage) -> HostStream {
    until(|| lock(&stage.host).is_some()).await;
    lock(&stage.host).take().unwrap()
}

fn grant(stream: &HostStream, call_id: u64, items: u32) {
    let message = Some(Message::Grant(InputGrant { call_id, items }));
    stream.requests.send(Ok(HostRequest { message })).unwrap();
}

async fn received(stream: &mut HostStream) -> InputItems {
    let answer = timeout(LIMIT, stream.responses.message()).await.unwrap();
    match answer.unwrap().unwrap().outcome.unwrap() {
        Outcome::Input(items) => items,
        other => panic!("{other:?}"),
    }
}

fn encoded(numbers: std::ops::Range<u64>) -> Vec<bytes::Bytes> {
    numbers.map(|number| codec::encode(&number).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_opened_for_the_first_input_and_read_as_far_as_it_grants() {
    let stage = Stage::with(&[]);
    let worker = start(&stage).await;
    assert!(
        lock(&stage.host).is_none(),
        "no worker pays for what it does not use"
    );
    let (input, numbers) = Numbers::up_to(10);
    let feed = worker.feed(1, input).unwrap();
    let mut stream = opened(&stage).await;
    assert_eq!(numbers.read(), 0);
    for (granted, expected) in [(3, 0..3), (1, 3..4), (4, 4..8)] {
        grant(&stream, 1, granted);
        let items = received(&mut stream).await;
        assert_eq!((items.call_id, items.end), (1, false));
        assert_eq!(items.items, encoded(expected.clone()));
        assert_eq!(numbers.read(), expected.end);
    }
    // No more are there than are granted, however many.
    grant(&stream, 1, u32::MAX);
    grant(&stream, 1, u32::MAX);
    let items = received(&mut stream).await;
    assert_eq!(
        (items.items, items.end, items.error),
        (encoded(8..10), true, None)
    );
    numbers.until_dropped().await;
    // What comes late, or for nobody, does no harm.
    grant(&stream, 1, 1);
    grant(&stream, 99, 1);
    drop(feed);
    let (input, again) = Numbers::up_to(1);
    let _feed = worker.feed(2, input).unwrap();
    grant(&stream, 2, 1);
    assert_eq!(received(&mut stream).await.items, encoded(0..1));
    assert_eq!(again.read(), 1);
    worker.end(Duration::ZERO, Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_is_dropped_by_either_side_and_with_the_stream() {
    let stage = Stage::with(&[]);
    let worker = start(&stage).await;
    let (input, by_the_worker) = Numbers::up_to(10);
    let _held = worker.feed(1, input).unwrap();
    let stream = opened(&stage).await;
    let message = Some(Message::Leave(1));
    stream.requests.send(Ok(HostRequest { message })).unwrap();
    by_the_worker.until_dropped().await;

    let (input, by_the_host) = Numbers::up_to(10);
    drop(worker.feed(2, input).unwrap());
    by_the_host.until_dropped().await;

    let (input, with_the_stream) = Numbers::up_to(10);
    let _held = worker.feed(3, input).unwrap();
    drop(stream);
    with_the_stream.until_dropped().await;
    // Nor is a later one kept that nobody can ask for.
    let (input, later) = Numbers::up_to(10);
    let _held = worker.feed(4, input).unwrap();
    later.until_dropped().await;
    worker.end(Duration::ZERO, Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_the_capability_takes_none() {
    let stage = Stage::with(&[Fault::Hostless]);
    let worker = start(&stage).await;
    let (input, numbers) = Numbers::up_to(10);
    assert!(worker.feed(1, input).is_err());
    assert!(numbers.dropped.load(Ordering::SeqCst) && numbers.read() == 0);
    worker.end(Duration::ZERO, Duration::ZERO).await;
}
