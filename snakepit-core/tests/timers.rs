//! The times of a pool, exactly: what happens when, on fake workers and a clock that moves only when everybody waits.
//!
//! Each test is a table of seconds since its beginning. Where a time has jitter, the table has its bounds.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{sync::Arc, time::Duration};

use common::{FOREVER, builder, gated, spawn_call, until};
use snakepit_core::{
    SlotId,
    event::{Event, EventKind, Events},
    pool::{CallError, CallErrorKind, CancelOutcome, Pool, ReplaceCause, Request},
    rpc::Value,
    supervision::{Backoff, Shutdown, SlotState},
    testing::{FakeBehaviour, FakeStart, FakeWorkerFactory, Record},
    worker::DownReason,
};
use tokio::{
    sync::broadcast,
    task::yield_now,
    time::{Instant, sleep, timeout},
};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// Settings of a pool of one, on workers that do this.
fn with(behaviour: FakeBehaviour) -> (FakeWorkerFactory, snakepit_core::pool::PoolBuilder) {
    let factory = FakeWorkerFactory::new().with_behaviour(behaviour);
    let pool = builder(&factory);
    (factory, pool)
}

/// Waits for an event that fits, and tells when it came.
async fn when(events: &mut broadcast::Receiver<Event>, fits: impl Fn(&EventKind) -> bool) -> Instant {
    let found = async {
        while !fits(&events.recv().await.unwrap().kind) {}
        Instant::now()
    };
    timeout(FOREVER * 24, found).await.expect("it never came to that")
}

/// How a call ends, and how long after it was sent.
async fn ends(request: Request<'_>) -> (Result<(), CallError>, Duration) {
    let sent = Instant::now();
    (request.send::<()>().await, sent.elapsed())
}

/// What bounds a call, while it waits for 3 s and then runs on.
#[tokio::test(start_paused = true)]
async fn the_budget_that_runs_out_first_ends_a_call_at_its_time() {
    use CallErrorKind::{DeadlineExceeded, QueueTimeout, RunTimeout};
    let table = [
        // deadline, queue timeout, run timeout: ends after, as
        ((Some(2), None, None), 2, DeadlineExceeded),
        ((Some(5), None, None), 5, DeadlineExceeded),
        ((None, Some(2), None), 2, QueueTimeout),
        ((None, None, Some(4)), 3 + 4, RunTimeout),
        ((Some(9), Some(8), Some(4)), 3 + 4, RunTimeout),
        ((Some(6), Some(8), Some(4)), 6, DeadlineExceeded),
        ((Some(2), Some(1), Some(1)), 1, QueueTimeout),
        ((Some(2), Some(2), None), 2, DeadlineExceeded),
        ((None, Some(3), Some(1)), 3, QueueTimeout),
    ];
    for ((deadline, queue, run), after, kind) in table {
        let (_, pool) = with(FakeBehaviour::Hang);
        let pool = pool.deadline(deadline.map(secs)).start().await.unwrap();
        let before = pool.request("before").no_deadline().run_timeout(secs(3));
        let call = async {
            let call = pool.request("f").queue_timeout(queue.map(secs));
            ends(call.run_timeout(run.map(secs))).await
        };
        let (_, (outcome, took)) = tokio::join!(ends(before), call);
        let case = format!("deadline {deadline:?}, queue {queue:?}, run {run:?}");
        assert_eq!(took, secs(after), "{case}");
        assert_eq!(outcome.unwrap_err().kind(), kind, "{case}");
        pool.kill().await;
    }
}

/// A worker dies at 2 s and 4 s of a call: the first is followed at once, the second after about 100 ms.
#[tokio::test(start_paused = true)]
async fn a_deadline_goes_on_over_retries_and_a_run_timeout_begins_anew() {
    use CallErrorKind::{DeadlineExceeded, RunTimeout};
    let third = (ms(4080 + 3000), ms(4122 + 3000));
    let table = [
        // deadline, run timeout: ends between, as
        (Some(secs(5)), None, (secs(5), secs(5)), DeadlineExceeded),
        (None, Some(secs(3)), third, RunTimeout),
        (Some(secs(9)), Some(secs(3)), third, RunTimeout),
        (Some(secs(3)), Some(secs(3)), (secs(3), secs(3)), DeadlineExceeded),
    ];
    for (deadline, run_timeout, (earliest, latest), kind) in table {
        let (factory, pool) = with(FakeBehaviour::Hang);
        let pool = pool
            .deadline(deadline)
            .run_timeout(run_timeout)
            .start()
            .await
            .unwrap();
        let deaths = async {
            for _ in 0..2 {
                sleep(secs(2)).await;
                factory.worker(SlotId(0)).unwrap().crash();
            }
        };
        let ((), (outcome, took)) = tokio::join!(deaths, ends(pool.request("f").idempotent()));
        assert_eq!(outcome.unwrap_err().kind(), kind);
        assert!(
            (earliest..=latest).contains(&took),
            "{deadline:?}, {run_timeout:?}: {took:?}"
        );
        pool.kill().await;
    }
}

/// Cancelled at 1 s with a grace of 2 s.
#[tokio::test(start_paused = true)]
async fn a_cancelled_call_costs_its_worker_after_the_grace_and_not_before() {
    let table = [
        // whether it takes the cancel, told after, its worker is free again after, and what ended it
        (FakeBehaviour::Hang, secs(1), secs(1), CancelOutcome::Stopped),
        (
            FakeBehaviour::HangDeaf,
            secs(1),
            secs(3),
            CancelOutcome::WorkerReplaced,
        ),
    ];
    for (behaviour, told, free, outcome) in table {
        let (factory, pool) = with(behaviour);
        let pool = pool.cancel_grace(secs(2)).start().await.unwrap();
        factory.set_behaviour(FakeBehaviour::Echo);
        let worker = factory.worker(SlotId(0)).unwrap();
        let began = Instant::now();
        let (error, took) = ends(pool.request("f").deadline(secs(1))).await;
        assert_eq!(took, told);
        let Err(CallError::DeadlineExceeded(error)) = error else {
            panic!("{error:?}");
        };
        assert_eq!(error.outcome().await, outcome);
        assert_eq!(began.elapsed(), free);
        worker.fake_client().set_behaviour(FakeBehaviour::Echo);
        pool.call::<_, Value>("next", ()).await.unwrap();
        assert_eq!(began.elapsed(), free, "the next one has a worker at once");
        assert_eq!(worker.is_up(), outcome == CancelOutcome::Stopped);
        pool.shutdown().await;
    }
}

/// When the starts of a slot began, in seconds since the first.
fn starts(factory: &FakeWorkerFactory) -> Vec<f64> {
    let records = factory.journal().timed_records();
    let mut launched = records
        .into_iter()
        .filter(|(_, record)| matches!(record, Record::Launched(..)))
        .map(|(at, _)| at);
    let first = launched.next().unwrap();
    let since = |at: Instant| (at - first).as_secs_f64();
    std::iter::once(0.0).chain(launched.map(since)).collect()
}

#[track_caller]
fn assert_about(found: f64, plain: f64, jitter: f64) {
    let allowed = plain * (1.0 - jitter) - 0.001..=plain * (1.0 + jitter) + 0.002;
    assert!(
        allowed.contains(&found),
        "{found} s, it should be about {plain} s"
    );
}

/// A worker dies, and every start after it fails: four lives of the starter with a start at once, and pauses of 0, 100 and 200 ms; then rests.
#[tokio::test(start_paused = true)]
async fn a_slot_that_never_starts_pauses_and_rests_for_longer_and_longer() {
    let (factory, pool) = with(FakeBehaviour::Echo);
    let pool = pool.start().await.unwrap();
    let mut events = pool.events();
    factory.set_otherwise(FakeStart::fails("no such module"));
    factory.worker(SlotId(0)).unwrap().crash();
    let mut rests = Vec::new();
    while rests.len() < 6 {
        when(&mut events, |kind| {
            matches!(kind, EventKind::SlotQuarantined { .. })
        })
        .await;
        let states = pool.status().await;
        if let SlotState::Quarantined { left } = states.workers[0].child.status.state {
            rests.push(left);
        }
    }
    assert_eq!(rests, [30, 60, 120, 240, 300, 300].map(secs));
    let starts = starts(&factory);
    let pauses: Vec<_> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let life = [0.0, 0.1, 0.2];
    // A starter that is started again begins at once.
    let lives = [life, life, life, life].join(&0.0);
    let mut table = lives;
    for rest in [30.0, 60.0, 120.0, 240.0, 300.0] {
        table.push(rest);
        table.extend(life);
    }
    assert_eq!(pauses.len(), table.len());
    for (found, plain) in pauses.into_iter().zip(table) {
        assert_about(
            found,
            plain,
            if plain < 30.0 {
                Backoff::default().jitter
            } else {
                0.0
            },
        );
    }
    pool.shutdown().await;
}

/// A worker dies, again and again: at once after 6 s of service, with pauses after less.
#[tokio::test(start_paused = true)]
async fn a_worker_that_dies_is_followed_at_once_and_after_a_pause_when_it_dies_again() {
    let (factory, pool) = with(FakeBehaviour::Echo);
    let pool = pool.start().await.unwrap();
    let mut events = pool.events();
    let table = [
        // served for, seconds; replaced after, seconds
        (6.0, 0.0),
        (6.0, 0.0),
        (3.0, 0.1),
        (6.0, 0.0),
        (4.0, 0.1),
        (4.0, 0.2),
        (6.0, 0.0),
    ];
    for (served, pause) in table {
        sleep(Duration::from_secs_f64(served)).await;
        let died = Instant::now();
        factory.worker(SlotId(0)).unwrap().crash();
        let ready = when(&mut events, |kind| matches!(kind, EventKind::WorkerReady { .. })).await;
        assert_about((ready - died).as_secs_f64(), pause, Backoff::default().jitter);
    }
    pool.shutdown().await;
}

/// An idle timeout of 10 s is looked at every 5 s, from the growth on.
#[tokio::test(start_paused = true)]
async fn a_worker_that_is_not_needed_goes_between_one_and_one_and_a_half_idle_timeouts() {
    let (behaviour, gate, _) = gated();
    let (_, pool) = with(behaviour);
    let pool = pool
        .workers(3)
        .min_workers(1)
        .idle_timeout(secs(10))
        .start()
        .await
        .unwrap();
    let call = spawn_call(&pool, "f");
    until(async || pool.status().await.ready == 2).await;
    sleep(secs(20)).await;
    assert_eq!(
        pool.status().await.ready,
        2,
        "a spare worker stays while a call runs"
    );
    let mut events = pool.events();
    gate.add_permits(1);
    call.await.unwrap().unwrap();
    let answered = Instant::now();
    let gone = when(&mut events, |kind| {
        matches!(kind, EventKind::SlotTerminated { .. })
    })
    .await;
    // The spare one had been idle for long: it goes at the next look.
    assert!(gone - answered <= secs(5), "{:?}", gone - answered);
    sleep(FOREVER).await;
    assert_eq!(pool.status().await.ready, 1);
    pool.shutdown().await;
}

/// An age of 100 s, at most 20 % shorter by jitter; the successor takes 3 s to start.
#[tokio::test(start_paused = true)]
async fn a_worker_serves_for_its_age_less_jitter_until_its_successor_is_ready() {
    for (jitter, earliest) in [(0.0, 100), (0.2, 80)] {
        let (factory, pool) = with(FakeBehaviour::Echo);
        let pool = pool
            .max_age(Some(secs(100)))
            .recycle_jitter(jitter)
            .start()
            .await
            .unwrap();
        factory.set_otherwise(FakeStart::Ready(secs(3)));
        let mut events = pool.events();
        let mut born = Instant::now();
        for _ in 0..5 {
            let age = |kind: &EventKind| {
                matches!(
                    kind,
                    EventKind::ReplacementStarted {
                        cause: ReplaceCause::Age(_),
                        ..
                    }
                )
            };
            let began = when(&mut events, age).await;
            let served = began - born;
            assert!(
                (secs(earliest)..=secs(100) + ms(1)).contains(&served),
                "{served:?}"
            );
            let gone = when(&mut events, |kind| {
                matches!(kind, EventKind::WorkerReplaced { .. })
            })
            .await;
            assert_eq!(gone - began, secs(3));
            born = gone;
        }
        pool.shutdown().await;
    }
}

/// Drain and grace of a shutdown, and how long a worker takes to end when it may.
#[tokio::test(start_paused = true)]
async fn a_shutdown_takes_its_drain_and_its_grace_and_no_more() {
    let table = [
        // the call takes, the worker takes to end; drain, grace: the shutdown takes
        ((Some(1), 0), (5, 5), 1),
        ((Some(4), 1), (5, 5), 4 + 1),
        ((None, 0), (5, 5), 5),
        ((None, 3), (5, 5), 5 + 3),
        ((None, 60), (5, 5), 5 + 5),
        ((None, 60), (0, 5), 5),
        ((None, 60), (3, 0), 3),
        // Without a call: 2 s of the drain for the stop hooks, and the grace.
        ((Some(0), 60), (5, 5), 2 + 5),
        ((Some(0), 60), (1, 5), 1 + 5),
    ];
    for ((call_takes, end_takes), (drain, grace), takes) in table {
        let behaviour = FakeBehaviour::handler(move |request| async move {
            match call_takes {
                Some(takes) => sleep(secs(takes)).await,
                None => std::future::pending().await,
            }
            Ok(common::nil(request.call_id))
        });
        let factory = FakeWorkerFactory::new()
            .with_behaviour(behaviour)
            .with_end_taking(secs(end_takes));
        let shutdown = Shutdown {
            drain: secs(drain),
            grace: secs(grace),
        };
        let pool = builder(&factory).shutdown(shutdown).start().await.unwrap();
        let call = spawn_call(&pool, "f");
        // It is sent without time passing.
        while pool.status().await.waited.count == 0 {
            yield_now().await;
        }
        let began = Instant::now();
        pool.shutdown().await;
        let case = format!("call {call_takes:?}, end {end_takes}, drain {drain}, grace {grace}");
        assert_eq!(began.elapsed(), secs(takes), "{case}");
        assert_eq!(call.await.unwrap().is_ok(), call_takes.is_some(), "{case}");
        assert_eq!(factory.journal().live_in_all(), 0, "{case}");
    }
}

/// A worker whose connection failed has 2 s to say why, one that is leaving 5 s to leave.
#[tokio::test(start_paused = true)]
async fn a_worker_that_fails_and_stays_is_replaced_after_its_time() {
    let leaving = snakepit_proto::v1::CallError {
        kind: snakepit_proto::v1::call_error::Kind::ShuttingDown.into(),
        ..Default::default()
    };
    let table = [
        (FakeBehaviour::FailTransport("broken pipe".into()), secs(2)),
        (FakeBehaviour::Error(leaving), secs(5)),
    ];
    for (behaviour, after) in table {
        let (factory, pool) = with(behaviour);
        let pool = pool.start().await.unwrap();
        factory.set_behaviour(FakeBehaviour::Echo);
        let mut events = pool.events();
        let began = Instant::now();
        pool.request("f").idempotent().send::<Value>().await.unwrap();
        assert_eq!(began.elapsed(), after);
        let down = when(&mut events, |kind| {
            let EventKind::WorkerDown { down, .. } = kind else {
                return false;
            };
            matches!(
                down.reason,
                DownReason::ChannelFailed { .. } | DownReason::StayedOn
            )
        });
        assert_eq!(down.await - began, after);
        pool.shutdown().await;
    }
}

/// Three slots, each with a call: a restart waits 10 s for each, unless they are over or their drain is.
#[tokio::test(start_paused = true)]
async fn a_restart_waits_ten_seconds_for_the_calls_of_each_slot_and_not_longer() {
    for (calls_take, drain, restart_takes) in [
        (secs(4), None, secs(4)),
        (secs(60), None, secs(30)),
        (secs(60), Some(secs(1)), secs(3)),
    ] {
        let factory =
            FakeWorkerFactory::new().with_behaviour(FakeBehaviour::handler(move |request| async move {
                sleep(calls_take).await;
                Ok(common::nil(request.call_id))
            }));
        let pool = Pool::builder(Arc::new(factory.clone()), Events::new("test"));
        let pool = pool.workers(3).drain_timeout(drain).start().await.unwrap();
        let calls = [(); 3].map(|()| spawn_call(&pool, "f"));
        until(async || pool.status().await.busy == 3).await;
        let sent = Instant::now();
        let restarted = pool.restart().await.unwrap();
        let took = sent.elapsed();
        assert!(
            took.abs_diff(restart_takes) < ms(10),
            "{calls_take:?}, {drain:?}: {took:?}"
        );
        assert_eq!(restarted.slots, 3);
        assert_eq!(restarted.draining, if restart_takes == secs(30) { 3 } else { 0 });
        for call in calls {
            assert_eq!(call.await.unwrap().is_ok(), drain.is_none());
        }
        pool.shutdown().await;
    }
}
