//! Deadlines hold, and a call that nobody waits for stops.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::time::Duration;

use common::{builder, until, worker_pid};
use snakepit::{CallError, Pool, Value};
use tokio::time::Instant;

/// A deadline that a test lets pass, and how much later its error may come on a busy machine.
const SHORT: Duration = Duration::from_millis(300);
const LATE: Duration = Duration::from_secs(3);

async fn overdue(pool: &Pool, function: &str, args: impl serde::Serialize) {
    let began = Instant::now();
    let request = pool.request(function).args(&args).unwrap().deadline(SHORT);
    let error = request.send::<Value>().await.unwrap_err();
    assert!(
        matches!(&error, CallError::DeadlineExceeded(e) if e.ran.is_some()),
        "{error}"
    );
    assert!(began.elapsed() < SHORT + LATE, "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_past_its_deadline_is_interrupted_and_its_worker_stays() {
    let pool = builder()
        .cancel_grace(Duration::from_secs(30))
        .start()
        .await
        .unwrap();
    let pid = worker_pid(&pool).await;
    for (function, seconds) in [("slow:sleep", 60), ("slow:spin", 60), ("slow:wait_for_lock", 60)] {
        let began = Instant::now();
        overdue(&pool, function, (seconds,)).await;
        assert_eq!(
            pool.call::<_, u32>("slow:pid", ()).await.unwrap(),
            pid,
            "{function}"
        );
        assert!(began.elapsed() < Duration::from_secs(20), "{function}");
    }
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_ignores_its_cancel_loses_its_worker() {
    let pool = builder()
        .cancel_grace(Duration::from_millis(200))
        .start()
        .await
        .unwrap();
    let pid = worker_pid(&pool).await;
    overdue(&pool, "slow:stubborn", (60,)).await;
    assert_ne!(pool.call::<_, u32>("slow:pid", ()).await.unwrap(), pid);
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_holds_while_c_code_holds_the_gil() {
    let pool = builder()
        .cancel_grace(Duration::from_millis(200))
        .start()
        .await
        .unwrap();
    // Imported, so that it computes by the time its deadline passes.
    let pid = pool.call::<_, u32>("holds_gil:hold", (0,)).await.unwrap();
    overdue(&pool, "holds_gil:hold", (60,)).await;
    assert_ne!(pool.call::<_, u32>("slow:pid", ()).await.unwrap(), pid);
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_in_the_queue_executes_nothing() {
    let pool = builder().start().await.unwrap();
    let busy = tokio::spawn({
        let pool = pool.clone();
        async move { pool.call::<_, Value>("slow:sleep", (1.5,)).await }
    });
    until("it runs", async || pool.status().await.busy == 1).await;
    let error = pool
        .request("slow:pid")
        .deadline(SHORT)
        .send::<Value>()
        .await
        .unwrap_err();
    assert!(
        matches!(&error, CallError::DeadlineExceeded(e) if e.ran.is_none()),
        "{error}"
    );
    assert!(!error.may_have_executed());
    busy.await.unwrap().unwrap();
    assert_eq!(pool.status().await.workers[0].calls, 1);
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_interrupts_its_call() {
    let pool = builder()
        .cancel_grace(Duration::from_secs(30))
        .start()
        .await
        .unwrap();
    let pid = worker_pid(&pool).await;
    let caller = tokio::spawn({
        let pool = pool.clone();
        async move { pool.call::<_, Value>("slow:sleep", (60,)).await }
    });
    until("it runs", async || pool.status().await.busy == 1).await;
    caller.abort();
    let began = Instant::now();
    assert_eq!(pool.call::<_, u32>("slow:pid", ()).await.unwrap(), pid);
    assert!(began.elapsed() < Duration::from_secs(20));
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_never_hits_the_next_call() {
    let pool = builder().start().await.unwrap();
    for round in 0..200 {
        // A deadline about as long as the call, so that the cancel and the answer cross.
        let request = pool.request("slow:sleep").args(&(0.002,)).unwrap();
        let _ = request
            .deadline(Duration::from_micros(1500 + 10 * round))
            .send::<Value>()
            .await;
        pool.call::<_, u32>("slow:sleep", (0.0005,)).await.unwrap();
    }
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_call_does_not_stay_behind_a_long_one_while_another_worker_is_free() {
    let pool = builder().workers(2).start().await.unwrap();
    let shorts = |count: usize| {
        let calls = (0..count).map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let began = Instant::now();
                pool.call::<_, u32>("slow:pid", ()).await.unwrap();
                began.elapsed()
            })
        });
        calls.collect::<Vec<_>>()
    };
    for call in shorts(200) {
        call.await.unwrap();
    }
    // Many short calls with a long one among them: some short ones were sent after it before it was known to be long.
    let mut calls = shorts(50);
    let long = tokio::spawn({
        let pool = pool.clone();
        async move { pool.call::<_, Value>("slow:sleep", (5,)).await }
    });
    calls.extend(shorts(200));
    for call in calls {
        let took = call.await.unwrap();
        assert!(took < Duration::from_secs(4), "a short call took {took:?}");
    }
    long.await.unwrap().unwrap();
    pool.shutdown().await;
}
