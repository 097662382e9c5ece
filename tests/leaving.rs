//! Callers that leave a real worker at every point where they wait; the fakes' counterpart is in `snakepit-core/tests/leaving.rs`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;
#[path = "../snakepit-core/tests/common/leaves.rs"]
mod leaves;

use std::{cell::RefCell, time::Duration};

use common::{PATIENCE, builder, worker_pid};
use leaves::{Leaves, polled};
use snakepit::{CallError, Pool, Value};
use tokio::{task::JoinHandle, time::timeout};

const LIMITED: &str = "slow:echo_after";

/// Rounds: what a worker does meanwhile is not the same every time.
const ROUNDS: usize = 2;

async fn start() -> Pool {
    builder()
        .workers(2)
        .function_limit(LIMITED, 1)
        // A busy machine must not make a worker look as if it ignored its cancel.
        .cancel_grace(PATIENCE)
        .start()
        .await
        .unwrap()
}

/// Nothing is held by anybody, and what is limited can be called.
async fn is_whole(pool: &Pool, pids: &[u32]) {
    timeout(PATIENCE, pool.drain()).await.unwrap();
    pool.resume();
    let status = pool.status().await;
    assert_eq!((status.ready, status.busy, status.queued), (2, 0, 0));
    for _ in 0..2 {
        let next = pool.call::<_, i64>(LIMITED, (7, 0));
        assert_eq!(timeout(PATIENCE, next).await.unwrap().unwrap(), 7);
    }
    let now: Vec<_> = status
        .workers
        .iter()
        .filter_map(|worker| worker.child.status.pid)
        .collect();
    assert_eq!(now, pids, "no worker was lost to it");
}

async fn leaves_everywhere<T>(
    pool: &Pool,
    others: &RefCell<Vec<JoinHandle<Result<(), CallError>>>>,
    mut call: impl AsyncFnMut() -> Result<T, CallError>,
) {
    let status = pool.status().await;
    let pids: Vec<_> = status
        .workers
        .iter()
        .filter_map(|worker| worker.child.status.pid)
        .collect();
    for _ in 0..ROUNDS {
        for leaves in [Leaves::Waiting, Leaves::Woken] {
            for polls in 1.. {
                let end = polled(polls, leaves, call()).await;
                for other in others.take() {
                    other.await.unwrap().unwrap();
                }
                is_whole(pool, &pids).await;
                if let Some(end) = end {
                    assert!(end.is_ok(), "{:?}", end.err());
                    break;
                }
            }
        }
    }
}

#[tokio::test]
async fn from_calls_streams_and_the_queue() {
    let pool = start().await;
    let none = RefCell::default();
    leaves_everywhere(&pool, &none, async || pool.call::<_, u32>("slow:pid", ()).await).await;
    leaves_everywhere(&pool, &none, async || {
        pool.request("slow:pid").idempotent().send::<u32>().await
    })
    .await;
    leaves_everywhere(&pool, &none, async || {
        let request = pool.request("builtins:range").args(&(20,))?.credit(2);
        let mut items = request.stream::<i64>().await?;
        let mut sum = 0;
        while let Some(item) = items.next().await {
            sum += item?;
        }
        assert_eq!(sum, 190);
        Ok(())
    })
    .await;
    // What else is called must be over before anything is looked at.
    let others = RefCell::new(Vec::new());
    let spawn = |function: &'static str, args: (f64, f64)| {
        let pool = pool.clone();
        let call = async move { pool.call::<_, Value>(function, args).await.map(drop) };
        others.borrow_mut().push(tokio::spawn(call));
    };
    leaves_everywhere(&pool, &others, async || {
        // Others have both workers, and then the permit.
        for _ in 0..4 {
            spawn("math:hypot", (3.0, 4.0));
        }
        spawn(LIMITED, (1.0, 0.002));
        tokio::task::yield_now().await;
        let answer = pool.call::<_, i64>(LIMITED, (2, 0.002)).await?;
        assert_eq!(answer, 2);
        Ok(())
    })
    .await;
    pool.shutdown().await;
}

#[tokio::test]
async fn from_an_idempotent_call_whose_worker_dies() {
    // Every death is a restart, and a slot that restarts often rests: so few points, one pool each.
    for polls in 1..=6 {
        let dir = tempfile::tempdir().unwrap();
        let flag = dir.path().join("died");
        let pool = builder()
            .poison_limit(None)
            .cancel_grace(Duration::from_secs(5))
            .start()
            .await
            .unwrap();
        let request = pool.request("dies:once").args(&(&flag, "exit")).unwrap();
        let answered = polled(polls, Leaves::Waiting, request.idempotent().send::<u32>()).await;
        timeout(PATIENCE, pool.drain()).await.unwrap();
        pool.resume();
        let next = timeout(PATIENCE, pool.call::<_, u32>("dies:pid", ()))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(worker_pid(&pool).await, next);
        if let Some(answer) = answered {
            assert_eq!(answer.unwrap(), next);
        }
        let status = pool.status().await;
        assert_eq!((status.ready, status.busy, status.queued), (1, 0, 0));
        pool.shutdown().await;
    }
}
