//! Pools that grow and shrink, pause and go on.

mod common;

use std::time::Duration;

use common::{FOREVER, builder, gated, spawn_call, until, until_queued};
use snakepit_core::{
    SlotId,
    event::EventKind,
    pool::{CallErrorKind, Phase, Pool, PoolStartError, Verdict},
    rpc::Value,
    testing::{FakeBehaviour, FakeStart, FakeWorkerFactory},
};
use tokio::time::{sleep, timeout};

const IDLE: Duration = Duration::from_secs(10);

async fn slots(pool: &Pool) -> Vec<u32> {
    let status = pool.status().await;
    status
        .workers
        .iter()
        .map(|worker| worker.child.status.slot.0)
        .collect()
}

async fn until_size(pool: &Pool, size: usize) {
    until(async || {
        let status = pool.status().await;
        (status.workers.len(), status.ready) == (size, size)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn it_grows_before_a_call_waits_and_shrinks_when_workers_are_idle() {
    let (behaviour, gate, _) = gated();
    let factory = FakeWorkerFactory::new().with_behaviour(behaviour);
    let pool = builder(&factory)
        .workers(4)
        .min_workers(1)
        .idle_timeout(IDLE)
        .start()
        .await
        .unwrap();
    assert_eq!(slots(&pool).await, [0]);
    let mut calls = Vec::new();
    for size in [2, 3, 4, 4] {
        calls.push(spawn_call(&pool, "f"));
        until_size(&pool, size).await;
        assert_eq!(pool.status().await.queued, 0, "nobody waits for a start");
    }
    calls.push(spawn_call(&pool, "f"));
    until_queued(&pool, 1).await;
    assert_eq!(slots(&pool).await, [0, 1, 2, 3], "not more than allowed");
    gate.add_permits(5);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    sleep(IDLE / 2).await;
    assert_eq!(pool.status().await.ready, 4, "not before the idle timeout");
    until_size(&pool, 1).await;
    let journal = factory.journal();
    assert_eq!(journal.most_live_in_a_slot(), 1);
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_pool_of_none_starts_its_first_worker_for_the_first_call_and_serves_it() {
    let factory = FakeWorkerFactory::new();
    let pool = builder(&factory)
        .workers(2)
        .min_workers(0)
        .spare_workers(0)
        .idle_timeout(IDLE)
        .start()
        .await
        .unwrap();
    assert_eq!(pool.status().await.workers.len(), 0);
    for _ in 0..3 {
        pool.call::<_, Value>("f", ()).await.unwrap();
        until_size(&pool, 1).await;
        sleep(IDLE / 2).await;
        pool.call::<_, Value>("f", ()).await.unwrap();
        sleep(IDLE * 3 / 4).await;
        assert_eq!(
            pool.status().await.ready,
            1,
            "the second call began a new idle time"
        );
        until_size(&pool, 0).await;
    }
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn growth_that_fails_is_told_to_those_who_wait_for_it() {
    let factory = FakeWorkerFactory::new().with_otherwise(FakeStart::fails("no such module"));
    let pool = builder(&factory).min_workers(0).start().await.unwrap();
    let error = timeout(FOREVER, pool.call::<_, Value>("f", ()))
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::NoWorkers);
    factory.set_otherwise(FakeStart::ready());
    until(async || pool.call::<_, Value>("f", ()).await.is_ok()).await;
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_timeout_that_races_calls_fails_none_of_them() {
    let factory = FakeWorkerFactory::new();
    let pool = builder(&factory)
        .workers(3)
        .min_workers(0)
        .idle_timeout(Duration::from_millis(20))
        .start()
        .await
        .unwrap();
    for round in 0..300_u64 {
        // About as long as the timeout, a little more or less each time.
        sleep(Duration::from_micros(15_000 + 37 * round)).await;
        let calls = [0, 1, 2].map(|_| pool.call::<_, Value>("f", ()));
        for call in calls {
            timeout(FOREVER, call).await.unwrap().unwrap();
        }
    }
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_pool_is_resized_while_it_is_called() {
    let (behaviour, gate, _) = gated();
    let factory = FakeWorkerFactory::new().with_behaviour(behaviour);
    let pool = builder(&factory).workers(4).start().await.unwrap();
    let calls: Vec<_> = (0..4).map(|_| spawn_call(&pool, "f")).collect();
    until(async || pool.status().await.busy == 4).await;
    pool.resize(1, 1).unwrap();
    until(async || pool.status().await.ready == 1).await;
    assert_eq!(pool.status().await.workers.len(), 4, "their calls go on");
    let later = spawn_call(&pool, "later");
    until_queued(&pool, 1).await;
    gate.add_permits(5);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    later.await.unwrap().unwrap();
    until_size(&pool, 1).await;
    pool.resize(3, 3).unwrap();
    until_size(&pool, 3).await;
    assert_eq!(slots(&pool).await.len(), 3);
    let error = pool.resize(2, 1).unwrap_err();
    assert_eq!(
        error.to_string(),
        "min_workers is 2, it must not be more than workers, which is 1"
    );
    assert!(pool.resize(0, 0).is_err());
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn numbers_of_slots_are_given_again() {
    let factory = FakeWorkerFactory::new();
    let pool = builder(&factory).workers(3).start().await.unwrap();
    for _ in 0..3 {
        pool.resize(1, 1).unwrap();
        until_size(&pool, 1).await;
        pool.resize(3, 3).unwrap();
        until_size(&pool, 3).await;
        assert_eq!(slots(&pool).await, [0, 1, 2]);
    }
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_pause_lets_calls_wait_and_a_drain_refuses_them_until_it_goes_on() {
    let (behaviour, gate, ran) = gated();
    let factory = FakeWorkerFactory::new().with_behaviour(behaviour);
    let pool = builder(&factory).workers(2).start().await.unwrap();
    let mut events = pool.events();
    let running = spawn_call(&pool, "running");
    until(async || pool.status().await.busy == 1).await;
    pool.pause();
    let waiting = [spawn_call(&pool, "waiting"), spawn_call(&pool, "waiting")];
    until_queued(&pool, 2).await;
    assert_eq!(pool.status().await.phase, Phase::Paused);
    gate.add_permits(1);
    running.await.unwrap().unwrap();
    sleep(IDLE).await;
    assert_eq!(ran.lock().unwrap().len(), 1, "what runs goes on, nothing begins");
    pool.resume();
    gate.add_permits(2);
    for call in waiting {
        call.await.unwrap().unwrap();
    }

    pool.pause();
    let accepted = spawn_call(&pool, "accepted");
    until_queued(&pool, 1).await;
    let drained = tokio::spawn({
        let pool = pool.clone();
        async move { pool.drain().await }
    });
    until(async || pool.status().await.phase == Phase::Draining).await;
    let refused = pool.call::<_, ()>("refused", ()).await.unwrap_err();
    assert_eq!(refused.kind(), CallErrorKind::NotServing);
    assert!(!drained.is_finished());
    gate.add_permits(1);
    accepted.await.unwrap().unwrap();
    drained.await.unwrap();
    pool.resume();
    gate.add_permits(1);
    pool.call::<_, ()>("again", ()).await.unwrap();
    let mut told = Vec::new();
    while let Ok(event) = events.try_recv() {
        told.push(match event.kind {
            EventKind::PoolPaused => "paused",
            EventKind::PoolResumed => "resumed",
            EventKind::PoolDraining => "draining",
            _ => continue,
        });
    }
    assert_eq!(told, ["paused", "resumed", "paused", "draining", "resumed"]);

    let shutdown = tokio::spawn({
        let pool = pool.clone();
        async move { pool.shutdown().await }
    });
    until(async || pool.status().await.phase.refuses()).await;
    pool.resume();
    assert!(
        pool.status().await.phase.refuses(),
        "there is no way back from a shutdown"
    );
    shutdown.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_shrinks_is_ended_with_everything_that_is_leaving() {
    let factory = FakeWorkerFactory::new().with_behaviour(FakeBehaviour::Hang);
    let pool = builder(&factory).workers(3).start().await.unwrap();
    let workers: Vec<_> = (0..3).map(|slot| factory.worker(SlotId(slot)).unwrap()).collect();
    let calls: Vec<_> = (0..3).map(|_| spawn_call(&pool, "f")).collect();
    until(async || pool.status().await.busy == 3).await;
    pool.resize(1, 1).unwrap();
    until(async || pool.status().await.ready == 1).await;
    timeout(FOREVER, pool.kill()).await.unwrap();
    assert!(workers.iter().all(|worker| !worker.is_up()));
    for call in calls {
        call.await.unwrap().unwrap_err();
    }
}

#[tokio::test(start_paused = true)]
async fn a_slot_on_its_way_out_goes_when_its_worker_dies_though_nobody_reads_its_stream() {
    let factory = FakeWorkerFactory::new().with_behaviour(FakeBehaviour::Hang);
    let pool = builder(&factory).workers(2).start().await.unwrap();
    let first = pool.request("f").stream::<Value>().await.unwrap();
    let second = pool.request("f").stream::<Value>().await.unwrap();
    pool.resize(1, 1).unwrap();
    until(async || pool.status().await.ready == 1).await;
    assert_eq!(slots(&pool).await, [0, 1], "it has a call");
    factory.worker(SlotId(1)).unwrap().crash();
    until_size(&pool, 1).await;
    assert_eq!(pool.status().await.busy, 1);
    drop((first, second));
    pool.shutdown().await;
}

#[tokio::test]
async fn bounds_that_make_no_sense_are_refused() {
    let factory = FakeWorkerFactory::new();
    let wrong = builder(&factory)
        .min_workers(2)
        .idle_timeout(Duration::ZERO)
        .start()
        .await;
    let Err(PoolStartError::Settings(error)) = wrong else {
        panic!("{wrong:?}");
    };
    assert_eq!(error.0.len(), 2, "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_verdict_never_says_ready_when_nobody_serves_and_names_the_last_failure() {
    let factory = FakeWorkerFactory::new();
    let pool = builder(&factory).workers(2).start().await.unwrap();
    assert!(matches!(pool.status().await.verdict(), Verdict::Ready));
    factory.set_otherwise(FakeStart::fails("out of memory"));
    factory.worker(SlotId(0)).unwrap().crash();
    until(async || pool.status().await.last_start_error.is_some()).await;
    let verdict = pool.status().await.verdict();
    assert!(verdict.is_ready() && verdict.is_alive());
    let text = verdict.to_string();
    assert!(text.starts_with("degraded: 1 of 2 workers serve; "), "{text}");
    assert!(text.contains("out of memory"), "{text}");
    factory.worker(SlotId(1)).unwrap().crash();
    until(async || pool.status().await.ready == 0).await;
    let verdict = pool.status().await.verdict();
    assert!(!verdict.is_ready() && verdict.is_alive(), "{verdict}");
    factory.set_otherwise(FakeStart::ready());
    until(async || matches!(pool.status().await.verdict(), Verdict::Ready)).await;
    pool.pause();
    assert_eq!(pool.status().await.verdict().to_string(), "paused");
    pool.shutdown().await;
    assert!(!pool.status().await.verdict().is_alive());
}
