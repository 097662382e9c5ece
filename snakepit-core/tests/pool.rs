//! What a pool promises to its callers, on fake workers and a paused clock.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use common::{FOREVER, builder, gated, pool_of, spawn_call, until, until_queued};
use proptest::prelude::*;
use snakepit_core::{
    SlotId,
    pool::{CallError, CallErrorKind, PoolStartError},
    process::ExitOutcome,
    rpc::{Value, codec},
    supervision::Shutdown,
    testing::{FakeBehaviour, FakeStart, FakeWorkerFactory},
    worker::DownReason,
};
use snakepit_proto::v1::{CallResponse, call_response::Outcome};
use tokio::time::{Instant, sleep, timeout};

#[tokio::test(start_paused = true)]
async fn a_call_is_answered_and_its_type_is_checked() {
    let (_, pool) = pool_of(FakeBehaviour::Echo).await;
    let answer: (i64, String) = pool.call("f", (1, "one")).await.unwrap();
    assert_eq!(answer, (1, "one".to_owned()));
    let error = pool.call::<_, String>("f", (1,)).await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Codec);
    assert!(error.may_have_executed());
    let error = pool.call::<_, Value>("f", 5).await.unwrap_err();
    assert!(!error.may_have_executed());
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn waiting_callers_are_served_in_the_order_they_came() {
    let (behaviour, gate, ran) = gated();
    let (_, pool) = pool_of(behaviour).await;
    let mut calls = vec![spawn_call(&pool, "0")];
    until(async || pool.status().await.busy == 1).await;
    for at in 1..5 {
        calls.push(spawn_call(&pool, &at.to_string()));
        until_queued(&pool, at).await;
    }
    gate.add_permits(5);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(*ran.lock().unwrap(), ["0", "1", "2", "3", "4"]);
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_with_its_numbers() {
    let (behaviour, gate, _) = gated();
    let factory = FakeWorkerFactory::new().with_behaviour(behaviour);
    let pool = builder(&factory).queue_limit(Some(2)).start().await.unwrap();
    let running = [
        spawn_call(&pool, "running"),
        spawn_call(&pool, "first"),
        spawn_call(&pool, "second"),
    ];
    until_queued(&pool, 2).await;
    let error = pool.call::<_, ()>("third", ()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the queue of pool `test` is full: 2 calls wait, 2 may"
    );
    assert!(error.is_retryable() && !error.may_have_executed());
    gate.add_permits(3);
    for call in running {
        call.await.unwrap().unwrap();
    }
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_queue_limit_of_zero_refuses_when_all_are_busy_and_not_before() {
    let (behaviour, gate, _) = gated();
    let factory = FakeWorkerFactory::new().with_behaviour(behaviour);
    let pool = builder(&factory).queue_limit(Some(0)).start().await.unwrap();
    let running = spawn_call(&pool, "running");
    until(async || pool.status().await.busy == 1).await;
    assert_eq!(
        pool.call::<_, ()>("f", ()).await.unwrap_err().kind(),
        CallErrorKind::QueueFull
    );
    gate.add_permits(2);
    running.await.unwrap().unwrap();
    pool.call::<_, ()>("f", ()).await.unwrap();
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_passes_in_the_queue_says_so_and_nothing_was_executed() {
    let (behaviour, gate, ran) = gated();
    let (_, pool) = pool_of(behaviour).await;
    let running = spawn_call(&pool, "running");
    until(async || pool.status().await.busy == 1).await;
    let late = pool
        .request("late")
        .deadline(Duration::from_millis(70))
        .send::<()>();
    let began = Instant::now();
    let error = late.await.unwrap_err();
    assert_eq!(began.elapsed(), Duration::from_millis(70));
    let text = error.to_string();
    assert_eq!(
        text,
        "the deadline of 70ms for late passed while it waited for a worker"
    );
    assert!(!error.may_have_executed());
    gate.add_permits(1);
    running.await.unwrap().unwrap();
    assert_eq!(*ran.lock().unwrap(), ["running"]);
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_passes_in_the_call_cancels_it_and_keeps_the_worker() {
    let (factory, pool) = pool_of(FakeBehaviour::Hang).await;
    let worker = factory.worker(SlotId(0)).unwrap();
    let error = pool
        .request("hang")
        .deadline(Duration::from_millis(50))
        .send::<()>()
        .await
        .unwrap_err();
    assert!(
        matches!(&error, CallError::DeadlineExceeded(e) if e.ran.is_some()),
        "{error}"
    );
    assert!(error.may_have_executed());
    until(async || pool.status().await.busy == 0).await;
    assert!(worker.fake_client().running().is_empty());
    worker.fake_client().set_behaviour(FakeBehaviour::Echo);
    pool.call::<_, Value>("next", ()).await.unwrap();
    assert!(worker.is_up());
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_does_not_stop_costs_its_worker_and_the_slot_gets_another() {
    let (factory, pool) = pool_of(FakeBehaviour::HangDeaf).await;
    let worker = factory.worker(SlotId(0)).unwrap();
    factory.set_behaviour(FakeBehaviour::Echo);
    let began = Instant::now();
    pool.request("deaf")
        .deadline(Duration::from_millis(50))
        .send::<()>()
        .await
        .unwrap_err();
    assert_eq!(began.elapsed(), Duration::from_millis(50));
    // The next caller waits for the replacement, at most the cancel grace and a little.
    pool.call::<_, Value>("next", ()).await.unwrap();
    assert!(
        began.elapsed() < Duration::from_millis(1500),
        "{:?}",
        began.elapsed()
    );
    assert!(!worker.is_up());
    assert_eq!(factory.journal().most_live_in_a_slot(), 1);
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_cancels_its_call() {
    let (factory, pool) = pool_of(FakeBehaviour::Hang).await;
    let worker = factory.worker(SlotId(0)).unwrap();
    let caller = spawn_call(&pool, "hang");
    until(async || worker.fake_client().running().len() == 1).await;
    caller.abort();
    until(async || worker.fake_client().running().is_empty()).await;
    until(async || pool.status().await.busy == 0).await;
    assert!(worker.is_up());
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_the_queue_is_never_executed() {
    let (behaviour, gate, ran) = gated();
    let (_, pool) = pool_of(behaviour).await;
    let first = spawn_call(&pool, "first");
    until(async || pool.status().await.busy == 1).await;
    let gone = spawn_call(&pool, "gone");
    until_queued(&pool, 1).await;
    let last = spawn_call(&pool, "last");
    until_queued(&pool, 2).await;
    gone.abort();
    until_queued(&pool, 1).await;
    gate.add_permits(2);
    first.await.unwrap().unwrap();
    last.await.unwrap().unwrap();
    assert_eq!(*ran.lock().unwrap(), ["first", "last"]);
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_dies_in_the_call_is_named_to_that_caller_and_replaced_for_the_next() {
    let (factory, pool) = pool_of(FakeBehaviour::Hang).await;
    let worker = factory.worker(SlotId(0)).unwrap();
    let caller = spawn_call(&pool, "doomed");
    until(async || worker.fake_client().running().len() == 1).await;
    factory.set_behaviour(FakeBehaviour::Echo);
    worker.crash();
    let error = caller.await.unwrap().unwrap_err();
    let CallError::WorkerLost(lost) = &error else {
        panic!("{error}")
    };
    assert_eq!(lost.down.reason, DownReason::Exited);
    assert_eq!(
        lost.down.outcome,
        Some(ExitOutcome::Signaled {
            signal: libc::SIGKILL,
            core_dumped: false
        })
    );
    assert!(error.to_string().contains("lost during doomed"), "{error}");
    assert!(error.to_string().contains("killed by SIGKILL"), "{error}");
    assert!(error.may_have_executed() && error.is_retryable());
    pool.call::<_, Value>("next", ()).await.unwrap();
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn shutdown_serves_what_was_accepted_and_refuses_what_comes_later() {
    let (behaviour, gate, ran) = gated();
    let (factory, pool) = pool_of(behaviour).await;
    let accepted = [spawn_call(&pool, "running"), spawn_call(&pool, "queued")];
    until_queued(&pool, 1).await;
    let ending = tokio::spawn({
        let pool = pool.clone();
        async move { pool.shutdown().await }
    });
    until(async || pool.status().await.phase.refuses()).await;
    let error = pool.call::<_, ()>("late", ()).await.unwrap_err();
    assert_eq!(error.to_string(), "pool `test` takes no calls: it is draining");
    gate.add_permits(2);
    for call in accepted {
        call.await.unwrap().unwrap();
    }
    ending.await.unwrap();
    assert_eq!(ran.lock().unwrap().len(), 2);
    assert_eq!(factory.journal().live_in_all(), 0);
    let error = pool.call::<_, ()>("after", ()).await.unwrap_err();
    assert_eq!(error.to_string(), "pool `test` takes no calls: it is stopped");
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn shutdown_is_bounded_when_calls_do_not_finish() {
    let factory = FakeWorkerFactory::new().with_behaviour(FakeBehaviour::HangDeaf);
    let shutdown = Shutdown {
        drain: Duration::from_secs(2),
        grace: Duration::from_secs(1),
    };
    let pool = builder(&factory).shutdown(shutdown).start().await.unwrap();
    let stuck = spawn_call(&pool, "stuck");
    until(async || pool.status().await.busy == 1).await;
    let waiting = spawn_call(&pool, "waiting");
    until_queued(&pool, 1).await;
    let began = Instant::now();
    pool.shutdown().await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(
        waiting.await.unwrap().unwrap_err().kind(),
        CallErrorKind::NotServing
    );
    assert_eq!(
        stuck.await.unwrap().unwrap_err().kind(),
        CallErrorKind::WorkerLost
    );
    assert_eq!(factory.journal().live_in_all(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_runs_on_at_a_shutdown_has_the_grace_to_stop() {
    let factory = FakeWorkerFactory::new()
        .with_behaviour(FakeBehaviour::HangDeaf)
        .with_end_taking(Duration::from_secs(3));
    let pool = builder(&factory).start().await.unwrap();
    let stuck = spawn_call(&pool, "stuck");
    until(async || pool.status().await.busy == 1).await;
    let worker = factory.worker(SlotId(0)).unwrap();
    let began = Instant::now();
    pool.shutdown().await;
    assert_eq!(began.elapsed(), Duration::from_secs(5 + 3));
    let graces = worker.ends_asked().into_iter().map(|(_, grace)| grace);
    assert_eq!(graces.min(), Some(Duration::from_secs(5)));
    stuck.await.unwrap().unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn kill_does_not_wait_for_anything() {
    let factory = FakeWorkerFactory::new()
        .with_behaviour(FakeBehaviour::HangDeaf)
        .with_end_taking(FOREVER);
    let pool = builder(&factory).start().await.unwrap();
    let stuck = spawn_call(&pool, "stuck");
    until(async || pool.status().await.busy == 1).await;
    let began = Instant::now();
    pool.kill().await;
    assert!(
        began.elapsed() < Duration::from_millis(100),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(
        stuck.await.unwrap().unwrap_err().kind(),
        CallErrorKind::WorkerLost
    );
    assert_eq!(factory.journal().live_in_all(), 0);
}

#[tokio::test(start_paused = true)]
async fn kill_executes_nothing_of_what_waits_for_the_end_of_a_pause() {
    let (factory, pool) = pool_of(FakeBehaviour::Hang).await;
    let worker = factory.worker(SlotId(0)).unwrap();
    pool.pause();
    let waits = spawn_call(&pool, "f");
    until_queued(&pool, 1).await;
    pool.kill().await;
    let error = waits.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::NotServing);
    assert!(worker.fake_client().requests().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_is_dropped_ends_its_workers() {
    let (factory, pool) = pool_of(FakeBehaviour::Echo).await;
    drop(pool);
    until(async || factory.journal().live_in_all() == 0).await;
}

fn items(count: i64) -> FakeBehaviour {
    FakeBehaviour::Items((0..count).map(|item| codec::encode(&item).unwrap()).collect())
}

#[tokio::test(start_paused = true)]
async fn a_stream_yields_its_items_in_order_past_its_credit() {
    let (_, pool) = pool_of(items(100)).await;
    let mut stream = pool.request("items").credit(3).stream::<i64>().await.unwrap();
    let mut seen = Vec::new();
    while let Some(item) = stream.next().await {
        seen.push(item.unwrap());
    }
    assert_eq!(seen, (0..100).collect::<Vec<_>>());
    assert!(stream.next().await.is_none());
    until(async || pool.status().await.busy == 0).await;
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_dropped_early_gives_its_worker_back() {
    let (factory, pool) = pool_of(items(1000)).await;
    let mut stream = pool.request("items").stream::<i64>().await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), 0);
    drop(stream);
    until(async || pool.status().await.busy == 0).await;
    factory
        .worker(SlotId(0))
        .unwrap()
        .fake_client()
        .set_behaviour(FakeBehaviour::Echo);
    pool.call::<_, Value>("next", ()).await.unwrap();
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn an_item_of_another_type_is_an_error_and_the_stream_goes_on() {
    let values = [
        codec::encode(&1).unwrap(),
        codec::encode("two").unwrap(),
        codec::encode(&3).unwrap(),
    ];
    let (_, pool) = pool_of(FakeBehaviour::Items(values.to_vec())).await;
    let mut stream = pool.request("items").stream::<i64>().await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap(), 1);
    assert_eq!(
        stream.next().await.unwrap().unwrap_err().kind(),
        CallErrorKind::Codec
    );
    assert_eq!(stream.next().await.unwrap().unwrap(), 3);
    assert!(stream.next().await.is_none());
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_past_its_deadline_says_so_once() {
    let (_, pool) = pool_of(FakeBehaviour::Hang).await;
    let request = pool.request("items").deadline(Duration::from_millis(20));
    let mut stream = request.stream::<i64>().await.unwrap();
    assert_eq!(
        stream.next().await.unwrap().unwrap_err().kind(),
        CallErrorKind::DeadlineExceeded
    );
    assert!(stream.next().await.is_none());
    until(async || pool.status().await.busy == 0).await;
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn wrong_settings_are_all_named_at_once() {
    let factory = FakeWorkerFactory::new();
    let builder = builder(&factory).workers(0).deadline(Some(Duration::ZERO));
    let PoolStartError::Settings(error) = builder.start().await.unwrap_err() else {
        panic!("started")
    };
    assert_eq!(error.0.len(), 2);
    assert!(
        error.to_string().starts_with("workers is 0, it must be 1 to"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_is_tried_again_until_the_timeout() {
    let factory =
        FakeWorkerFactory::new().with_script([FakeStart::fails("not yet"), FakeStart::fails("nor now")]);
    let pool = builder(&factory).start().await.unwrap();
    assert_eq!(pool.status().await.ready, 1);
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_start_that_never_succeeds_ends_with_the_last_error_and_nothing_left() {
    let factory = FakeWorkerFactory::new().with_otherwise(FakeStart::fails("no such module"));
    let error = builder(&factory)
        .start_timeout(Duration::from_secs(9))
        .start()
        .await
        .unwrap_err();
    let PoolStartError::NoWorkers { last, .. } = error else {
        panic!("{error}")
    };
    assert!(last.to_string().contains("no such module"), "{last}");
    assert_eq!(factory.journal().live_in_all(), 0);
}

#[tokio::test(start_paused = true)]
async fn callers_of_a_pool_that_lost_all_workers_fail_fast_and_recover_with_it() {
    let (factory, pool) = pool_of(FakeBehaviour::Echo).await;
    factory.set_otherwise(FakeStart::fails("the licence server is down"));
    factory.worker(SlotId(0)).unwrap().crash();
    until(async || pool.status().await.ready == 0).await;
    let began = Instant::now();
    let error = pool.call::<_, Value>("f", ()).await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::NoWorkers);
    assert!(error.is_retryable() && !error.may_have_executed());
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("the licence server is down"), "{cause}");
    assert!(began.elapsed() < Duration::from_secs(1));
    factory.set_otherwise(FakeStart::ready());
    until(async || pool.status().await.ready == 1).await;
    pool.call::<_, Value>("f", ()).await.unwrap();
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_dies_idle_is_not_lent() {
    let factory = FakeWorkerFactory::new();
    let pool = builder(&factory).workers(2).start().await.unwrap();
    for slot in [0, 1, 0, 1] {
        factory.worker(SlotId(slot)).unwrap().crash();
        until(async || factory.worker(SlotId(slot)).is_some_and(|worker| worker.is_up())).await;
        pool.call::<_, Value>("f", ()).await.unwrap();
    }
    pool.shutdown().await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Callers that leave at any time, in any phase of their call, never take a worker with them.
    #[test]
    fn no_caller_that_leaves_keeps_a_worker(
        workers in 1_usize..4,
        stays_ms in prop::collection::vec(0_u64..8, 1..40),
        crashes in prop::collection::vec(0_u64..8, 0..3),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let done = Arc::new(AtomicU32::new(0));
            let counter = Arc::clone(&done);
            let factory = FakeWorkerFactory::new().with_behaviour(FakeBehaviour::handler(move |request| {
                let counter = Arc::clone(&counter);
                async move {
                    sleep(Duration::from_millis(3)).await;
                    counter.fetch_add(1, Ordering::Relaxed);
                    let nil = Outcome::Value(Bytes::from_static(&[0xc0]));
                    Ok(CallResponse { call_id: request.call_id, outcome: Some(nil) })
                }
            }));
            let pool = builder(&factory).workers(workers).start().await.unwrap();
            let callers: Vec<_> = stays_ms.iter().map(|stay| {
                let (pool, stay) = (pool.clone(), Duration::from_millis(*stay));
                tokio::spawn(async move { timeout(stay, pool.call::<_, ()>("f", ())).await })
            }).collect();
            for crash in crashes {
                sleep(Duration::from_millis(crash)).await;
                if let Some(worker) = factory.worker(SlotId(0)) {
                    worker.crash();
                }
            }
            for caller in callers {
                let _ = caller.await.unwrap();
            }
            until(async || {
                let status = pool.status().await;
                status.busy == 0 && status.queued == 0 && status.ready == workers
            }).await;
            // Every worker is lent again.
            let again: Vec<_> = (0..workers).map(|_| spawn_call(&pool, "again")).collect();
            for call in again {
                call.await.unwrap().unwrap();
            }
            assert_eq!(factory.journal().most_live_in_a_slot(), 1);
            pool.shutdown().await;
        });
    }
}
