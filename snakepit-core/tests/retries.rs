//! Calls whose time runs out or whose workers are lost: what is executed again, what is refused, and what is told.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::time::Duration;

use common::{FOREVER, builder, gated, nil, pool_of, spawn_call, until};
use snakepit_core::{
    SlotId,
    event::EventKind,
    pool::{CallError, CallErrorKind, CancelOutcome, Phase, Pool},
    rpc::Value,
    testing::{FakeBehaviour, FakeWorkerFactory},
};
use tokio::time::{Instant, timeout};

const MOMENT: Duration = Duration::from_millis(50);

/// A pool whose workers die of a call of `dies`, and answer everything else.
async fn deadly(workers: usize) -> (FakeWorkerFactory, Pool) {
    let factory = FakeWorkerFactory::new();
    let workers_of = factory.clone();
    let behaviour = FakeBehaviour::handler(move |request| {
        let factory = workers_of.clone();
        async move {
            if request.function != "dies" {
                return Ok(nil(request.call_id));
            }
            for slot in (0..8).map(SlotId) {
                let worker = factory.worker(slot);
                let ran = |client: &snakepit_core::testing::FakeClient| {
                    let requests = client.requests();
                    requests.last().is_some_and(|last| last.function == "dies")
                };
                if let Some(worker) = worker.filter(|worker| ran(worker.fake_client())) {
                    worker.crash();
                }
            }
            std::future::pending().await
        }
    });
    factory.set_behaviour(behaviour);
    let pool = builder(&factory).workers(workers).start().await.unwrap();
    (factory, pool)
}

fn executed(factory: &FakeWorkerFactory, slots: u32) -> usize {
    let workers = (0..slots).filter_map(|slot| factory.worker(SlotId(slot)));
    workers.map(|worker| worker.fake_client().requests().len()).sum()
}

#[tokio::test(start_paused = true)]
async fn a_run_timeout_counts_from_dispatch_and_tells_what_ended_the_call() {
    let (factory, pool) = pool_of(FakeBehaviour::Hang).await;
    let mut events = pool.events();
    let first = spawn_call(&pool, "first");
    until(async || pool.status().await.busy == 1).await;
    let second = pool.request("second").run_timeout(MOMENT).send::<()>();
    let second = tokio::time::timeout(10 * MOMENT, second);
    assert!(second.await.is_err(), "it waits: its run has not begun");
    first.abort();
    let began = Instant::now();
    let error = pool
        .request("third")
        .run_timeout(MOMENT)
        .send::<()>()
        .await
        .unwrap_err();
    assert!(began.elapsed() >= MOMENT && began.elapsed() < 2 * MOMENT);
    assert_eq!(error.kind(), CallErrorKind::RunTimeout);
    assert!(
        error
            .to_string()
            .starts_with("the run timeout of 50ms for third passed after 50"),
        "{error}"
    );
    assert!(error.may_have_executed() && !error.is_retryable());
    let CallError::DeadlineExceeded(error) = error else {
        panic!("{error}");
    };
    assert_eq!(error.outcome().await, CancelOutcome::Stopped);
    assert_eq!(error.outcome().await, CancelOutcome::Stopped);

    factory
        .worker(SlotId(0))
        .unwrap()
        .fake_client()
        .set_behaviour(FakeBehaviour::HangDeaf);
    factory.set_behaviour(FakeBehaviour::Echo);
    let error = pool
        .request("deaf")
        .run_timeout(MOMENT)
        .send::<()>()
        .await
        .unwrap_err();
    let CallError::DeadlineExceeded(error) = error else {
        panic!("{error}");
    };
    assert_eq!(error.outcome().await, CancelOutcome::WorkerReplaced);
    pool.call::<_, Value>("next", ()).await.unwrap();
    let mut told = Vec::new();
    while let Ok(event) = events.try_recv() {
        if let EventKind::CallCancelled { outcome, .. } = event.kind {
            told.push(outcome);
        }
    }
    use CancelOutcome::{Stopped, WorkerReplaced};
    assert_eq!(told, [Stopped, Stopped, WorkerReplaced]);
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn the_sooner_of_two_budgets_is_named_and_shown_to_the_worker() {
    let (factory, pool) = pool_of(FakeBehaviour::Hang).await;
    let request = pool.request("f").deadline(4 * MOMENT);
    let error = request
        .clone()
        .run_timeout(MOMENT)
        .send::<()>()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::RunTimeout);
    let error = request.run_timeout(9 * MOMENT).send::<()>().await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::DeadlineExceeded);
    let shown: Vec<_> = factory.worker(SlotId(0)).unwrap().fake_client().requests();
    let shown: Vec<_> = shown
        .iter()
        .map(|request| request.deadline_us.unwrap() / 1000)
        .collect();
    assert_eq!(shown, [50, 200]);
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_may_not_be_repeated_is_executed_once() {
    let (factory, pool) = deadly(3).await;
    let error = pool.call::<_, ()>("dies", ()).await.unwrap_err();
    assert!(
        matches!(&error, CallError::WorkerLost(lost) if lost.attempts == 1),
        "{error}"
    );
    assert!(error.is_retryable() && error.may_have_executed());
    assert_eq!(executed(&factory, 3), 0, "the worker was replaced");
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn an_idempotent_call_goes_on_to_another_worker_and_its_caller_does_not_notice() {
    let (factory, pool) = pool_of(FakeBehaviour::Hang).await;
    let worker = factory.worker(SlotId(0)).unwrap();
    factory.set_behaviour(FakeBehaviour::Echo);
    let call = tokio::spawn({
        let pool = pool.clone();
        async move { pool.request("f").idempotent().args(&(7,))?.send::<(i64,)>().await }
    });
    until(async || !worker.fake_client().running().is_empty()).await;
    worker.crash();
    assert_eq!(call.await.unwrap().unwrap(), (7,));
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn an_idempotent_call_gives_up_after_its_attempts_and_within_its_deadline() {
    let (_, pool) = deadly(3).await;
    let error = pool.request("dies").idempotent().send::<()>().await.unwrap_err();
    let CallError::WorkerLost(lost) = &error else {
        panic!("{error}");
    };
    assert_eq!(lost.attempts, 3);
    assert!(error.to_string().contains("attempt 3: "), "{error}");
    pool.shutdown().await;

    // The only worker dies, and its slot gets no other one.
    let factory = FakeWorkerFactory::new().with_behaviour(FakeBehaviour::Hang);
    let pool = builder(&factory).start().await.unwrap();
    let worker = factory.worker(SlotId(0)).unwrap();
    factory.set_otherwise(snakepit_core::testing::FakeStart::Hangs);
    let call = tokio::spawn({
        let pool = pool.clone();
        async move {
            pool.request("f")
                .idempotent()
                .deadline(4 * MOMENT)
                .send::<()>()
                .await
        }
    });
    until(async || !worker.fake_client().running().is_empty()).await;
    worker.crash();
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::DeadlineExceeded);
    let text = error.to_string();
    assert!(
        text.contains("while it waited for another worker than "),
        "{text}"
    );
    assert!(error.may_have_executed(), "it was, by the first one");
    assert!(
        std::error::Error::source(&error).is_some()
            || matches!(error, CallError::DeadlineExceeded(e) if e.lost.is_some())
    );
    pool.kill().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_while_it_is_repeated_tells_of_the_worker_that_was_lost() {
    let (factory, pool) = pool_of(FakeBehaviour::Hang).await;
    let worker = factory.worker(SlotId(0)).unwrap();
    factory.set_otherwise(snakepit_core::testing::FakeStart::Hangs);
    let call = tokio::spawn({
        let pool = pool.clone();
        async move { pool.request("f").idempotent().send::<()>().await }
    });
    until(async || !worker.fake_client().running().is_empty()).await;
    worker.crash();
    until(async || pool.status().await.queued == 1).await;
    pool.kill().await;
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::WorkerLost);
    assert!(error.may_have_executed());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_kills_its_workers_is_refused_with_the_evidence_and_tried_again_later() {
    let (factory, pool) = deadly(2).await;
    for _ in 0..3 {
        let error = pool.call::<_, ()>("dies", ("poison",)).await.unwrap_err();
        assert_eq!(error.kind(), CallErrorKind::WorkerLost);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let error = pool.call::<_, ()>("dies", ("poison",)).await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Poisoned);
    assert!(!error.may_have_executed() && !error.is_retryable());
    let text = error.to_string();
    assert!(
        text.starts_with("this call of dies is not executed: 3 workers in a row ended"),
        "{text}"
    );
    // Neither another function nor other arguments are to blame.
    pool.call::<_, ()>("lives", ("poison",)).await.unwrap();
    let other = pool.call::<_, ()>("dies", ("other",)).await.unwrap_err();
    assert_eq!(other.kind(), CallErrorKind::WorkerLost);

    // What it died of is repaired: it is tried once, and all is forgotten.
    factory.set_behaviour(FakeBehaviour::Echo);
    for slot in [0, 1].map(SlotId) {
        if let Some(worker) = factory.worker(slot) {
            worker.fake_client().set_behaviour(FakeBehaviour::Echo);
        }
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    for _ in 0..2 {
        pool.call::<_, Value>("dies", ("poison",)).await.unwrap();
    }
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn workers_that_are_killed_from_outside_do_not_make_a_call_suspicious() {
    let factory = FakeWorkerFactory::new().with_behaviour(FakeBehaviour::Hang);
    let pool = builder(&factory).workers(8).start().await.unwrap();
    let calls: Vec<_> = (0..8).map(|_| spawn_call(&pool, "f")).collect();
    until(async || pool.status().await.busy == 8).await;
    factory.set_behaviour(FakeBehaviour::Echo);
    for slot in (0..8).map(SlotId) {
        factory.worker(slot).unwrap().crash();
    }
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap_err().kind(), CallErrorKind::WorkerLost);
    }
    pool.call::<_, Value>("f", ()).await.unwrap();
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_and_a_shutdown_wait_for_a_call_that_is_executed_again() {
    for shuts_down in [false, true] {
        let (behaviour, gate, _) = gated();
        let (factory, pool) = pool_of(behaviour).await;
        let call = tokio::spawn({
            let pool = pool.clone();
            async move { pool.request("f").idempotent().send::<Value>().await }
        });
        until(async || pool.status().await.busy == 1).await;
        let mut drained = tokio::spawn({
            let pool = pool.clone();
            async move {
                if shuts_down {
                    pool.shutdown().await;
                } else {
                    pool.drain().await;
                }
            }
        });
        until(async || pool.status().await.phase == Phase::Draining).await;
        factory.worker(SlotId(0)).unwrap().crash();
        assert!(
            timeout(Duration::from_secs(1), &mut drained).await.is_err(),
            "the call is not over"
        );
        gate.add_permits(1);
        call.await.unwrap().unwrap();
        timeout(FOREVER, drained).await.unwrap().unwrap();
        pool.shutdown().await;
    }
}
