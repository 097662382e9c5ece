//! What callers are told, and what becomes of workers, when connections, callers and deadlines fail at awkward moments.

mod common;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use common::{FOREVER, builder, pool_of};
use snakepit_core::{
    SlotId,
    event::EventKind,
    pool::CallErrorKind,
    rpc::{RemoteErrorKind, Value},
    testing::{FakeBehaviour, FakeWorkerFactory},
    worker::{DownReason, TransportError, Worker as _},
};
use snakepit_proto::v1::{CallError, CallResponse, call_error::Kind, call_response::Outcome};
use tokio::time::{sleep, timeout};

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
    let down = worker.down().await;
    assert_eq!(down.to_string(), "a call failed in its channel: broken pipe");
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

fn shutting_down() -> CallError {
    CallError {
        kind: Kind::ShuttingDown.into(),
        ..CallError::default()
    }
}

fn leaving() -> FakeBehaviour {
    FakeBehaviour::Error(shutting_down())
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_says_it_leaves_and_stays_is_replaced() {
    let (factory, pool) = pool_of(leaving()).await;
    factory.set_behaviour(FakeBehaviour::Echo);
    let first = factory.worker(SlotId(0)).unwrap();
    let answered = timeout(FOREVER, pool.call::<_, Value>("f", ())).await;
    answered.expect("the slot has another worker").unwrap();
    assert_eq!(first.down().await.reason, DownReason::StayedOn);
    pool.shutdown().await;

    let (factory, pool) = pool_of(leaving()).await;
    factory.set_behaviour(FakeBehaviour::Echo);
    let mut items = pool.request("f").stream::<Value>().await.unwrap();
    let first = items.call_id();
    // Who leaves while it waits for another worker finds it where it was.
    for _ in 0..3 {
        assert!(timeout(Duration::from_millis(1), items.next()).await.is_err());
        assert_eq!(items.call_id(), first);
    }
    let item = timeout(FOREVER, items.next()).await;
    item.expect("the slot has another worker").unwrap().unwrap();
    assert!(items.next().await.is_none());
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_not_begun_again_after_its_first_item() {
    let late = FakeBehaviour::Producer(Arc::new(move |request, items| {
        Box::pin(async move {
            items.send(Bytes::from_static(b"\x01")).unwrap();
            sleep(Duration::from_millis(1)).await;
            let outcome = Some(Outcome::Error(shutting_down()));
            let call_id = request.call_id;
            Ok(CallResponse { call_id, outcome })
        })
    }));
    let (factory, pool) = pool_of(late).await;
    factory.set_behaviour(FakeBehaviour::Echo);
    let mut items = pool.request("f").stream::<u32>().await.unwrap();
    assert_eq!(items.next().await.unwrap().unwrap(), 1);
    let error = items.next().await.unwrap().unwrap_err();
    assert!(
        matches!(&error, snakepit_core::pool::CallError::Failed(failed) if failed.error.kind == RemoteErrorKind::ShuttingDown),
        "{error}"
    );
    assert!(items.next().await.is_none());
    let answered = timeout(FOREVER, pool.call::<_, Value>("f", ())).await;
    answered.expect("the slot has another worker").unwrap();
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn the_end_is_told_once_also_when_the_first_to_ask_has_left() {
    let factory = FakeWorkerFactory::new().with_end_taking(Duration::from_secs(1));
    let pool = builder(&factory).start().await.unwrap();
    let mut events = pool.events();
    assert!(timeout(Duration::from_millis(10), pool.shutdown()).await.is_err());
    tokio::join!(pool.shutdown(), pool.kill());
    let mut told = 0;
    while let Ok(event) = events.try_recv() {
        told += u32::from(matches!(event.kind, EventKind::PoolStopped));
    }
    assert_eq!(told, 1);
}

#[test]
fn a_pool_may_be_dropped_outside_of_its_runtime_and_outlive_it() {
    let factory = FakeWorkerFactory::new().with_behaviour(FakeBehaviour::Hang);
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().build().unwrap()
    };
    let first = runtime();
    let pool = first.block_on(builder(&factory).start()).unwrap();
    drop(pool);
    let ended = async {
        while factory.journal().live_in_all() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    first.block_on(async { timeout(Duration::from_secs(20), ended).await.unwrap() });

    let second = runtime();
    let pool = second.block_on(builder(&factory).start()).unwrap();
    let items = second.block_on(pool.request("f").stream::<Value>()).unwrap();
    drop(second);
    drop(items);
    drop(pool);
    assert_eq!(factory.journal().live_in_all(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_kill_goes_on_at_once_when_its_future_is_dropped() {
    let factory = FakeWorkerFactory::new().with_end_taking(Duration::from_secs(100));
    let pool = builder(&factory).start().await.unwrap();
    let worker = factory.worker(SlotId(0)).unwrap();
    assert!(timeout(Duration::ZERO, pool.kill()).await.is_err());
    sleep(Duration::from_millis(1)).await;
    assert!(worker.ends_asked().contains(&(Duration::ZERO, Duration::ZERO)));
    pool.kill().await;
}
