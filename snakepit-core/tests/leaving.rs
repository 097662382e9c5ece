//! Callers that leave at every point where a call waits, one point after the other: they take nothing along.
//!
//! A future is polled once, and dropped; the next one twice, and dropped; and so on until one comes to its end. It is dropped when it
//! has to wait, and in a second round when it is woken: it may have been given a worker by then, and not know. The clock is paused
//! and all run on one thread, so that each number of polls is the same point every time.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;
#[path = "common/leaves.rs"]
mod leaves;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use common::{FOREVER, builder, nil};
use leaves::{Leaves, polled};
use snakepit_core::{
    SlotId,
    pool::{CallError, Pool},
    testing::{FakeBehaviour, FakeWorkerFactory},
};
use tokio::{
    task::yield_now,
    time::{sleep, timeout},
};

/// How often a fake call waits before it answers: that many more points to leave at.
const STEPS: usize = 4;

/// Answers nil after some waits. A function `dies N` takes its worker along, but for every Nth of them.
fn behaviour(factory: &FakeWorkerFactory, died: &Arc<AtomicU32>) -> FakeBehaviour {
    let (factory, died) = (factory.clone(), Arc::clone(died));
    FakeBehaviour::handler(move |request| {
        let (factory, died) = (factory.clone(), Arc::clone(&died));
        async move {
            for _ in 0..STEPS {
                yield_now().await;
            }
            let dies = request.function.strip_prefix("dies ");
            if let Some(times) = dies.and_then(|times| times.parse::<u32>().ok())
                && died.fetch_add(1, Ordering::Relaxed) % times != times - 1
            {
                for worker in (0..).map_while(|slot| factory.worker(SlotId(slot))) {
                    if worker.fake_client().running().contains(&request.call_id) {
                        worker.crash();
                    }
                }
                yield_now().await;
            }
            Ok(nil(request.call_id))
        }
    })
}

struct Bench {
    pool: Pool,
    died: Arc<AtomicU32>,
}

impl Bench {
    async fn new(workers: usize) -> Self {
        let died = Arc::new(AtomicU32::new(0));
        let factory = FakeWorkerFactory::new();
        factory.set_behaviour(behaviour(&factory, &died));
        let pool = builder(&factory)
            .workers(workers)
            .function_limit("limited", 1)
            .poison_limit(None)
            .start()
            .await
            .unwrap();
        Self { pool, died }
    }

    /// Nothing is held by anybody: a drain waits for whatever is, and every place can be taken again.
    async fn is_whole(&self, context: &str) {
        // A worker that died may be restarted after a pause, and a series of restarts be over.
        sleep(Duration::from_secs(3600)).await;
        timeout(FOREVER, self.pool.drain()).await.expect(context);
        self.pool.resume();
        let status = self.pool.status().await;
        assert_eq!((status.busy, status.queued), (0, 0), "{context}");
        assert_eq!(status.ready, status.workers.len(), "{context}");
        for function in ["next", "limited"] {
            // As many as there are workers, so that each of them is used.
            let calls: Vec<_> = (0..status.ready)
                .map(|_| common::spawn_call(&self.pool, function))
                .collect();
            for call in calls {
                let served = timeout(FOREVER, call).await.expect(context).unwrap();
                assert!(served.is_ok(), "{context}: {served:?}");
            }
        }
    }

    /// Leaves at each point of what `call` does; how many there were.
    async fn leaves_everywhere<T>(&self, mut call: impl AsyncFnMut() -> Result<T, CallError>) -> usize {
        self.leaves(Leaves::Woken, &mut call).await;
        self.leaves(Leaves::Waiting, &mut call).await
    }

    async fn leaves<T>(&self, leaves: Leaves, mut call: impl AsyncFnMut() -> Result<T, CallError>) -> usize {
        for polls in 1..1000 {
            self.died.store(0, Ordering::Relaxed);
            let end = polled(polls, leaves, call()).await;
            self.is_whole(&format!("{leaves:?} after {polls} polls")).await;
            if let Some(end) = end {
                assert!(end.is_ok(), "{:?}", end.err());
                return polls;
            }
        }
        panic!("it never came to its end");
    }
}

#[tokio::test(start_paused = true)]
async fn from_a_plain_call() {
    let bench = Bench::new(1).await;
    let points = bench
        .leaves_everywhere(async || bench.pool.call::<_, ()>("f", ()).await)
        .await;
    assert!(points > STEPS, "{points}");
    bench.pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn from_a_call_with_every_budget() {
    let bench = Bench::new(1).await;
    let points = bench
        .leaves_everywhere(async || {
            let request = bench.pool.request("f").deadline(FOREVER);
            let request = request.queue_timeout(FOREVER).run_timeout(FOREVER);
            request.send::<()>().await
        })
        .await;
    assert!(points > STEPS, "{points}");
    bench.pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn from_a_stream() {
    let bench = Bench::new(1).await;
    let points = bench
        .leaves_everywhere(async || {
            let mut items = bench.pool.request("f").credit(1).stream::<()>().await?;
            let mut count = 0;
            while let Some(item) = items.next().await {
                item?;
                yield_now().await;
                count += 1;
            }
            assert_eq!(count, 1);
            Ok(())
        })
        .await;
    assert!(points >= 3, "{points}");
    bench.pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn from_the_queue() {
    let bench = Bench::new(1).await;
    let points = bench
        .leaves_everywhere(async || {
            // The only worker is taken; a second caller waits behind this one.
            let before = common::spawn_call(&bench.pool, "before");
            yield_now().await;
            let behind = common::spawn_call(&bench.pool, "behind");
            bench.pool.call::<_, ()>("f", ()).await?;
            before.await.unwrap()?;
            behind.await.unwrap()
        })
        .await;
    assert!(points > STEPS + 1, "{points}");
    bench.pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn from_a_function_that_is_limited() {
    let bench = Bench::new(2).await;
    let points = bench
        .leaves_everywhere(async || {
            let before = common::spawn_call(&bench.pool, "limited");
            yield_now().await;
            let behind = common::spawn_call(&bench.pool, "limited");
            // It waits for the permit first, and has it all the while that it runs.
            bench.pool.call::<_, ()>("limited", ()).await?;
            before.await.unwrap()?;
            behind.await.unwrap()
        })
        .await;
    assert!(points > STEPS + 1, "{points}");
    bench.pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn from_a_function_that_is_limited_where_all_workers_are_busy_too() {
    let bench = Bench::new(1).await;
    let points = bench
        .leaves_everywhere(async || {
            let busy = common::spawn_call(&bench.pool, "other");
            let before = common::spawn_call(&bench.pool, "limited");
            yield_now().await;
            bench.pool.call::<_, ()>("limited", ()).await?;
            before.await.unwrap()?;
            busy.await.unwrap()
        })
        .await;
    assert!(points > STEPS + 1, "{points}");
    bench.pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn from_an_idempotent_call_that_loses_two_workers() {
    let bench = Bench::new(1).await;
    let points = bench
        .leaves_everywhere(async || bench.pool.request("dies 3").idempotent().send::<()>().await)
        .await;
    assert!(points > 3 * STEPS, "{points}");
    bench.pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn from_a_call_that_loses_its_worker() {
    let bench = Bench::new(1).await;
    let points = bench
        .leaves_everywhere(async || match bench.pool.call::<_, ()>("dies 2", ()).await {
            Err(CallError::WorkerLost(_)) => Ok(()),
            other => panic!("{other:?}"),
        })
        .await;
    assert!(points > STEPS, "{points}");
    bench.pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn from_a_call_in_a_worker_that_runs_several() {
    let died = Arc::new(AtomicU32::new(0));
    let factory = FakeWorkerFactory::new().with_concurrency(2);
    factory.set_behaviour(behaviour(&factory, &died));
    let pool = builder(&factory)
        .function_limit("limited", 1)
        .start()
        .await
        .unwrap();
    let bench = Bench { pool, died };
    let points = bench
        .leaves_everywhere(async || {
            let beside = common::spawn_call(&bench.pool, "beside");
            let limited = common::spawn_call(&bench.pool, "limited");
            yield_now().await;
            bench.pool.call::<_, ()>("limited", ()).await?;
            beside.await.unwrap()?;
            limited.await.unwrap()
        })
        .await;
    assert!(points > STEPS, "{points}");
    bench.pool.shutdown().await;
}
