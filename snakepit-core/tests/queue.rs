//! Who is served when there are more callers than workers.

mod common;

use std::time::Duration;

use common::{builder, gated, pool_of, spawn_call, until, until_queued};
use snakepit_core::{
    SlotId,
    pool::{CallError, CallErrorKind, Overflow, Pool, PoolStartError},
    testing::{FakeBehaviour, FakeStart, FakeWorkerFactory},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};

fn spawn_urgent(pool: &Pool, function: &'static str, priority: i32) -> JoinHandle<Result<(), CallError>> {
    let pool = pool.clone();
    tokio::spawn(async move { pool.request(function).priority(priority).send().await })
}

#[tokio::test(start_paused = true)]
async fn urgent_calls_go_first_and_equals_in_the_order_they_came() {
    let (behaviour, gate, ran) = gated();
    let (_, pool) = pool_of(behaviour).await;
    let mut calls = vec![spawn_call(&pool, "running")];
    until(async || pool.status().await.busy == 1).await;
    let order = [
        ("low", -5),
        ("first", 0),
        ("second", 0),
        ("high", 9),
        ("third", 0),
    ];
    for (at, (function, priority)) in order.into_iter().enumerate() {
        calls.push(spawn_urgent(&pool, function, priority));
        until_queued(&pool, at + 1).await;
    }
    gate.add_permits(calls.len());
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(
        *ran.lock().unwrap(),
        ["running", "high", "first", "second", "third", "low"]
    );
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_newer_call_takes_the_place_of_the_oldest_and_never_of_a_more_urgent_one() {
    let (behaviour, gate, ran) = gated();
    let factory = FakeWorkerFactory::new().with_behaviour(behaviour);
    let pool = builder(&factory)
        .queue_limit(Some(2))
        .overflow(Overflow::DropOldest)
        .start()
        .await
        .unwrap();
    let running = spawn_call(&pool, "running");
    until(async || pool.status().await.busy == 1).await;
    let oldest = spawn_call(&pool, "oldest");
    until_queued(&pool, 1).await;
    let urgent = spawn_urgent(&pool, "urgent", 1);
    until_queued(&pool, 2).await;
    let newest = spawn_call(&pool, "newest");
    let error = oldest.await.unwrap().unwrap_err();
    assert_eq!(
        error.to_string(),
        "a newer call took the place of this one in the queue of pool `test`: 2 calls wait, the most that may"
    );
    assert_eq!(error.kind(), CallErrorKind::Displaced);
    assert!(error.is_retryable() && !error.may_have_executed());
    until_queued(&pool, 2).await;
    let refused = spawn_urgent(&pool, "too low", -1).await.unwrap().unwrap_err();
    assert_eq!(refused.kind(), CallErrorKind::QueueFull);
    gate.add_permits(3);
    for call in [running, urgent, newest] {
        call.await.unwrap().unwrap();
    }
    assert_eq!(*ran.lock().unwrap(), ["running", "urgent", "newest"]);
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_comes_back_to_the_queue_is_not_displaced_by_a_newer_one() {
    let (behaviour, gate, ran) = gated();
    let factory = FakeWorkerFactory::new().with_behaviour(behaviour);
    let pool = builder(&factory)
        .queue_limit(Some(0))
        .overflow(Overflow::DropOldest)
        .start()
        .await
        .unwrap();
    let idempotent = tokio::spawn({
        let pool = pool.clone();
        async move { pool.request("first").idempotent().send::<()>().await }
    });
    until(async || pool.status().await.busy == 1).await;
    factory.set_otherwise(FakeStart::Ready(Duration::from_secs(1)));
    factory.worker(SlotId(0)).unwrap().crash();
    until_queued(&pool, 1).await;
    let refused = pool.call::<_, ()>("newer", ()).await.unwrap_err();
    assert_eq!(refused.kind(), CallErrorKind::QueueFull);
    gate.add_permits(1);
    idempotent.await.unwrap().unwrap();
    assert_eq!(*ran.lock().unwrap(), ["first", "first"]);
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_queue_timeout_bounds_the_wait_and_not_the_execution() {
    let (behaviour, gate, ran) = gated();
    let factory = FakeWorkerFactory::new().with_behaviour(behaviour);
    let timeout = Duration::from_millis(50);
    let pool = builder(&factory)
        .queue_timeout(Some(timeout))
        .start()
        .await
        .unwrap();
    let running = spawn_call(&pool, "running");
    until(async || pool.status().await.busy == 1).await;
    let began = Instant::now();
    let error = pool.call::<_, ()>("late", ()).await.unwrap_err();
    assert_eq!(began.elapsed(), timeout);
    assert_eq!(
        error.to_string(),
        "the queue timeout of 50ms for late passed while it waited for a worker"
    );
    assert_eq!(error.kind(), CallErrorKind::QueueTimeout);
    assert!(error.is_retryable() && !error.may_have_executed());
    // It has been executed for longer than it might have waited.
    tokio::time::sleep(timeout).await;
    gate.add_permits(1);
    running.await.unwrap().unwrap();
    assert_eq!(*ran.lock().unwrap(), ["running"]);

    // Zero waits for nobody, and takes a worker that is idle.
    gate.add_permits(1);
    let now = pool.request("now").queue_timeout(Duration::ZERO);
    now.clone().send::<()>().await.unwrap();
    let running = spawn_call(&pool, "running");
    until(async || pool.status().await.busy == 1).await;
    let error = now.send::<()>().await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::QueueTimeout);
    let patient = pool.request("patient").queue_timeout(None);
    let waits = tokio::time::timeout(Duration::from_secs(3600), patient.send::<()>()).await;
    assert!(waits.is_err(), "it waits for as long as it takes");
    gate.add_permits(1);
    running.await.unwrap().unwrap();
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_limited_function_leaves_the_other_workers_to_others() {
    let (behaviour, gate, ran) = gated();
    let factory = FakeWorkerFactory::new().with_behaviour(behaviour);
    let pool = builder(&factory)
        .workers(3)
        .queue_limit(Some(2))
        .function_limit("heavy", 1)
        .start()
        .await
        .unwrap();
    let first = spawn_call(&pool, "heavy");
    until(async || pool.status().await.busy == 1).await;
    let second = spawn_call(&pool, "heavy");
    let third = spawn_call(&pool, "heavy");
    until_queued(&pool, 2).await;
    let refused = pool.call::<_, ()>("heavy", ()).await.unwrap_err();
    assert_eq!(refused.kind(), CallErrorKind::QueueFull, "they count as waiting");
    let light = spawn_call(&pool, "light");
    until(async || ran.lock().unwrap().len() == 2).await;
    assert_eq!(*ran.lock().unwrap(), ["heavy", "light"]);
    // One that leaves makes room, and lets the next one have its turn.
    second.abort();
    until_queued(&pool, 1).await;
    gate.add_permits(3);
    for call in [first, light, third] {
        call.await.unwrap().unwrap();
    }
    let status = pool.status().await;
    assert_eq!((status.queued, status.busy), (0, 0));
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_had_to_wait_for_its_function_counts_once_while_it_waits_for_a_worker() {
    let (behaviour, gate, ran) = gated();
    let factory = FakeWorkerFactory::new().with_behaviour(behaviour);
    let pool = builder(&factory)
        .function_limit("heavy", 1)
        .start()
        .await
        .unwrap();
    let first = spawn_call(&pool, "heavy");
    until(async || pool.status().await.busy == 1).await;
    let urgent = spawn_urgent(&pool, "urgent", 1);
    let second = spawn_call(&pool, "heavy");
    until_queued(&pool, 2).await;
    // The permit is free, and the only worker goes to the urgent call.
    gate.add_permits(1);
    first.await.unwrap().unwrap();
    until(async || ran.lock().unwrap().len() == 2).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(pool.status().await.queued, 1);
    gate.add_permits(2);
    for call in [urgent, second] {
        call.await.unwrap().unwrap();
    }
    assert_eq!(pool.status().await.queued, 0);
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_serves_accepted_calls_of_a_limited_function_and_refuses_later_ones() {
    let (behaviour, gate, ran) = gated();
    let factory = FakeWorkerFactory::new().with_behaviour(behaviour);
    let pool = builder(&factory)
        .workers(2)
        .function_limit("heavy", 1)
        .start()
        .await
        .unwrap();
    let calls = [spawn_call(&pool, "heavy"), spawn_call(&pool, "heavy")];
    until_queued(&pool, 1).await;
    let shutdown = tokio::spawn({
        let pool = pool.clone();
        async move { pool.shutdown().await }
    });
    until(async || pool.status().await.phase.refuses()).await;
    let refused = pool.call::<_, ()>("heavy", ()).await.unwrap_err();
    assert_eq!(refused.kind(), CallErrorKind::NotServing);
    gate.add_permits(2);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    shutdown.await.unwrap();
    assert_eq!(ran.lock().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn killing_a_pool_refuses_who_waits_for_a_limited_function() {
    let factory = FakeWorkerFactory::new().with_behaviour(FakeBehaviour::Hang);
    let pool = builder(&factory)
        .workers(2)
        .function_limit("heavy", 1)
        .start()
        .await
        .unwrap();
    let _running = spawn_call(&pool, "heavy");
    let waiting = spawn_call(&pool, "heavy");
    until_queued(&pool, 1).await;
    pool.kill().await;
    let error = timeout(Duration::from_secs(1), waiting).await.unwrap().unwrap();
    assert_eq!(error.unwrap_err().kind(), CallErrorKind::NotServing);
}

#[tokio::test(start_paused = true)]
async fn waits_and_runs_are_measured_apart() {
    let (behaviour, gate, _) = gated();
    let (_, pool) = pool_of(behaviour).await;
    let first = spawn_call(&pool, "first");
    until(async || pool.status().await.busy == 1).await;
    let second = spawn_call(&pool, "second");
    until_queued(&pool, 1).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    gate.add_permits(1);
    first.await.unwrap().unwrap();
    until(async || pool.status().await.waited.count == 2).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    gate.add_permits(1);
    second.await.unwrap().unwrap();
    let status = pool.status().await;
    // Given to an eighth.
    let about = |seconds: u64| Duration::from_secs(seconds)..Duration::from_millis(1200 * seconds);
    assert_eq!((status.waited.count, status.ran.count), (2, 2));
    assert!(about(2).contains(&status.waited.max), "{:?}", status.waited);
    assert!(status.waited.p50 < Duration::from_millis(1));
    assert!(about(5).contains(&status.ran.max), "{:?}", status.ran);
    assert!(about(2).contains(&status.ran.p50), "{:?}", status.ran);
    pool.shutdown().await;
}

#[tokio::test]
async fn settings_that_let_no_call_through_are_refused_together() {
    let factory = FakeWorkerFactory::new();
    let error = builder(&factory)
        .run_timeout(Some(Duration::ZERO))
        .function_limit("f", 0)
        .attempts(0)
        .poison_limit(Some(0))
        .start()
        .await
        .unwrap_err();
    let PoolStartError::Settings(error) = error else {
        panic!("{error}");
    };
    assert_eq!(error.0.len(), 4, "{error}");
}
