//! Real workers that run several calls at the same time.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{collections::BTreeSet, time::Duration};

use common::{PATIENCE, builder, until, worker_pid};
use snakepit::{
    CallError, Concurrency, Pool, PoolError, Value,
    core::{process::Pidfd, worker::DownReason},
};
use tokio::{task::JoinHandle, time::timeout};

/// Process and thread of a call.
type Place = (u32, u64);

async fn pool_of(workers: usize, concurrency: Concurrency) -> Pool {
    let pool = builder().workers(workers).concurrency(concurrency);
    pool.start().await.unwrap()
}

fn call<R: serde::de::DeserializeOwned + Send + 'static>(
    pool: &Pool,
    function: &'static str,
    args: impl serde::Serialize + Send + 'static,
) -> JoinHandle<Result<R, CallError>> {
    let pool = pool.clone();
    tokio::spawn(async move { pool.call(function, args).await })
}

async fn outcome<R>(call: JoinHandle<Result<R, CallError>>) -> Result<R, CallError> {
    timeout(PATIENCE, call).await.expect("the call ends").unwrap()
}

/// Waits until the only worker runs that many calls.
async fn until_running(pool: &Pool, calls: usize) {
    until("as many calls run", async || {
        pool.status().await.workers[0].running == calls
    })
    .await;
}

/// Makes as many calls that wait for each other; on how many processes and threads they ran.
async fn meet(pool: &Pool, function: &'static str, count: usize) -> (usize, usize) {
    let calls: Vec<_> = (0..count)
        .map(|_| call::<Place>(pool, function, (count,)))
        .collect();
    let (mut processes, mut threads) = (BTreeSet::new(), BTreeSet::new());
    for call in calls {
        let (process, thread) = outcome(call).await.unwrap();
        processes.insert(process);
        threads.insert((process, thread));
    }
    (processes.len(), threads.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn four_calls_meet_on_four_threads_of_one_worker() {
    let pool = pool_of(1, Concurrency::Threads(4)).await;
    assert_eq!(meet(&pool, "side_by_side:meet", 4).await, (1, 4));
    let worker = &pool.status().await.workers[0];
    assert_eq!((worker.running, worker.concurrency), (0, 4));
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_calls_wait_at_once_on_one_event_loop() {
    let pool = pool_of(1, Concurrency::Asyncio(100)).await;
    // The first ones find that the function is not known yet, the second ones that it is, the third a plain one.
    assert_eq!(meet(&pool, "side_by_side:async_meet", 100).await, (1, 1));
    assert_eq!(meet(&pool, "side_by_side:async_meet", 99).await, (1, 1));
    assert_eq!(meet(&pool, "side_by_side:plain_meet", 98).await, (1, 1));
    assert_eq!(meet(&pool, "side_by_side:meet", 40).await, (1, 40));
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_spread_over_the_workers_before_they_share_one() {
    let pool = pool_of(2, Concurrency::Threads(2)).await;
    let first = call::<Value>(&pool, "side_by_side:wait", ());
    let second = call::<Value>(&pool, "side_by_side:wait", ());
    until("each worker has one of two calls", async || {
        let status = pool.status().await;
        status.workers.iter().all(|worker| worker.running == 1)
    })
    .await;
    for call in [first, second] {
        call.abort();
    }
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_stops_its_call_and_no_other() {
    for (concurrency, function) in [
        (Concurrency::Threads(3), "side_by_side:wait"),
        (Concurrency::Threads(3), "side_by_side:async_wait"),
        (Concurrency::Asyncio(3), "side_by_side:wait"),
        (Concurrency::Asyncio(3), "side_by_side:async_wait"),
    ] {
        let pool = builder()
            .concurrency(concurrency)
            .cancel_grace(PATIENCE)
            .start()
            .await
            .unwrap();
        let pid = worker_pid(&pool).await;
        let [leaves, first, second] = [(); 3].map(|()| call::<Value>(&pool, function, ()));
        until_running(&pool, 3).await;
        leaves.abort();
        until_running(&pool, 2).await;
        assert!(!first.is_finished() && !second.is_finished());
        assert_eq!(pool.call::<_, u32>("side_by_side:pid", ()).await.unwrap(), pid);
        for call in [first, second] {
            call.abort();
        }
        until_running(&pool, 0).await;
        assert_eq!(
            worker_pid(&pool).await,
            pid,
            "{function} stopped when it was told to"
        );
        pool.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_caller_of_a_worker_that_is_killed_is_told() {
    for (concurrency, function) in [
        (Concurrency::Threads(5), "side_by_side:wait"),
        (Concurrency::Asyncio(5), "side_by_side:async_wait"),
    ] {
        let pool = pool_of(1, concurrency).await;
        let calls = [(); 5].map(|()| call::<Value>(&pool, function, ()));
        until_running(&pool, 5).await;
        let pid = worker_pid(&pool).await;
        let waits = call::<u32>(&pool, "side_by_side:pid", ());
        Pidfd::open(pid).unwrap().signal(libc::SIGKILL).unwrap();
        for call in calls {
            let CallError::WorkerLost(lost) = outcome(call).await.unwrap_err() else {
                panic!("its worker was killed");
            };
            assert_eq!(lost.pid, Some(pid));
            assert_eq!(lost.down.reason, DownReason::Exited);
        }
        assert_ne!(
            outcome(waits).await.unwrap(),
            pid,
            "what waited goes to the replacement"
        );
        pool.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_does_not_stop_is_named_to_those_that_lose_their_worker_to_it() {
    for (concurrency, deaf, beside) in [
        (Concurrency::Threads(3), "side_by_side:deaf", "side_by_side:wait"),
        (
            Concurrency::Asyncio(3),
            "side_by_side:async_deaf",
            "side_by_side:async_wait",
        ),
    ] {
        let pool = builder()
            .concurrency(concurrency)
            .cancel_grace(Duration::from_millis(200))
            .start()
            .await
            .unwrap();
        let beside = [(); 2].map(|()| call::<Value>(&pool, beside, ()));
        until_running(&pool, 2).await;
        let overdue = pool.request(deaf).deadline(Duration::from_millis(300));
        let error = overdue.send::<Value>().await.unwrap_err();
        assert!(matches!(error, CallError::DeadlineExceeded(_)), "{error}");
        for call in beside {
            let CallError::WorkerLost(lost) = outcome(call).await.unwrap_err() else {
                panic!("its worker was ended");
            };
            assert!(
                matches!(lost.down.reason, DownReason::CallOverran { call_id: 3, .. }),
                "{lost}"
            );
            assert_ne!(lost.call_id, Some(3));
        }
        pool.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_share_a_worker_and_each_has_its_context() {
    for concurrency in [Concurrency::Threads(10), Concurrency::Asyncio(10)] {
        let pool = pool_of(1, concurrency).await;
        let mut streams = Vec::new();
        for _ in 0..10 {
            let request = pool.request("side_by_side:count").args(&(50,)).unwrap();
            streams.push(request.stream::<(u64, u32)>().await.unwrap());
        }
        for number in 0..50 {
            for stream in &mut streams {
                let item = timeout(PATIENCE, stream.next()).await.expect("an item comes");
                assert_eq!(item.unwrap().unwrap(), (stream.call_id(), number));
            }
        }
        for stream in &mut streams {
            assert!(stream.next().await.is_none());
        }
        pool.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_nobody_reads_keeps_no_other_call_waiting() {
    let pool = pool_of(1, Concurrency::Threads(2)).await;
    let request = pool.request("side_by_side:large").args(&(16,)).unwrap();
    let mut unread = request.stream::<String>().await.unwrap();
    // As many as there is credit for, and the last one it is still in.
    until("it has yielded them", async || {
        let yielded = call::<u64>(&pool, "side_by_side:large_yielded", ());
        outcome(yielded).await.unwrap() == 15
    })
    .await;
    for _ in 0..16 {
        let item = timeout(PATIENCE, unread.next()).await.expect("an item comes");
        assert_eq!(item.unwrap().unwrap().len(), 5_000_000);
    }
    assert!(unread.next().await.is_none());
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_waits_for_the_calls_of_every_thread_and_task() {
    for (concurrency, function) in [
        (Concurrency::Threads(4), "time:sleep"),
        (Concurrency::Asyncio(4), "asyncio:sleep"),
    ] {
        let pool = pool_of(1, concurrency).await;
        let calls = [0.1, 0.2, 0.3, 0.4].map(|seconds| call::<Value>(&pool, function, (seconds,)));
        until_running(&pool, 4).await;
        pool.shutdown().await;
        for call in calls {
            outcome(call).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_by_default_still_runs_one_call_at_a_time() {
    let pool = builder().start().await.unwrap();
    assert_eq!(pool.status().await.workers[0].concurrency, 1);
    let meets = call::<Value>(&pool, "side_by_side:meet", (2,));
    until_running(&pool, 1).await;
    let overdue = pool
        .request("side_by_side:meet")
        .args(&(2,))
        .unwrap()
        .deadline(Duration::from_millis(300));
    let error = overdue.send::<Value>().await.unwrap_err();
    assert!(!error.may_have_executed(), "{error}");
    meets.abort();
    pool.shutdown().await;
}

#[tokio::test]
async fn a_concurrency_of_zero_is_refused() {
    for concurrency in [Concurrency::Threads(0), Concurrency::Asyncio(0)] {
        let refused = builder().concurrency(concurrency).start().await.unwrap_err();
        let PoolError::Pool(source) = refused else {
            panic!("{refused}");
        };
        let source = std::error::Error::source(&source).unwrap().to_string();
        assert_eq!(source, "concurrency is zero: no call could ever run");
    }
}
