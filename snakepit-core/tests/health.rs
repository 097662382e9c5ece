//! Health checks of fake workers: when they are made, and what they cost calls.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{builder, nil, spawn_call, until, until_queued};
use snakepit_core::{
    SlotId,
    event::EventKind,
    pool::{CallErrorKind, Pool, PoolBuilder, PoolSettings},
    testing::{FakeBehaviour, FakeWorkerFactory},
    worker::DownReason,
};
use snakepit_proto::v1::{CallError, CallResponse, call_error::Kind, call_response::Outcome};
use tokio::{
    sync::{Semaphore, broadcast},
    time::{Instant, sleep},
};

const CHECK: &str = "checks:health";
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(10);

/// What health checks are answered.
#[derive(Clone, Copy)]
enum Answer {
    Healthy,
    Bad,
    Hangs,
    /// Once it is let through.
    Gated,
}

#[derive(Clone)]
struct Bench {
    factory: FakeWorkerFactory,
    answer: Arc<Mutex<Answer>>,
    /// Lets checks through.
    checks: Arc<Semaphore>,
    /// Lets calls through.
    calls: Arc<Semaphore>,
    log: Arc<Mutex<Vec<String>>>,
    out: Arc<AtomicUsize>,
    most_out: Arc<AtomicUsize>,
}

impl Bench {
    fn new(answer: Answer) -> Self {
        let bench = Self {
            factory: FakeWorkerFactory::new().with_health_check(CHECK),
            answer: Arc::new(Mutex::new(answer)),
            checks: Arc::new(Semaphore::new(0)),
            calls: Arc::new(Semaphore::new(0)),
            log: Arc::default(),
            out: Arc::default(),
            most_out: Arc::default(),
        };
        let handling = bench.clone();
        let behaviour = FakeBehaviour::handler(move |request| {
            let bench = handling.clone();
            async move {
                bench.log.lock().unwrap().push(request.function.clone());
                if request.function != CHECK {
                    bench.calls.acquire().await.unwrap().forget();
                    return Ok(nil(request.call_id));
                }
                let out = bench.out.fetch_add(1, Ordering::Relaxed) + 1;
                bench.most_out.fetch_max(out, Ordering::Relaxed);
                let answer = *bench.answer.lock().unwrap();
                match answer {
                    Answer::Hangs => std::future::pending().await,
                    Answer::Gated => bench.checks.acquire().await.unwrap().forget(),
                    Answer::Healthy | Answer::Bad => {}
                }
                bench.out.fetch_sub(1, Ordering::Relaxed);
                if !matches!(answer, Answer::Bad) {
                    return Ok(nil(request.call_id));
                }
                let error = CallError {
                    kind: Kind::Raised.into(),
                    message: "RuntimeError: the disk is full".into(),
                    ..CallError::default()
                };
                Ok(CallResponse {
                    call_id: request.call_id,
                    outcome: Some(Outcome::Error(error)),
                })
            }
        });
        bench.factory.set_behaviour(behaviour);
        bench
    }

    fn builder(&self) -> PoolBuilder {
        builder(&self.factory)
            .health_interval(Some(INTERVAL))
            .health_timeout(TIMEOUT)
    }

    fn answers(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    fn checked(&self) -> usize {
        self.log().iter().filter(|function| *function == CHECK).count()
    }
}

async fn down_reason(events: &mut broadcast::Receiver<snakepit_core::event::Event>) -> DownReason {
    loop {
        if let EventKind::WorkerDown { down, .. } = events.recv().await.unwrap().kind {
            return down.reason;
        }
    }
}

/// Nothing is held by a caller or a check.
async fn is_whole(pool: &Pool) {
    let status = pool.status().await;
    assert_eq!((status.ready, status.busy, status.queued), (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_check_comes_before_the_first_call_and_then_at_intervals_and_is_no_call() {
    let bench = Bench::new(Answer::Healthy);
    bench.calls.add_permits(100);
    let pool = bench.builder().max_calls(Some(2)).start().await.unwrap();
    let mut events = pool.events();
    pool.call::<_, ()>("called", ()).await.unwrap();
    assert_eq!(bench.log(), [CHECK, "called"]);
    let began = Instant::now();
    until(async || bench.checked() == 4).await;
    assert!(began.elapsed() >= 3 * INTERVAL - Duration::from_secs(1));

    let status = pool.status().await;
    assert_eq!((status.busy, status.ran.count, status.waited.count), (0, 1, 1));
    let worker = &status.workers[0];
    assert_eq!((worker.calls, worker.running, worker.busy_for), (1, 0, None));
    let check = worker.check.clone().unwrap();
    assert_eq!(check.outcome, Ok(()));
    assert_eq!(Some(check.worker), worker.child.status.worker);
    assert!(check.age < INTERVAL);
    let mut told = 0;
    while let Ok(event) = events.try_recv() {
        match event.kind {
            EventKind::HealthChecked { outcome, .. } => told += usize::from(outcome.is_ok()),
            EventKind::WorkerDown { .. } | EventKind::ReplacementStarted { .. } => panic!("{event:?}"),
            _ => {}
        }
    }
    assert!(told >= 3, "{told}");
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_finds_the_only_worker_out_waits_although_nobody_may() {
    let bench = Bench::new(Answer::Gated);
    bench.calls.add_permits(1);
    let pool = bench.builder().queue_limit(Some(0)).start().await.unwrap();
    until(async || bench.checked() == 1).await;
    let status = pool.status().await;
    assert_eq!(
        (status.busy, status.workers[0].running),
        (0, 0),
        "a check is no call"
    );
    let call = spawn_call(&pool, "called");
    until_queued(&pool, 1).await;
    // One caller would have had the worker, the next one would not.
    let refused = pool.call::<_, ()>("too many", ()).await.unwrap_err();
    assert_eq!(refused.kind(), CallErrorKind::QueueFull);
    bench.checks.add_permits(1);
    call.await.unwrap().unwrap();
    is_whole(&pool).await;
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_busy_worker_is_checked_when_it_is_given_back_before_the_next_call() {
    let bench = Bench::new(Answer::Healthy);
    let pool = bench.builder().start().await.unwrap();
    let calls = ["first", "second"].map(|function| spawn_call(&pool, function));
    until(async || bench.log() == [CHECK, "first"]).await;
    sleep(3 * INTERVAL).await;
    assert_eq!(bench.log(), [CHECK, "first"], "it is not interrupted");
    bench.calls.add_permits(2);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(bench.log(), [CHECK, "first", CHECK, "second"]);
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_says_no_is_replaced_and_its_caller_served_by_the_next() {
    let bench = Bench::new(Answer::Healthy);
    bench.calls.add_permits(10);
    let pool = bench.builder().start().await.unwrap();
    until(async || bench.checked() == 1).await;
    let first = bench.factory.worker(SlotId(0)).unwrap();
    let mut events = pool.events();
    bench.answers(Answer::Bad);
    let reason = down_reason(&mut events).await;
    bench.answers(Answer::Healthy);
    let DownReason::Unhealthy(unhealthy) = &reason else {
        panic!("{reason}")
    };
    assert_eq!(unhealthy.message, "RuntimeError: the disk is full");
    assert_eq!(
        reason.to_string(),
        "it is not healthy: RuntimeError: the disk is full"
    );
    pool.call::<_, ()>("called", ()).await.unwrap();
    assert!(!first.is_up());
    is_whole(&pool).await;
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_whose_check_hangs_is_replaced_after_the_timeout() {
    let bench = Bench::new(Answer::Healthy);
    let pool = bench.builder().start().await.unwrap();
    until(async || bench.checked() == 1).await;
    let mut events = pool.events();
    bench.answers(Answer::Hangs);
    until(async || bench.checked() == 2).await;
    let began = Instant::now();
    let reason = down_reason(&mut events).await;
    assert_eq!(
        reason.to_string(),
        "it is not healthy: its health check did not end within 10s"
    );
    let second = Duration::from_secs(1);
    assert!((TIMEOUT - second..TIMEOUT + second).contains(&began.elapsed()));
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn workers_that_are_never_healthy_are_quarantined() {
    let bench = Bench::new(Answer::Bad);
    let pool = bench.builder().start().await.unwrap();
    let mut events = pool.events();
    let (mut restarts, mut pauses) = (0, 0);
    loop {
        match events.recv().await.unwrap().kind {
            EventKind::WorkerDown { down, .. } => {
                assert!(matches!(down.reason, DownReason::Unhealthy(_)), "{down}");
                restarts += 1;
            }
            EventKind::RestartDelayed { .. } => pauses += 1,
            EventKind::SlotQuarantined { .. } => break,
            _ => {}
        }
    }
    assert!(restarts > 3 && pauses > 3, "{restarts} {pauses}");
    let error = pool.call::<_, ()>("called", ()).await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::NoWorkers);
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn calls_that_run_beside_a_check_that_fails_finish() {
    let bench = Bench::new(Answer::Healthy);
    let factory = bench.factory.clone().with_concurrency(3);
    let pool = bench.builder().start().await.unwrap();
    until(async || bench.checked() == 1).await;
    let calls = ["one", "two"].map(|function| spawn_call(&pool, function));
    until(async || pool.status().await.workers[0].running == 2).await;
    let first = factory.worker(SlotId(0)).unwrap();
    bench.answers(Answer::Bad);
    until(async || bench.checked() == 2).await;
    // It has room, and is not lent any more.
    let next = spawn_call(&pool, "next");
    until_queued(&pool, 1).await;
    sleep(TIMEOUT / 2).await;
    assert!(first.is_up());
    bench.answers(Answer::Healthy);
    bench.calls.add_permits(3);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    next.await.unwrap().unwrap();
    assert!(!first.is_up(), "the next call was another worker's");
    is_whole(&pool).await;
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_check_takes_one_place_of_several_and_waits_for_one_where_all_are_taken() {
    let bench = Bench::new(Answer::Healthy);
    let _ = bench.factory.clone().with_concurrency(2);
    let pool = bench.builder().start().await.unwrap();
    until(async || bench.checked() == 1).await;
    let first = spawn_call(&pool, "one");
    until(async || pool.status().await.workers[0].running == 1).await;
    bench.answers(Answer::Gated);
    until(async || bench.checked() == 2).await;
    // One place is left beside the call and the check: none.
    let second = spawn_call(&pool, "two");
    until_queued(&pool, 1).await;
    bench.checks.add_permits(1);
    until(async || pool.status().await.workers[0].running == 2).await;
    sleep(3 * INTERVAL).await;
    assert_eq!(bench.checked(), 2, "all places are taken by calls");
    bench.checks.add_permits(1);
    bench.calls.add_permits(2);
    for call in [first, second] {
        call.await.unwrap().unwrap();
    }
    until(async || bench.checked() == 3).await;
    is_whole(&pool).await;
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn of_eight_workers_two_are_out_at_a_time_and_all_have_their_turn() {
    let bench = Bench::new(Answer::Gated);
    let pool = bench.builder().workers(8).start().await.unwrap();
    until(async || bench.checked() == 2).await;
    bench.calls.add_permits(6);
    for _ in 0..6 {
        pool.call::<_, ()>("called", ()).await.unwrap();
    }
    for checked in 3..=8 {
        bench.checks.add_permits(1);
        until(async || bench.checked() == checked).await;
    }
    bench.checks.add_permits(2);
    until(async || bench.out.load(Ordering::Relaxed) == 0).await;
    let workers: Vec<_> = (0..8)
        .filter_map(|slot| bench.factory.worker(SlotId(slot)))
        .collect();
    let checks = |requests: Vec<snakepit_proto::v1::CallRequest>| {
        let checks = requests.into_iter().filter(|request| request.function == CHECK);
        checks.map(|request| request.call_id).collect::<Vec<_>>()
    };
    for worker in workers {
        // Ids of calls begin at 1.
        assert_eq!(checks(worker.fake_client().requests()), [u64::MAX]);
    }
    assert_eq!(bench.most_out.load(Ordering::Relaxed), 2);
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_a_check_and_its_callers_are_served() {
    let bench = Bench::new(Answer::Hangs);
    bench.calls.add_permits(1);
    let pool = bench.builder().start().await.unwrap();
    until(async || bench.checked() == 1).await;
    let call = spawn_call(&pool, "accepted");
    until_queued(&pool, 1).await;
    let began = Instant::now();
    pool.shutdown().await;
    call.await.unwrap().unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(bench.log(), [CHECK, "accepted"]);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_crashes_during_its_check_is_replaced_for_that_reason() {
    let bench = Bench::new(Answer::Hangs);
    let pool = bench.builder().start().await.unwrap();
    until(async || bench.checked() == 1).await;
    let mut events = pool.events();
    bench.answers(Answer::Healthy);
    bench.factory.worker(SlotId(0)).unwrap().crash();
    assert_eq!(down_reason(&mut events).await, DownReason::Exited);
    until(async || bench.checked() == 2).await;
    until(async || pool.status().await.ready == 1).await;
    is_whole(&pool).await;
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_checked_without_an_interval_or_without_a_function_for_it() {
    let bench = Bench::new(Answer::Bad);
    bench.calls.add_permits(2);
    let pool = bench.builder().health_interval(None).start().await.unwrap();
    sleep(10 * INTERVAL).await;
    pool.call::<_, ()>("called", ()).await.unwrap();
    assert!(pool.status().await.workers[0].check.is_none());
    pool.shutdown().await;
    assert_eq!(bench.log(), ["called"]);

    let factory = FakeWorkerFactory::new();
    let pool = builder(&factory).start().await.unwrap();
    sleep(10 * INTERVAL).await;
    let worker = factory.worker(SlotId(0)).unwrap();
    assert!(worker.fake_client().requests().is_empty());
    pool.shutdown().await;
}

#[test]
fn times_that_make_no_sense_are_refused() {
    let mut settings = PoolSettings::default();
    settings.health_interval = Some(Duration::ZERO);
    settings.health_timeout = Duration::ZERO;
    let wrong = settings.check().unwrap_err().0;
    assert_eq!(wrong.len(), 2, "{wrong:?}");
}
