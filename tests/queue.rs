//! Who is served, for how long, and what bounds it, on real workers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{path::Path, time::Duration};

use common::{builder, until, worker_pid};
use snakepit::{CallError, CallErrorKind, CancelOutcome, Overflow, Pool, Value, core::pool::Request};
use tokio::task::JoinHandle;

const SHORT: Duration = Duration::from_millis(300);

fn spawn(
    pool: &Pool,
    prepare: impl for<'a> Fn(&'a Pool) -> Request<'a> + Send + 'static,
) -> JoinHandle<Result<Value, CallError>> {
    let pool = pool.clone();
    tokio::spawn(async move { prepare(&pool).send().await })
}

/// Keeps the only worker busy until the file is there.
async fn keep_busy(pool: &Pool, until_there: &Path) -> JoinHandle<Result<Value, CallError>> {
    let path = until_there.to_owned();
    let call = spawn(pool, move |pool| {
        pool.request("gates:for_file").args(&(&path,)).unwrap()
    });
    until("it runs", async || pool.status().await.busy == 1).await;
    call
}

async fn until_queued(pool: &Pool, count: usize) {
    until("they wait", async || pool.status().await.queued == count).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_timeout_interrupts_python_and_tells_what_ended_the_call() {
    let pool = builder()
        .run_timeout(SHORT)
        .cancel_grace(Duration::from_secs(30))
        .start()
        .await
        .unwrap();
    let pid = worker_pid(&pool).await;
    let error = pool.call::<_, Value>("slow:sleep", (60,)).await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::RunTimeout);
    let CallError::DeadlineExceeded(error) = error else {
        panic!("{error}");
    };
    assert_eq!(error.outcome().await, CancelOutcome::Stopped);
    assert_eq!(pool.call::<_, u32>("slow:pid", ()).await.unwrap(), pid);
    pool.shutdown().await;

    let pool = builder()
        .run_timeout(SHORT)
        .cancel_grace(SHORT)
        .start()
        .await
        .unwrap();
    let pid = worker_pid(&pool).await;
    let error = pool.call::<_, Value>("slow:stubborn", (60,)).await.unwrap_err();
    let CallError::DeadlineExceeded(error) = error else {
        panic!("{error}");
    };
    assert_eq!(error.outcome().await, CancelOutcome::WorkerReplaced);
    assert_ne!(pool.call::<_, u32>("slow:pid", ()).await.unwrap(), pid);
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_timeout_does_not_count_the_queue_and_a_queue_timeout_counts_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let go = dir.path().join("go");
    let pool = builder().start().await.unwrap();
    let busy = keep_busy(&pool, &go).await;
    let runs = spawn(&pool, |pool| pool.request("slow:pid").run_timeout(SHORT));
    until_queued(&pool, 1).await;
    let waits = pool.request("slow:pid").queue_timeout(2 * SHORT).send::<Value>();
    let error = waits.await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::QueueTimeout);
    assert!(!error.may_have_executed());
    std::fs::write(&go, "").unwrap();
    busy.await.unwrap().unwrap();
    runs.await.unwrap().expect("it waited for longer than it may run");
    let request = pool.request("slow:sleep").args(&(0.5,)).unwrap();
    request
        .queue_timeout(SHORT)
        .send::<Value>()
        .await
        .expect("it runs for longer than it may wait");
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_urgent_go_first_and_the_newest_displaces_the_oldest() {
    let dir = tempfile::tempdir().unwrap();
    let (go, order) = (dir.path().join("go"), dir.path().join("order"));
    let pool = builder()
        .queue_limit(Some(3))
        .overflow(Overflow::DropOldest)
        .start()
        .await
        .unwrap();
    let busy = keep_busy(&pool, &go).await;
    let call = |name: &'static str, priority: i32| {
        let order = order.clone();
        spawn(&pool, move |pool| {
            let request = pool.request("gates:append").args(&(&order, name)).unwrap();
            request.priority(priority)
        })
    };
    let oldest = call("oldest", 0);
    until_queued(&pool, 1).await;
    let older = call("older", 0);
    until_queued(&pool, 2).await;
    let urgent = call("urgent", 5);
    until_queued(&pool, 3).await;
    let newest = call("newest", 0);
    let displaced = oldest.await.unwrap().unwrap_err();
    assert_eq!(displaced.kind(), CallErrorKind::Displaced);
    std::fs::write(&go, "").unwrap();
    for call in [busy, older, urgent, newest] {
        call.await.unwrap().unwrap();
    }
    assert_eq!(std::fs::read_to_string(order).unwrap(), "urgent older newest ");
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limited_function_is_executed_so_many_times_at_once_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let pool = builder()
        .workers(3)
        .function_limit("gates:count", 2)
        .start()
        .await
        .unwrap();
    let calls: Vec<_> = (0..9)
        .map(|_| {
            let path = path.clone();
            spawn(&pool, move |pool| {
                pool.request("gates:count").args(&(&path,)).unwrap()
            })
        })
        .collect();
    // The third worker is left to others all the while.
    for _ in 0..5 {
        pool.call::<_, u32>("slow:pid", ()).await.unwrap();
    }
    let mut most = 0;
    for call in calls {
        most = most.max(call.await.unwrap().unwrap().as_i64().unwrap());
    }
    assert_eq!(most, 2, "two at once, and never three");
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_without_a_deadline_shows_as_long_running() {
    let pool = builder().workers(2).start().await.unwrap();
    assert_eq!(pool.status().await.long_running(Duration::ZERO).count(), 0);
    let dir = tempfile::tempdir().unwrap();
    let end = dir.path().join("end");
    let call = keep_busy(&pool, &end).await;
    until("it has run for long", async || {
        pool.status().await.long_running(SHORT).count() == 1
    })
    .await;
    assert_eq!(
        pool.status()
            .await
            .long_running(Duration::from_secs(3600))
            .count(),
        0
    );
    std::fs::write(&end, "").unwrap();
    call.await.unwrap().unwrap();
    assert_eq!(pool.status().await.long_running(Duration::ZERO).count(), 0);
    pool.shutdown().await;
}
