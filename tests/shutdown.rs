//! Pools that are ended while they are in use.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{path::Path, time::Duration};

use common::{PATIENCE, builder, is_gone, until, worker_pid};
use serde::Serialize;
use snakepit::{CallError, CallErrorKind, Pool, Shutdown, Value};
use tokio::{task::JoinHandle, time::timeout};

type Calling = JoinHandle<Result<Value, CallError>>;

fn call(pool: &Pool, function: &'static str, args: impl Serialize + Send + 'static) -> Calling {
    let pool = pool.clone();
    tokio::spawn(async move { pool.call(function, args).await })
}

/// One call that runs, and so many that wait behind it.
async fn waiters(pool: &Pool, running: Calling, count: usize) -> (Calling, Vec<Calling>) {
    until("it runs", async || pool.status().await.busy == 1).await;
    let waiting = (0..count).map(|_| call(pool, "slow:pid", ())).collect();
    until("they wait", async || pool.status().await.queued == count).await;
    (running, waiting)
}

/// Calls of a pool that is over are refused at once, also its second end.
async fn is_over(pool: &Pool) {
    let error = pool.call::<_, Value>("slow:pid", ()).await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::NotServing, "{error}");
    assert!(!error.may_have_executed());
    timeout(PATIENCE, pool.shutdown()).await.unwrap();
}

fn wait_for(pool: &Pool, go: &Path) -> Calling {
    call(pool, "gates:for_file", (go.to_owned(),))
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_are_served_first_and_those_who_come_later_refused() {
    let dir = tempfile::tempdir().unwrap();
    let go = dir.path().join("go");
    let times = Shutdown {
        drain: PATIENCE,
        grace: PATIENCE,
    };
    let pool = builder().shutdown(times).start().await.unwrap();
    let pid = worker_pid(&pool).await;
    let (running, waiting) = waiters(&pool, wait_for(&pool, &go), 20).await;
    let end = tokio::spawn({
        let pool = pool.clone();
        async move { pool.shutdown().await }
    });
    until("it takes no more", async || {
        let late = pool.call::<_, Value>("slow:pid", ());
        let late = timeout(Duration::from_millis(10), late).await;
        matches!(late, Ok(Err(error)) if error.kind() == CallErrorKind::NotServing)
    })
    .await;
    assert!(!end.is_finished() && !running.is_finished());
    std::fs::write(&go, "").unwrap();
    running.await.unwrap().unwrap();
    for call in waiting {
        assert_eq!(call.await.unwrap().unwrap(), Value::Int(pid.into()));
    }
    end.await.unwrap();
    assert!(is_gone(pid));
    is_over(&pool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_workers_that_ignore_everything_those_who_wait_are_refused_in_the_end() {
    let times = Shutdown {
        drain: Duration::from_millis(300),
        grace: Duration::from_millis(300),
    };
    for function in ["slow:stubborn", "slow:deaf"] {
        let pool = builder().shutdown(times).start().await.unwrap();
        let pid = worker_pid(&pool).await;
        let (running, waiting) = waiters(&pool, call(&pool, function, (60,)), 10).await;
        timeout(PATIENCE, pool.shutdown()).await.unwrap();
        assert!(is_gone(pid));
        let error = running.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), CallErrorKind::WorkerLost, "{function}: {error}");
        for call in waiting {
            let error = call.await.unwrap().unwrap_err();
            assert!(!error.may_have_executed(), "{function}: {error}");
        }
        is_over(&pool).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_shutdowns_and_a_kill_agree() {
    let dir = tempfile::tempdir().unwrap();
    let pool = builder().start().await.unwrap();
    let pid = worker_pid(&pool).await;
    let (running, waiting) = waiters(&pool, wait_for(&pool, &dir.path().join("never")), 5).await;
    let ends: Vec<_> = (0..4)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move { pool.shutdown().await })
        })
        .collect();
    timeout(PATIENCE, pool.kill()).await.unwrap();
    assert!(is_gone(pid));
    for end in ends {
        timeout(PATIENCE, end).await.unwrap().unwrap();
    }
    running.await.unwrap().unwrap_err();
    for call in waiting {
        call.await.unwrap().unwrap_err();
    }
    is_over(&pool).await;
}
