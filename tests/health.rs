//! Health hooks of adapters, on real workers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{path::PathBuf, sync::Arc, time::Duration};

use common::{builder, is_gone, until, worker_pid};
use snakepit::{
    Concurrency, Event, EventKind, Pool, PoolBuilder, Value,
    core::worker::{DownReason, Unhealthy},
};
use tempfile::TempDir;
use tokio::sync::broadcast;

/// Soon, so that a test need not wait.
const INTERVAL: Duration = Duration::from_millis(20);
/// Longer than a healthy check takes on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(2);

/// What the hook is told to do, and what it did.
struct Hook {
    dir: TempDir,
}

impl Hook {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir }
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn builder(&self) -> PoolBuilder {
        builder()
            .adapter("checks")
            .env("HEALTH", self.state())
            .health_interval(INTERVAL)
    }

    fn does(&self, what: &str) {
        // In one step: a hook that looks meanwhile finds the one or the other.
        let new = self.dir.path().join("new");
        std::fs::write(&new, what).unwrap();
        std::fs::rename(new, self.state()).unwrap();
    }

    /// Each check: which worker was asked, and what it found in the file.
    fn checks(&self) -> Vec<(u32, String)> {
        let asked = std::fs::read_to_string(self.dir.path().join("state.asked")).unwrap_or_default();
        let check = |line: &str| {
            let (pid, said) = line.split_once(' ').unwrap();
            (pid.parse().unwrap(), said.to_owned())
        };
        // A line that is being written has no end yet.
        let whole = asked.rfind('\n').map_or("", |end| &asked[..end]);
        whole.lines().map(check).collect()
    }

    /// The workers that were asked, in order.
    fn asked(&self) -> Vec<u32> {
        self.checks().into_iter().map(|(pid, _)| pid).collect()
    }
}

/// The worker whose check failed next, and why.
async fn unhealthy(events: &mut broadcast::Receiver<Event>) -> Unhealthy {
    let mut told = None;
    loop {
        match events.recv().await.unwrap().kind {
            EventKind::HealthChecked {
                outcome: Err(unhealthy),
                ..
            } => told = Some(unhealthy),
            EventKind::WorkerDown { down, .. } => {
                let DownReason::Unhealthy(unhealthy) = down.reason else {
                    panic!("{down}")
                };
                assert_eq!(
                    told,
                    Some(unhealthy.clone()),
                    "the event comes first, with the same"
                );
                return unhealthy;
            }
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_worker_stays_and_its_checks_are_no_calls() {
    let hook = Hook::new();
    hook.does("true");
    let pool = hook
        .builder()
        .max_calls(3)
        .recycle_jitter(0.0)
        .start()
        .await
        .unwrap();
    let pid = worker_pid(&pool).await;
    until("it was asked often", async || hook.asked().len() >= 10).await;
    assert!(hook.asked().iter().all(|asked| *asked == pid));
    assert_eq!(pool.call::<_, u64>("call_id", ()).await.unwrap(), 1);
    assert_eq!(pool.call::<_, u64>("call_id", ()).await.unwrap(), 2);
    let status = pool.status().await;
    assert_eq!((status.busy, status.ran.count), (0, 2));
    let worker = &status.workers[0];
    assert_eq!((worker.calls, worker.child.status.pid), (2, Some(pid)));
    assert_eq!(worker.check.as_ref().unwrap().outcome, Ok(()));
    pool.shutdown().await;
    assert!(is_gone(pid));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_hook_turns_bad_is_replaced_and_no_caller_is_hurt() {
    let hook = Hook::new();
    let pool = Arc::new(hook.builder().workers(2).start().await.unwrap());
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let pool = Arc::clone(&pool);
            tokio::spawn(async move {
                for _ in 0..300 {
                    pool.call::<_, u64>("call_id", ()).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
        })
        .collect();
    until("both were asked", async || {
        let mut asked = hook.asked();
        asked.sort_unstable();
        asked.dedup();
        asked.len() == 2
    })
    .await;
    let mut events = pool.events();
    hook.does("false");
    let unhealthy = unhealthy(&mut events).await;
    hook.does("true");
    assert_eq!(unhealthy.message, "health hook checks:check returned False");
    assert_eq!(unhealthy.traceback, "");
    for caller in callers {
        caller.await.unwrap();
    }
    until("both serve", async || pool.status().await.ready == 2).await;
    let mut asked = hook.asked();
    asked.sort_unstable();
    asked.dedup();
    assert!(asked.len() >= 3, "another one took its place: {asked:?}");
    pool.shutdown().await;
    assert!(asked.into_iter().all(is_gone));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_raises_tells_why_with_its_traceback() {
    for (does, message, traceback) in [
        (
            "raise",
            "RuntimeError: the model is gone",
            "in _answer\n    raise RuntimeError(",
        ),
        ("exit", "user code called sys.exit(3)", "SystemExit: 3"),
        (
            "odd",
            "TypeError: health hook checks:check must return None, True or False, not str",
            "TypeError: health hook",
        ),
    ] {
        let hook = Hook::new();
        let pool = hook.builder().start().await.unwrap();
        until("it was asked", async || !hook.asked().is_empty()).await;
        let first = worker_pid(&pool).await;
        let mut events = pool.events();
        hook.does(does);
        let unhealthy = unhealthy(&mut events).await;
        hook.does("");
        assert_eq!(unhealthy.message, message);
        assert!(unhealthy.traceback.contains(traceback), "{}", unhealthy.traceback);
        pool.call::<_, u64>("call_id", ()).await.unwrap();
        assert_ne!(worker_pid(&pool).await, first);
        pool.shutdown().await;
        assert!(is_gone(first));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_hook_hangs_is_ended_after_the_timeout() {
    let hook = Hook::new();
    let pool = hook.builder().health_timeout(TIMEOUT).start().await.unwrap();
    until("it was asked", async || !hook.asked().is_empty()).await;
    let first = worker_pid(&pool).await;
    let mut events = pool.events();
    hook.does("hang");
    let unhealthy = unhealthy(&mut events).await;
    hook.does("");
    assert_eq!(unhealthy.message, "its health check did not end within 2s");
    pool.call::<_, u64>("call_id", ()).await.unwrap();
    until("it is gone", async || is_gone(first)).await;
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_hangs_does_not_hold_up_a_shutdown() {
    let hook = Hook::new();
    let pool = hook
        .builder()
        .health_timeout(Duration::from_secs(600))
        .start()
        .await
        .unwrap();
    until("it was asked", async || !hook.asked().is_empty()).await;
    hook.does("hang");
    until("it hangs", async || {
        hook.checks().last().is_some_and(|(_, said)| said == "hang")
    })
    .await;
    let pid = worker_pid(&pool).await;
    tokio::time::timeout(common::PATIENCE, pool.shutdown())
        .await
        .unwrap();
    assert!(is_gone(pid));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_worker_is_not_interrupted_and_is_asked_when_it_is_given_back() {
    let hook = Hook::new();
    let pool = hook.builder().start().await.unwrap();
    let go = hook.dir.path().join("go");
    until("it was asked", async || !hook.asked().is_empty()).await;
    let call = tokio::spawn({
        let (pool, go) = (pool.clone(), go.clone());
        async move { pool.call::<_, Value>("gates:for_file", (&go,)).await }
    });
    until("it runs", async || pool.status().await.busy == 1).await;
    let asked = hook.asked().len();
    hook.does("false");
    let mut events = pool.events();
    tokio::time::sleep(10 * INTERVAL).await;
    assert_eq!(hook.asked().len(), asked, "no check during the call");
    std::fs::write(&go, "").unwrap();
    call.await.unwrap().unwrap();
    unhealthy(&mut events).await;
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_may_be_asynchronous_and_run_beside_calls() {
    for concurrency in [Concurrency::One, Concurrency::Threads(3), Concurrency::Asyncio(3)] {
        for kind in ["", "1"] {
            let hook = Hook::new();
            let pool = hook
                .builder()
                .env("HEALTH_ASYNC", kind)
                .concurrency(concurrency)
                .start()
                .await
                .unwrap();
            let go = hook.dir.path().join("go");
            let call = tokio::spawn({
                let (pool, go) = (pool.clone(), go.clone());
                async move { pool.call::<_, Value>("gates:for_file", (&go,)).await }
            });
            until("it runs", async || pool.status().await.busy == 1).await;
            let asked = hook.asked().len();
            if concurrency != Concurrency::One {
                until("it is asked beside", async || hook.asked().len() > asked + 1).await;
            }
            let mut events = pool.events();
            hook.does("raise");
            std::fs::write(&go, "").unwrap();
            call.await.unwrap().unwrap();
            let unhealthy = unhealthy(&mut events).await;
            assert_eq!(
                unhealthy.message, "RuntimeError: the model is gone",
                "{concurrency:?}"
            );
            pool.shutdown().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_without_a_hook_are_not_asked() {
    let pool = builder()
        .adapter("gates")
        .health_interval(INTERVAL)
        .start()
        .await
        .unwrap();
    let mut events = pool.events();
    tokio::time::sleep(10 * INTERVAL).await;
    pool.call::<_, Value>("slow:pid", ()).await.unwrap();
    assert!(pool.status().await.workers[0].check.is_none());
    while let Ok(event) = events.try_recv() {
        assert!(
            !matches!(event.kind, EventKind::HealthChecked { .. }),
            "{event:?}"
        );
    }
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_is_told_not_to_asks_nobody() {
    let hook = Hook::new();
    hook.does("false");
    let pool: Pool = hook.builder().health_interval(None).start().await.unwrap();
    assert_eq!(pool.call::<_, u64>("call_id", ()).await.unwrap(), 1);
    assert!(hook.asked().is_empty());
    pool.shutdown().await;
}
