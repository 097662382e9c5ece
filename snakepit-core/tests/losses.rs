//! What callers are told, and what becomes of workers, when connections, callers and deadlines fail at awkward moments.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use snakepit_core::{
    SlotId,
    event::Events,
    pool::{CallErrorKind, Pool, PoolBuilder},
    rpc::Value,
    testing::{FakeBehaviour, FakeWorkerFactory},
    worker::TransportError,
};
use tokio::time::{sleep, timeout};

const FOREVER: Duration = Duration::from_secs(3600);

fn builder(factory: &FakeWorkerFactory) -> PoolBuilder {
    Pool::builder(Arc::new(factory.clone()), Events::new("test")).workers(1)
}

async fn pool_of(behaviour: FakeBehaviour) -> (FakeWorkerFactory, Pool) {
    let factory = FakeWorkerFactory::new().with_behaviour(behaviour);
    let pool = builder(&factory).start().await.unwrap();
    (factory, pool)
}

fn failing() -> FakeBehaviour {
    FakeBehaviour::FailTransport("broken pipe".into())
}

#[tokio::test(start_paused = true)]
async fn a_deadline_of_zero_executes_nothing() {
    let (factory, pool) = pool_of(FakeBehaviour::Echo).await;
    let error = pool
        .request("any:function")
        .deadline(Duration::ZERO)
        .send::<Value>()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::DeadlineExceeded);
    assert!(!error.may_have_executed(), "{error}");
    let worker = factory.worker(SlotId(0)).unwrap();
    assert!(worker.fake_client().requests().is_empty());
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_whose_connection_failed_is_replaced_also_when_its_caller_has_left() {
    let (factory, pool) = pool_of(failing()).await;
    let worker = factory.worker(SlotId(0)).unwrap();
    factory.set_behaviour(FakeBehaviour::Echo);
    // The news of why take longer than this caller waits.
    let left = timeout(Duration::from_millis(10), pool.call::<_, Value>("f", ())).await;
    assert!(left.is_err());
    assert!(worker.is_up());
    let answered = timeout(FOREVER, pool.call::<_, Value>("f", ())).await;
    answered.expect("the slot has another worker").unwrap();
    assert!(!worker.is_up());
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_holds_also_while_the_loss_of_a_worker_is_explained() {
    let (_factory, pool) = pool_of(failing()).await;
    let error = pool
        .request("f")
        .deadline(Duration::from_millis(100))
        .send::<Value>()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::DeadlineExceeded);
    assert!(error.may_have_executed());
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_worker_was_lost_never_looks_complete() {
    let (_factory, pool) = pool_of(FakeBehaviour::handler(|_| async {
        Err(TransportError {
            message: "broken pipe".into(),
        })
    }))
    .await;
    let mut items = pool.request("f").stream::<Value>().await.unwrap();
    // Dropped while it finds out why.
    assert!(timeout(Duration::from_millis(10), items.next()).await.is_err());
    let error = items.next().await.expect("this is not the end").unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::WorkerLost);
    assert!(items.next().await.is_none());
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn times_without_end_are_no_panic() {
    let factory = FakeWorkerFactory::new().with_behaviour(FakeBehaviour::HangDeaf);
    let pool = builder(&factory)
        .cancel_grace(Duration::MAX)
        .start_timeout(Duration::MAX)
        .deadline(Some(Duration::MAX))
        .shutdown(snakepit_core::supervision::Shutdown {
            drain: Duration::MAX,
            grace: Duration::MAX,
        })
        .start()
        .await
        .unwrap();
    let worker = factory.worker(SlotId(0)).unwrap();
    let left = timeout(Duration::from_millis(10), pool.call::<_, Value>("f", ())).await;
    assert!(left.is_err());
    // It does not stop, and so is not given back.
    sleep(Duration::from_secs(1)).await;
    assert_eq!(worker.fake_client().running().len(), 1);
    assert!(worker.is_up());
    assert_eq!(pool.status().await.busy, 1);
    pool.kill().await;
}

#[tokio::test(start_paused = true)]
async fn the_smallest_and_the_largest_credit_both_reach_the_end() {
    let item = Bytes::from_static(&[0x01]);
    let (_factory, pool) = pool_of(FakeBehaviour::Items(vec![item; 50])).await;
    for credit in [0, 1, 2, 3, u32::MAX] {
        let mut items = pool.request("f").credit(credit).stream::<u8>().await.unwrap();
        let mut seen = 0;
        while let Some(item) = timeout(FOREVER, items.next()).await.expect("credit runs out") {
            assert_eq!(item.unwrap(), 1);
            seen += 1;
        }
        assert_eq!(seen, 50, "credit {credit}");
    }
    pool.shutdown().await;
}
