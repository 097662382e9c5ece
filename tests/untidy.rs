//! Calls that leave their process in a worse state than they found it: they are answered, the next ones are served, and the
//! end leaves nothing.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::time::Duration;

use common::{PATIENCE, Undertaker, builder, is_gone, until, worker_pid};
use snakepit::{Backend, CallError, Pool, RemoteErrorKind, Shutdown, Value, core::worker::Heartbeat};
use tokio::time::timeout;

/// The worker that served before serves on, and it leaves in order.
async fn stays(pool: Pool, pid: u32) {
    for _ in 0..3 {
        assert_eq!(pool.call::<_, u32>("slow:pid", ()).await.unwrap(), pid);
    }
    timeout(PATIENCE, pool.shutdown()).await.unwrap();
    assert!(is_gone(pid));
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_input_is_closed() {
    for function in ["outlives:close_stdin", "outlives:close_sys_stdin"] {
        let pool = builder().start().await.unwrap();
        let pid: u32 = pool.call(function, ()).await.unwrap();
        assert_eq!(pid, worker_pid(&pool).await);
        stays(pool, pid).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn threads_go_on_after_their_call() {
    let pool = builder().start().await.unwrap();
    let pid: u32 = pool.call("outlives:start_threads", (8,)).await.unwrap();
    let before = tokio::time::Instant::now();
    assert_eq!(pool.call::<_, u32>("outlives:alive", ()).await.unwrap(), 8);
    // They are no daemons: Python by itself would wait two minutes for them.
    stays(pool, pid).await;
    assert!(before.elapsed() < PATIENCE);
}

#[tokio::test(flavor = "multi_thread")]
async fn children_are_left_behind() {
    let mut undertaker = Undertaker::default();
    let pool = builder().start().await.unwrap();
    let pid = worker_pid(&pool).await;
    let children: Vec<u32> = pool.call("outlives:spawn_children", (5,)).await.unwrap();
    children.iter().for_each(|child| undertaker.add(*child));
    assert!(!children.iter().any(|child| is_gone(*child)));
    stays(pool, pid).await;
    assert!(children.into_iter().all(is_gone));
}

/// Orphans are reaped by the worker, or by who looks after it and whatever it has started: then there is nothing for the worker to
/// look for. A worker that ends in order ends them, also those that nothing else but time would end.
#[tokio::test(flavor = "multi_thread")]
async fn orphans_of_a_worker_are_reaped_and_ended_with_it_on_every_backend() {
    let times = Shutdown {
        drain: PATIENCE,
        grace: PATIENCE * 10,
    };
    for backend in Backend::compiled_in() {
        for nested in [false, true] {
            let is_forked = !matches!(backend, Backend::Port | Backend::Exec);
            let heartbeat = Heartbeat {
                interval: Duration::from_millis(100),
                ..Heartbeat::default()
            };
            let pool = builder().backend(backend).heartbeat(heartbeat).shutdown(times);
            let pool = match (is_forked, nested) {
                (false, true) => continue,
                (true, true) => pool.nested_namespaces(true).start().await,
                (_, false) => pool.start().await,
            };
            let pool = match pool {
                Err(error) if nested => {
                    eprintln!("SKIPPED: {error}");
                    continue;
                }
                pool => pool.unwrap(),
            };
            let orphan: u32 = pool.call("outlives:leave_orphan", ()).await.unwrap();
            let adopted: Option<bool> = pool.call("outlives:adopts_its_orphans", (orphan,)).await.unwrap();
            let is_kept = nested || backend == Backend::Exec;
            assert_eq!(adopted, Some(!is_kept), "{backend:?}, nested: {nested}");
            let () = pool.call("outlives:end_orphan", ()).await.unwrap();
            until("the orphan is reaped", async || {
                let adopted: Option<bool> =
                    pool.call("outlives:adopts_its_orphans", (orphan,)).await.unwrap();
                adopted.is_none()
            })
            .await;
            // It ignores SIGTERM.
            let _: u32 = pool.call("forks:daemon", ()).await.unwrap();
            timeout(PATIENCE, pool.shutdown()).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_megabytes_go_to_standard_error() {
    let pool = builder().start().await.unwrap();
    let pid = worker_pid(&pool).await;
    assert_eq!(
        pool.call::<_, u32>("floods_stderr:flood", (10,)).await.unwrap(),
        10
    );
    stays(pool, pid).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_calls_that_fail_beside_a_hundred_that_do_not_get_each_their_own_answer() {
    let pool = builder().workers(2).start().await.unwrap();
    let pids = async || {
        let workers = pool.status().await.workers;
        workers
            .iter()
            .map(|worker| worker.child.status.pid)
            .collect::<Vec<_>>()
    };
    let before = pids().await;
    let calls: Vec<_> = (0..200)
        .map(|number: u32| {
            let pool = pool.clone();
            tokio::spawn(async move { pool.call::<_, u32>("outlives:half", (number,)).await })
        })
        .collect();
    for (number, call) in (0..).zip(calls) {
        match call.await.unwrap() {
            Ok(half) => assert_eq!((half * 2, number % 2), (number, 0)),
            Err(CallError::Failed(failed)) => {
                assert_eq!(failed.error.kind, RemoteErrorKind::Raised);
                assert_eq!(failed.error.message, format!("ValueError: {number} is odd"));
            }
            Err(other) => panic!("{number}: {other}"),
        }
    }
    assert_eq!(pids().await, before, "an exception costs no worker");
    let status = pool.status().await;
    assert_eq!((status.ready, status.busy, status.queued), (2, 0, 0));
    let none: Value = pool.call("outlives:half", (0,)).await.unwrap();
    assert_eq!(none, Value::Int(0));
    pool.shutdown().await;
}
