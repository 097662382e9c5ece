//! Pools that grow and shrink, and several of them side by side, on real workers.

mod common;

use std::time::Duration;

use common::{builder, is_gone, until};
use snakepit::{Pool, Value, Verdict};

async fn size(pool: &Pool) -> usize {
    let status = pool.status().await;
    assert!(status.ready <= status.workers.len());
    status.ready
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_sleeps_grows_under_calls_and_leaves_nothing_when_it_shrinks() {
    let dir = tempfile::tempdir().unwrap();
    let go = dir.path().join("go");
    let pool = builder()
        .workers(3)
        .min_workers(0)
        .idle_timeout(Duration::from_millis(300))
        .start()
        .await
        .unwrap();
    assert!(matches!(pool.status().await.verdict(), Verdict::Asleep));
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let (pool, go) = (pool.clone(), go.clone());
            tokio::spawn(async move { pool.call::<_, Value>("gates:for_file", (go,)).await })
        })
        .collect();
    until("all three run", async || {
        let status = pool.status().await;
        status.busy == 3 && status.queued == 0
    })
    .await;
    let status = pool.status().await;
    let pids: Vec<u32> = status
        .workers
        .iter()
        .filter_map(|worker| worker.child.status.pid)
        .collect();
    assert_eq!(pids.len(), 3);
    std::fs::write(&go, "").unwrap();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    until("it sleeps again", async || pool.status().await.workers.is_empty()).await;
    assert!(pids.into_iter().all(is_gone));
    assert_eq!(pool.call::<_, i64>("builtins:abs", (-7,)).await.unwrap(), 7);
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_race_the_idle_timeout_are_all_served() {
    let pool = builder()
        .workers(2)
        .min_workers(0)
        .idle_timeout(Duration::from_millis(30))
        .start()
        .await
        .unwrap();
    for round in 0..40 {
        tokio::time::sleep(Duration::from_millis(20 + round % 20)).await;
        assert_eq!(pool.call::<_, i64>("builtins:abs", (-7,)).await.unwrap(), 7);
    }
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resize_and_a_drain_go_on_under_callers() {
    let pool = builder().workers(3).start().await.unwrap();
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                for _ in 0..300 {
                    pool.call::<_, Value>("slow:sleep", (0.001,)).await.unwrap();
                }
            })
        })
        .collect();
    for workers in [1, 3, 2] {
        pool.resize(workers, workers).unwrap();
        until("it has its size", async || size(&pool).await == workers).await;
        pool.pause();
        tokio::task::yield_now().await;
        pool.resume();
    }
    for caller in callers {
        caller.await.unwrap();
    }
    pool.drain().await;
    assert!(pool.call::<_, Value>("slow:pid", ()).await.is_err());
    pool.resume();
    pool.call::<_, Value>("slow:pid", ()).await.unwrap();
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_pool_is_nobody_elses_concern() {
    let broken = builder().name("broken").adapter("fails_to_import").start();
    let works = builder().name("works").start();
    let (broken, works) = tokio::join!(broken, works);
    assert!(broken.is_err());
    let works = works.unwrap();
    assert_eq!(works.call::<_, i64>("builtins:abs", (-7,)).await.unwrap(), 7);
    let other = builder().name("other").start().await.unwrap();
    let pid: u32 = works.call("slow:pid", ()).await.unwrap();
    other.kill().await;
    assert_eq!(works.call::<_, u32>("slow:pid", ()).await.unwrap(), pid);
    assert!(matches!(works.status().await.verdict(), Verdict::Ready));
    assert!(matches!(other.status().await.verdict(), Verdict::Closed(_)));
    works.shutdown().await;
}
