//! Workers that have served for long enough are replaced, and pools restarted, and no caller notices: on fake workers and a
//! paused clock.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use common::{FOREVER, builder, gated, nil, pool_of, spawn_call, until, until_queued};
use proptest::prelude::*;
use snakepit_core::{
    SlotId, WorkerId,
    event::{Event, EventKind},
    pool::{CallErrorKind, Phase, Pool, ReplaceCause, RestartError},
    rpc::Value,
    supervision::ReplaceError,
    testing::{FakeBehaviour, FakeResourceFactory, FakeStart, FakeWorkerFactory},
};
use tokio::{
    sync::broadcast,
    time::{Instant, sleep, timeout},
};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// Calls take this long.
fn taking(time: Duration) -> FakeBehaviour {
    FakeBehaviour::handler(move |request| async move {
        sleep(time).await;
        Ok(nil(request.call_id))
    })
}

async fn worker_in(pool: &Pool, slot: u32) -> Option<WorkerId> {
    let tree = pool.tree().await;
    let child = tree
        .children()
        .iter()
        .find(|child| child.status.slot == SlotId(slot));
    child.and_then(|child| child.status.worker)
}

/// The workers that were replaced from now on, and why.
async fn replaced(events: &mut broadcast::Receiver<Event>, count: usize) -> Vec<(WorkerId, ReplaceCause)> {
    let mut causes = BTreeMap::new();
    let mut replaced = Vec::new();
    while replaced.len() < count {
        match events.recv().await.unwrap().kind {
            EventKind::ReplacementStarted {
                worker: Some(worker),
                cause,
                ..
            } => {
                causes.insert(worker, cause);
            }
            EventKind::WorkerReplaced { worker, .. } => replaced.push((worker, causes[&worker])),
            _ => {}
        }
    }
    replaced
}

#[tokio::test(start_paused = true)]
async fn workers_of_the_same_age_are_replaced_one_after_the_other_and_not_together() {
    let factory = FakeWorkerFactory::new();
    let pool = builder(&factory)
        .workers(8)
        .max_age(Some(secs(100)))
        .start()
        .await
        .unwrap();
    let mut events = pool.events();
    let began = Instant::now();
    let mut times = Vec::new();
    for _ in 0..8 {
        let (_, cause) = replaced(&mut events, 1).await[0];
        let ReplaceCause::Age(age) = cause else {
            panic!("{cause}")
        };
        assert!((secs(80)..secs(101)).contains(&age), "{age:?}");
        times.push(began.elapsed().as_millis());
    }
    times.dedup();
    assert!(times.len() > 4, "they are spread: {times:?}");
    assert_eq!(factory.journal().most_live_in_a_slot(), 2);
    assert_eq!(pool.status().await.ready, 8);
    pool.shutdown().await;
    assert_eq!(factory.journal().live_in_all(), 0);
}

#[tokio::test(start_paused = true)]
async fn one_slot_at_a_time_has_two_workers_unless_more_are_allowed() {
    for (at_once, most) in [(1, 9), (3, 11)] {
        let factory = FakeWorkerFactory::new().with_end_taking(ms(200));
        let pool = builder(&factory)
            .workers(8)
            .max_age(Some(secs(5)))
            .recycle_jitter(0.0)
            .replacements(at_once)
            .start()
            .await
            .unwrap();
        factory.set_otherwise(FakeStart::Ready(ms(100)));
        let mut seen = 0;
        until(async || {
            seen = factory.journal().live_in_all().max(seen);
            (0..8).all(|slot| factory.journal().launches(SlotId(slot)) == 2)
                && factory.journal().live_in_all() == 8
        })
        .await;
        assert_eq!(seen, most, "{at_once} at once");
        pool.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_call_that_is_the_last_one_has_its_worker_replaced_and_not_one_before_it() {
    let factory = FakeWorkerFactory::new();
    let pool = builder(&factory)
        .max_calls(Some(10))
        .recycle_jitter(0.0)
        .start()
        .await
        .unwrap();
    let mut events = pool.events();
    let first = worker_in(&pool, 0).await.unwrap();
    for _ in 0..9 {
        pool.call::<_, Value>("f", ()).await.unwrap();
        sleep(secs(60)).await;
    }
    assert_eq!(worker_in(&pool, 0).await, Some(first));
    pool.call::<_, Value>("f", ()).await.unwrap();
    let told = replaced(&mut events, 1).await;
    assert_eq!(told, [(first, ReplaceCause::Calls(10))]);
    assert_eq!(pool.status().await.workers[0].calls, 0);
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_worker_after_every_call_under_many_callers_loses_and_fails_none() {
    for starts_take in [0, 5] {
        let factory = FakeWorkerFactory::new()
            .with_behaviour(taking(ms(1)))
            .with_otherwise(FakeStart::Ready(ms(starts_take)))
            .with_end_taking(ms(2));
        let pool = builder(&factory)
            .workers(3)
            .max_calls(Some(1))
            .replacements(2)
            .start()
            .await
            .unwrap();
        let callers: Vec<_> = (0..16)
            .map(|_| {
                let pool = pool.clone();
                tokio::spawn(async move {
                    for _ in 0..100 {
                        pool.call::<_, ()>("f", ()).await.unwrap();
                    }
                })
            })
            .collect();
        for caller in callers {
            timeout(FOREVER, caller).await.expect("no deadlock").unwrap();
        }
        let launches: usize = (0..3).map(|slot| factory.journal().launches(SlotId(slot))).sum();
        assert!(launches > 50, "workers were replaced all the while: {launches}");
        assert_eq!(factory.journal().most_live_in_a_slot(), 2);
        until(async || factory.journal().live_in_all() == 3).await;
        pool.shutdown().await;
        assert_eq!(factory.journal().live_in_all(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_with_too_much_memory_is_replaced_once_it_was_called() {
    let factory = FakeWorkerFactory::new();
    let measured = Arc::new(FakeResourceFactory::new("memory", factory.journal().clone()));
    let pool = builder(&factory)
        .max_rss(Some(1000))
        .resource(Arc::clone(&measured) as _)
        .start()
        .await
        .unwrap();
    let mut events = pool.events();
    let first = worker_in(&pool, 0).await.unwrap();
    until(async || measured.made().len() == 1).await;
    measured.made()[0].measure(1001);
    sleep(secs(60)).await;
    assert_eq!(
        worker_in(&pool, 0).await,
        Some(first),
        "another one would have as much"
    );
    pool.call::<_, Value>("f", ()).await.unwrap();
    let began = Instant::now();
    let told = replaced(&mut events, 1).await;
    assert_eq!(told, [(first, ReplaceCause::Memory { rss_bytes: 1001 })]);
    assert!(began.elapsed() <= secs(1), "{:?}", began.elapsed());
    measured.made()[1].measure(1000);
    let second = worker_in(&pool, 0).await;
    pool.call::<_, Value>("f", ()).await.unwrap();
    sleep(secs(60)).await;
    assert_eq!(worker_in(&pool, 0).await, second, "the limit itself is allowed");
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_busy_worker_whose_time_is_over_finishes_while_its_successor_serves() {
    let (behaviour, gate, _) = gated();
    let factory = FakeWorkerFactory::new().with_behaviour(behaviour);
    let pool = builder(&factory).max_age(Some(secs(10))).start().await.unwrap();
    let old = factory.worker(SlotId(0)).unwrap();
    let mut events = pool.events();
    let long = spawn_call(&pool, "long");
    until(async || old.fake_client().running().len() == 1).await;
    factory.set_behaviour(FakeBehaviour::Echo);
    replaced(&mut events, 1).await;
    // Its slot serves others, and only then is there a worker too many.
    pool.call::<_, Value>("short", ()).await.unwrap();
    let status = pool.status().await;
    assert_eq!((status.ready, status.busy), (1, 1));
    let leaving = status.workers[0].child.status.leaving.clone().unwrap();
    assert_eq!(leaving.worker, snakepit_core::worker::Worker::id(&*old));
    // However often its successor is due meanwhile.
    sleep(secs(1000)).await;
    assert!(old.is_up());
    assert_eq!(factory.journal().launches(SlotId(0)), 2);
    gate.add_permits(1);
    long.await.unwrap().unwrap();
    until(async || !old.is_up()).await;
    replaced(&mut events, 1).await;
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_bound_on_the_drain_costs_the_call_that_goes_on() {
    let factory = FakeWorkerFactory::new().with_behaviour(FakeBehaviour::HangDeaf);
    let pool = builder(&factory)
        .max_age(Some(secs(10)))
        .drain_timeout(Some(secs(30)))
        .start()
        .await
        .unwrap();
    let began = Instant::now();
    let error = spawn_call(&pool, "deaf").await.unwrap().unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::WorkerLost);
    assert!(
        (secs(38)..secs(42)).contains(&began.elapsed()),
        "{:?}",
        began.elapsed()
    );
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_successor_that_does_not_start_leaves_the_worker_serving_and_is_tried_again() {
    let factory = FakeWorkerFactory::new();
    let pool = builder(&factory).max_age(Some(secs(10))).start().await.unwrap();
    let first = worker_in(&pool, 0).await;
    factory.set_otherwise(FakeStart::fails("half deployed"));
    let mut events = pool.events();
    let mut failures = Vec::new();
    while failures.len() < 6 {
        if let EventKind::ReplacementFailed { error, .. } = events.recv().await.unwrap().kind {
            assert!(error.stderr_tail.contains("half deployed"));
            failures.push(Instant::now());
            pool.call::<_, Value>("f", ()).await.unwrap();
        }
    }
    let pauses: Vec<_> = failures.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses.windows(2).all(|pair| pair[1] > pair[0]), "{pauses:?}");
    assert_eq!(worker_in(&pool, 0).await, first);
    let status = pool.status().await;
    assert!(status.is_serving());
    let told = status.last_start_error.unwrap();
    assert!(told.stderr_tail.contains("half deployed"));
    factory.set_otherwise(FakeStart::ready());
    replaced(&mut events, 1).await;
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_gives_every_slot_a_new_worker_under_calls_and_fails_none() {
    let factory = FakeWorkerFactory::new()
        .with_behaviour(taking(ms(3)))
        .with_otherwise(FakeStart::Ready(ms(50)));
    let pool = builder(&factory).workers(4).start().await.unwrap();
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                while pool.status().await.phase == Phase::Running {
                    match pool.call::<_, ()>("f", ()).await {
                        Err(error) if error.kind() != CallErrorKind::NotServing => panic!("{error}"),
                        _ => {}
                    }
                }
            })
        })
        .collect();
    let mut before = Vec::new();
    for slot in 0..4 {
        before.push(worker_in(&pool, slot).await.unwrap());
    }
    let done = pool.restart().await.unwrap();
    assert_eq!((done.slots, done.draining), (4, 0));
    assert!(done.took >= ms(200), "one after the other: {:?}", done.took);
    for slot in 0..4 {
        assert!(worker_in(&pool, slot).await.unwrap() > before[slot as usize]);
        assert_eq!(factory.journal().live(SlotId(slot)), 1);
    }
    assert_eq!(factory.journal().launches(SlotId(0)), 2);
    pool.shutdown().await;
    for caller in callers {
        caller.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_version_that_does_not_start_touches_nothing_and_says_why() {
    let factory = FakeWorkerFactory::new();
    let pool = builder(&factory).workers(3).start().await.unwrap();
    let broken = FakeWorkerFactory::new().with_otherwise(FakeStart::fails("SyntaxError"));
    let error = pool.restart_with(Arc::new(broken.clone())).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "pool `test` is not restarted: 0 of 3 slots have a new worker, slot 0 has not"
    );
    let RestartError::Failed {
        replaced: 0, error, ..
    } = &error
    else {
        panic!("{error}")
    };
    let ReplaceError::Failed { error, .. } = error else {
        panic!("{error}")
    };
    assert!(error.stderr_tail.contains("SyntaxError"));
    let launches: usize = (0..3).map(|slot| broken.journal().launches(SlotId(slot))).sum();
    assert_eq!(launches, 1, "the others were not tried");
    // Whatever crashes comes back as it was.
    factory.worker(SlotId(0)).unwrap().crash();
    until(async || factory.worker(SlotId(0)).is_some_and(|worker| worker.is_up())).await;
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_changed_configuration_is_what_all_later_workers_have() {
    let factory = FakeWorkerFactory::new();
    let pool = builder(&factory).workers(2).start().await.unwrap();
    let changed = FakeWorkerFactory::new();
    pool.restart_with(Arc::new(changed.clone())).await.unwrap();
    assert_eq!(factory.journal().live_in_all(), 0);
    for slot in [0, 1] {
        changed.worker(SlotId(slot)).unwrap().crash();
    }
    until(async || changed.journal().launches(SlotId(1)) == 2 && changed.journal().live_in_all() == 2).await;
    // Also those of starters that were restarted, and of slots that are new.
    changed.set_otherwise(FakeStart::fails("for a while"));
    changed.worker(SlotId(0)).unwrap().crash();
    sleep(secs(20)).await;
    changed.set_otherwise(FakeStart::ready());
    pool.resize(3, 3).unwrap();
    until(async || pool.status().await.ready == 3).await;
    assert_eq!(
        (factory.journal().live_in_all(), changed.journal().live_in_all()),
        (0, 3)
    );
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_on_the_way_stops_a_restart_and_tells_how_far_it_came() {
    let factory = FakeWorkerFactory::new();
    let pool = builder(&factory).workers(3).start().await.unwrap();
    let flaky = FakeWorkerFactory::new().with_slot_script(SlotId(1), [FakeStart::fails("no memory")]);
    let error = pool.restart_with(Arc::new(flaky.clone())).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("1 of 3 slots have a new worker, slot 1 has not"),
        "{error}"
    );
    assert_eq!(
        (flaky.journal().live_in_all(), factory.journal().live_in_all()),
        (1, 2)
    );
    assert_eq!(pool.restart().await.unwrap().slots, 3);
    assert_eq!(
        (flaky.journal().live_in_all(), factory.journal().live_in_all()),
        (3, 0)
    );
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_goes_on_holds_a_restart_up_for_ten_seconds_and_not_longer() {
    let (behaviour, gate, _) = gated();
    let factory = FakeWorkerFactory::new().with_behaviour(behaviour);
    let pool = builder(&factory).workers(2).start().await.unwrap();
    let long = spawn_call(&pool, "long");
    until(async || pool.status().await.busy == 1).await;
    let done = pool.restart().await.unwrap();
    assert_eq!((done.slots, done.draining), (2, 1));
    assert!((secs(10)..secs(11)).contains(&done.took), "{:?}", done.took);
    // The next one takes the slots that it can first, and waits for the other.
    let again = tokio::spawn({
        let pool = pool.clone();
        async move { pool.restart().await }
    });
    sleep(secs(60)).await;
    let launches: usize = (0..2).map(|slot| factory.journal().launches(SlotId(slot))).sum();
    assert_eq!(launches, 5);
    gate.add_permits(1);
    long.await.unwrap().unwrap();
    assert_eq!(again.await.unwrap().unwrap().slots, 2);
    assert_eq!(factory.journal().most_live_in_a_slot(), 2);
    assert_eq!(factory.journal().live_in_all(), 2);
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_is_being_ended_ends_its_restart() {
    let factory = FakeWorkerFactory::new();
    let pool = builder(&factory)
        .workers(2)
        .max_age(Some(secs(5)))
        .start()
        .await
        .unwrap();
    factory.set_otherwise(FakeStart::Hangs);
    let restart = tokio::spawn({
        let pool = pool.clone();
        async move { pool.restart().await }
    });
    sleep(secs(1)).await;
    assert_eq!(factory.journal().live_in_all(), 3);
    let began = Instant::now();
    pool.shutdown().await;
    assert!(began.elapsed() < secs(1), "{:?}", began.elapsed());
    assert_eq!(factory.journal().live_in_all(), 0);
    let error = restart.await.unwrap().unwrap_err();
    assert!(
        matches!(error, RestartError::Failed { replaced: 0, .. }),
        "{error}"
    );
    let error = pool.restart().await.unwrap_err();
    assert_eq!(error.to_string(), "pool `test` is not restarted: it is stopped");
}

#[tokio::test(start_paused = true)]
async fn a_pool_whose_slots_all_rest_is_tried_again_at_once() {
    let factory = FakeWorkerFactory::new();
    let pool = builder(&factory).start().await.unwrap();
    factory.set_otherwise(FakeStart::fails("broken"));
    factory.worker(SlotId(0)).unwrap().crash();
    let mut events = pool.events();
    while !matches!(
        events.recv().await.unwrap().kind,
        EventKind::SlotQuarantined { .. }
    ) {}
    assert!(pool.restart().await.is_err());
    factory.set_otherwise(FakeStart::ready());
    let began = Instant::now();
    assert_eq!(pool.restart().await.unwrap().slots, 1);
    assert_eq!(began.elapsed(), Duration::ZERO);
    pool.call::<_, Value>("f", ()).await.unwrap();
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_is_not_needed_any_more_goes_after_the_calls_of_its_replaced_worker() {
    let (behaviour, gate, _) = gated();
    let factory = FakeWorkerFactory::new().with_behaviour(behaviour);
    let pool = builder(&factory).workers(2).start().await.unwrap();
    let calls = [spawn_call(&pool, "0"), spawn_call(&pool, "1")];
    until(async || pool.status().await.busy == 2).await;
    let done = pool.restart().await.unwrap();
    assert_eq!((done.slots, done.draining), (2, 2));
    pool.resize(1, 1).unwrap();
    sleep(secs(60)).await;
    assert_eq!(factory.journal().live_in_all(), 4);
    gate.add_permits(2);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    until(async || factory.journal().live_in_all() == 1).await;
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_drained_pool_is_restarted_and_goes_on() {
    let (factory, pool) = pool_of(FakeBehaviour::Echo).await;
    pool.drain().await;
    assert_eq!(pool.restart().await.unwrap().slots, 1);
    pool.resume();
    pool.call::<_, Value>("f", ()).await.unwrap();
    assert_eq!(factory.journal().launches(SlotId(0)), 2);
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_are_served_by_the_successor() {
    let (behaviour, gate, _) = gated();
    let factory = FakeWorkerFactory::new().with_behaviour(behaviour);
    let pool = builder(&factory).start().await.unwrap();
    let long = spawn_call(&pool, "long");
    until(async || pool.status().await.busy == 1).await;
    let waiting = spawn_call(&pool, "waiting");
    until_queued(&pool, 1).await;
    factory.set_behaviour(FakeBehaviour::Value(vec![0xc0].into()));
    pool.restart().await.unwrap();
    waiting.await.unwrap().unwrap();
    assert!(!long.is_finished());
    gate.add_permits(1);
    long.await.unwrap().unwrap();
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn wrong_limits_are_named() {
    let builder = builder(&FakeWorkerFactory::new())
        .max_age(Some(Duration::ZERO))
        .max_calls(Some(0))
        .max_rss(Some(0))
        .recycle_jitter(1.5)
        .replacements(0);
    let error = builder.start().await.unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    for wrong in [
        "max_age is zero",
        "max_calls is 0",
        "max_rss is 0",
        "recycle_jitter is 1.5, it must be 0 to 1",
        "replacements is 0",
    ] {
        assert!(source.contains(wrong), "{wrong}: {source}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Callers that leave at any time, workers that crash, restarts whenever: every slot ends up with one worker, which is
    /// lent, and nothing else is left.
    #[test]
    fn no_order_of_restarts_and_calls_loses_a_worker(
        workers in 1_usize..4,
        max_calls in 1_u64..4,
        replacements in 1_usize..3,
        stays_ms in prop::collection::vec(0_u64..20, 1..60),
        crashes in prop::collection::vec((0_u64..8, 0_u32..4), 0..4),
        restarts in prop::collection::vec(0_u64..8, 0..4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let factory = FakeWorkerFactory::new()
                .with_behaviour(taking(ms(3)))
                .with_otherwise(FakeStart::Ready(ms(2)))
                .with_end_taking(ms(4));
            let pool = builder(&factory)
                .workers(workers)
                .max_calls(Some(max_calls))
                .replacements(replacements)
                .start()
                .await
                .unwrap();
            let callers: Vec<_> = stays_ms.iter().map(|stay| {
                let (pool, stay) = (pool.clone(), ms(*stay));
                tokio::spawn(async move { timeout(stay, pool.call::<_, ()>("f", ())).await })
            }).collect();
            let restarts: Vec<_> = restarts.iter().map(|after| {
                let (pool, after) = (pool.clone(), ms(*after));
                tokio::spawn(async move {
                    sleep(after).await;
                    pool.restart().await.unwrap();
                })
            }).collect();
            for (after, slot) in crashes {
                sleep(ms(after)).await;
                if let Some(worker) = factory.worker(SlotId(slot)) {
                    worker.crash();
                }
            }
            for caller in callers {
                if let Ok(Err(error)) = caller.await.unwrap() {
                    assert_eq!(error.kind(), CallErrorKind::WorkerLost, "{error}");
                }
            }
            for restart in restarts {
                restart.await.unwrap();
            }
            until(async || {
                let status = pool.status().await;
                status.busy == 0 && status.ready == workers && factory.journal().live_in_all() as usize == workers
            }).await;
            assert!(factory.journal().most_live_in_a_slot() <= 2);
            let again: Vec<_> = (0..workers).map(|_| spawn_call(&pool, "again")).collect();
            for call in again {
                call.await.unwrap().unwrap();
            }
            pool.shutdown().await;
            assert_eq!(factory.journal().live_in_all(), 0);
        });
    }
}
