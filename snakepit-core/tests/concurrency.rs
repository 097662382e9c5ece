//! Workers that run several calls at the same time.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use snakepit_core::{
    SlotId,
    event::Events,
    pool::{CallError, CallErrorKind, Pool},
    rpc::Value,
    testing::{FakeBehaviour, FakeWorker, FakeWorkerFactory},
    worker::{DownReason, TransportError, Worker as _},
};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

const FOREVER: Duration = Duration::from_secs(3600);

async fn pool_of(workers: usize, concurrency: usize, behaviour: FakeBehaviour) -> (FakeWorkerFactory, Pool) {
    let factory = FakeWorkerFactory::new()
        .with_concurrency(concurrency)
        .with_behaviour(behaviour);
    let pool = Pool::builder(Arc::new(factory.clone()), Events::new("test")).workers(workers);
    let pool = pool.start().await.unwrap();
    (factory, pool)
}

type Call = JoinHandle<Result<Value, CallError>>;

/// Makes a call that has been sent, or queued, when this returns.
async fn begin(pool: &Pool) -> Call {
    begin_within(pool, FOREVER).await
}

async fn begin_within(pool: &Pool, deadline: Duration) -> Call {
    let pool = pool.clone();
    let call = tokio::spawn(async move { pool.request("f").deadline(deadline).send().await });
    // Paused time moves on only when everybody waits.
    sleep(Duration::from_millis(1)).await;
    call
}

fn worker(factory: &FakeWorkerFactory, slot: u32) -> Arc<FakeWorker> {
    factory.worker(SlotId(slot)).unwrap()
}

/// Calls that run, by slot.
fn loads(factory: &FakeWorkerFactory, workers: u32) -> Vec<usize> {
    (0..workers)
        .map(|slot| worker(factory, slot).fake_client().running().len())
        .collect()
}

async fn outcome(call: Call) -> Result<Value, CallError> {
    timeout(FOREVER, call).await.expect("the call ends").unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_call_goes_to_the_worker_with_the_fewest_calls() {
    let (factory, pool) = pool_of(3, 4, FakeBehaviour::Hang).await;
    let mut calls = Vec::new();
    for made in 1..=12 {
        calls.push(begin(&pool).await);
        let loads = loads(&factory, 3);
        assert_eq!(loads.iter().sum::<usize>(), made);
        let (most, fewest) = (loads.iter().max().unwrap(), loads.iter().min().unwrap());
        assert!(most - fewest <= 1, "{loads:?}");
    }
    let waits = begin(&pool).await;
    assert_eq!(loads(&factory, 3), [4, 4, 4], "each has all it can run");
    let status = pool.status().await;
    assert_eq!((status.queued, status.busy), (1, 3));
    assert!(
        status
            .workers
            .iter()
            .all(|worker| (worker.running, worker.concurrency) == (4, 4))
    );
    // The one that comes free is the one it goes to.
    calls[0].abort();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(pool.status().await.queued, 0);
    assert_eq!(loads(&factory, 3), [4, 4, 4]);
    drop(waits);
    pool.kill().await;
}

#[tokio::test(start_paused = true)]
async fn of_workers_with_equally_few_calls_the_one_used_last_is_taken() {
    let (factory, pool) = pool_of(3, 2, FakeBehaviour::Echo).await;
    for _ in 0..10 {
        pool.call::<_, Value>("f", ()).await.unwrap();
    }
    let mut calls: Vec<_> = (0..3)
        .map(|slot| worker(&factory, slot).fake_client().requests().len())
        .collect();
    calls.sort_unstable();
    assert_eq!(calls, [0, 0, 10]);
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn every_call_of_a_worker_that_dies_is_told_and_no_other() {
    let (factory, pool) = pool_of(2, 3, FakeBehaviour::Hang).await;
    let mut calls = Vec::new();
    for _ in 0..6 {
        calls.push(begin(&pool).await);
    }
    let waits = begin(&pool).await;
    let dies = worker(&factory, 0);
    let lives = worker(&factory, 1);
    factory.set_behaviour(FakeBehaviour::Echo);
    dies.crash();
    // The call that waited is answered by the replacement.
    outcome(waits).await.unwrap();
    let mut lost = 0;
    let mut running = Vec::new();
    for call in calls {
        if !call.is_finished() {
            running.push(call);
            continue;
        }
        let CallError::WorkerLost(error) = outcome(call).await.unwrap_err() else {
            panic!("it was on the worker that died");
        };
        assert_eq!(error.worker, dies.id());
        assert_eq!(error.down.reason, DownReason::Exited);
        lost += 1;
    }
    assert_eq!((lost, running.len()), (3, 3));
    assert_eq!(lives.fake_client().running().len(), 3);
    // The replacement can run as many as the one before it.
    factory.set_behaviour(FakeBehaviour::Hang);
    worker(&factory, 0)
        .fake_client()
        .set_behaviour(FakeBehaviour::Hang);
    for _ in 0..3 {
        running.push(begin(&pool).await);
    }
    assert_eq!(loads(&factory, 2), [3, 3]);
    pool.kill().await;
    for call in running {
        assert_eq!(outcome(call).await.unwrap_err().kind(), CallErrorKind::WorkerLost);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_overruns_is_named_to_the_others_that_lose_their_worker() {
    let (factory, pool) = pool_of(1, 3, FakeBehaviour::HangDeaf).await;
    let first = begin(&pool).await;
    let overruns = begin_within(&pool, Duration::from_secs(1)).await;
    let last = begin(&pool).await;
    let ended = worker(&factory, 0);
    let error = outcome(overruns).await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::DeadlineExceeded);
    assert!(ended.is_up(), "it has its grace");
    for (call, id) in [(first, 1), (last, 3)] {
        let CallError::WorkerLost(error) = outcome(call).await.unwrap_err() else {
            panic!("it lost its worker");
        };
        assert_eq!(error.call_id, Some(id));
        let DownReason::CallOverran { call_id, .. } = error.down.reason else {
            panic!("{error}");
        };
        assert_eq!(call_id, 2);
        assert!(
            error
                .to_string()
                .ends_with("of the other calls on it, call 2 did not stop within 1s of being cancelled"),
            "{error}"
        );
    }
    pool.kill().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_was_lost_by_one_call_is_lent_to_no_other() {
    // Its first call fails in the channel; news of why take a while.
    let behaviour = FakeBehaviour::handler(|request| async move {
        if request.call_id == 1 {
            return Err(TransportError {
                message: "broken pipe".into(),
            });
        }
        std::future::pending().await
    });
    let (factory, pool) = pool_of(1, 5, behaviour).await;
    let lost = begin(&pool).await;
    factory.set_behaviour(FakeBehaviour::Echo);
    let broken = worker(&factory, 0);
    let next = begin(&pool).await;
    assert_eq!(broken.fake_client().requests().len(), 1);
    assert_eq!(outcome(lost).await.unwrap_err().kind(), CallErrorKind::WorkerLost);
    outcome(next).await.unwrap();
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_a_worker_refused_because_it_leaves_does_not_come_back_to_it() {
    let leaving = snakepit_proto::v1::CallError {
        kind: snakepit_proto::v1::call_error::Kind::ShuttingDown.into(),
        ..Default::default()
    };
    let (factory, pool) = pool_of(1, 2, FakeBehaviour::Error(leaving)).await;
    let leaves = worker(&factory, 0);
    factory.set_behaviour(FakeBehaviour::Echo);
    let answered = timeout(FOREVER, pool.call::<_, Value>("f", ())).await;
    answered.expect("the slot gets another worker").unwrap();
    assert_eq!(leaves.fake_client().requests().len(), 1);
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_has_been_busy_for_as_long_as_its_first_call() {
    let (_factory, pool) = pool_of(1, 3, FakeBehaviour::Hang).await;
    let first = begin(&pool).await;
    sleep(Duration::from_secs(10)).await;
    let second = begin(&pool).await;
    sleep(Duration::from_secs(5)).await;
    let busy_for = async || pool.status().await.workers[0].busy_for;
    assert!(busy_for().await >= Some(Duration::from_secs(15)));
    first.abort();
    sleep(Duration::from_millis(1)).await;
    let now = busy_for().await.unwrap();
    assert!(
        (Duration::from_secs(5)..Duration::from_secs(6)).contains(&now),
        "{now:?}"
    );
    second.abort();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(busy_for().await, None);
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_all_calls_of_a_worker() {
    let (_factory, pool) = pool_of(
        1,
        3,
        FakeBehaviour::handler(|request| async move {
            sleep(Duration::from_secs(request.call_id)).await;
            Ok(snakepit_proto::v1::CallResponse {
                call_id: request.call_id,
                outcome: Some(snakepit_proto::v1::call_response::Outcome::Value(
                    vec![0xc0].into(),
                )),
            })
        }),
    )
    .await;
    let calls = [begin(&pool).await, begin(&pool).await, begin(&pool).await];
    pool.shutdown().await;
    for call in calls {
        outcome(call).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn streams_share_a_worker() {
    let items: Vec<_> = (0..3).map(|item| vec![item].into()).collect();
    let (_factory, pool) = pool_of(1, 2, FakeBehaviour::Items(items)).await;
    let mut first = pool.request("f").stream::<u8>().await.unwrap();
    let mut second = pool.request("f").stream::<u8>().await.unwrap();
    assert_ne!(first.call_id(), second.call_id());
    for expected in 0..3 {
        assert_eq!(first.next().await.unwrap().unwrap(), expected);
        assert_eq!(second.next().await.unwrap().unwrap(), expected);
    }
    assert!(first.next().await.is_none());
    assert!(second.next().await.is_none());
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_while_callers_and_workers_come_and_go() {
    let behaviour = FakeBehaviour::handler(|request| async move {
        sleep(Duration::from_millis(1 + request.call_id % 7)).await;
        Ok(snakepit_proto::v1::CallResponse {
            call_id: request.call_id,
            outcome: Some(snakepit_proto::v1::call_response::Outcome::Value(
                vec![0xc0].into(),
            )),
        })
    });
    let (factory, pool) = pool_of(3, 4, behaviour).await;
    let callers: Vec<_> = (0..40_u64)
        .map(|caller| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let mut seen = BTreeMap::<_, u32>::new();
                for turn in 0..100 {
                    let patience = Duration::from_micros((caller * 31 + turn * 17) % 30_000);
                    let kind = match timeout(patience, pool.call::<_, Value>("f", ())).await {
                        Ok(Ok(_)) => "answered",
                        Ok(Err(CallError::WorkerLost(_))) => "lost",
                        Ok(Err(other)) => panic!("{other}"),
                        Err(_) => "left",
                    };
                    *seen.entry(kind).or_default() += 1;
                }
                seen
            })
        })
        .collect();
    for turn in 0..60 {
        sleep(Duration::from_millis(5)).await;
        if let Some(worker) = factory.worker(SlotId(turn % 3)) {
            worker.crash();
        }
    }
    let mut seen = BTreeMap::<_, u32>::new();
    for caller in callers {
        for (kind, count) in timeout(FOREVER, caller)
            .await
            .expect("a caller was forgotten")
            .unwrap()
        {
            *seen.entry(kind).or_default() += count;
        }
    }
    assert_eq!(seen.values().sum::<u32>(), 4000);
    assert!(seen.len() == 3, "all three happened: {seen:?}");
    pool.shutdown().await;
    let status = pool.status().await;
    assert_eq!((status.busy, status.queued), (0, 0));
}
