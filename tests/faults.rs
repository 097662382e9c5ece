//! What user code does to its worker is one precise error for its caller, and nobody else notices.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::time::Duration;

use common::{Undertaker, builder, is_gone, until, worker_pid};
use snakepit::{
    CallError, EventKind, Pool, RemoteErrorKind, Shutdown, Value, WorkerLost,
    core::{
        process::{EndStep, ExitOutcome},
        worker::{DownReason, Heartbeat},
    },
};

async fn lost(pool: &Pool, function: &str, args: impl serde::Serialize) -> Box<WorkerLost> {
    let error = pool.call::<_, Value>(function, args).await.unwrap_err();
    assert!(error.may_have_executed(), "{error:?}");
    match error {
        CallError::WorkerLost(lost) => lost,
        other => panic!("{other:?}"),
    }
}

/// The pool serves again, on another process than `before`.
async fn serves_again(pool: &Pool, before: u32) {
    assert_ne!(pool.call::<_, u32>("exits:pid", ()).await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn sys_exit_and_base_exceptions_are_the_calls_errors_and_the_worker_stays() {
    let pool = builder().start().await.unwrap();
    let pid = worker_pid(&pool).await;
    let error = pool.call::<_, Value>("exits:sys_exit", (3,)).await.unwrap_err();
    let remote = error.remote().unwrap();
    assert_eq!((remote.kind, remote.exit_code), (RemoteErrorKind::SystemExit, 3));
    let error = pool
        .call::<_, Value>("exits:base_exception", ())
        .await
        .unwrap_err();
    let remote = error.remote().unwrap();
    assert_eq!(remote.kind, RemoteErrorKind::Raised);
    assert_eq!(remote.exception().unwrap().type_name, "exits.Unusual");
    assert_eq!(pool.call::<_, u32>("exits:pid", ()).await.unwrap(), pid);
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_from_c_is_told_with_its_code() {
    let pool = builder().start().await.unwrap();
    let pid = worker_pid(&pool).await;
    let lost = lost(&pool, "exits:os_exit", (7,)).await;
    assert_eq!(lost.down.outcome, Some(ExitOutcome::Exited(7)));
    assert_eq!(
        (lost.down.reason.clone(), lost.pid),
        (DownReason::Exited, Some(pid))
    );
    serves_again(&pool, pid).await;
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segfault_is_told_with_its_signal_and_the_last_words() {
    let pool = builder().start().await.unwrap();
    let pid = worker_pid(&pool).await;
    let lost = lost(&pool, "exits:segfault", ()).await;
    assert!(
        matches!(
            lost.down.outcome,
            Some(ExitOutcome::Signaled {
                signal: libc::SIGSEGV,
                ..
            })
        ),
        "{lost}"
    );
    assert!(lost.to_string().contains("SIGSEGV"), "{lost}");
    let tail = &lost.down.stderr_tail;
    assert!(tail.contains("about to read address zero"), "{tail}");
    // The fault handler tells where it was.
    assert!(tail.contains("exits.py"), "{tail}");
    serves_again(&pool, pid).await;
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_in_user_code_answers_once_and_its_child_leaves() {
    let mut undertaker = Undertaker::default();
    let pool = builder().start().await.unwrap();
    let pid = worker_pid(&pool).await;
    let child: u32 = pool.call("forks:fork_and_return", ()).await.unwrap();
    assert_ne!(child, 0, "the child answered");
    undertaker.add(child);
    until("the child has left", async || is_gone(child)).await;
    assert_eq!(pool.call::<_, u32>("exits:pid", ()).await.unwrap(), pid);
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_every_descriptor_costs_the_worker_and_is_told_soon() {
    let pool = builder().start().await.unwrap();
    let pid = worker_pid(&pool).await;
    let lost = lost(&pool, "closes_fds:close_all", ()).await;
    assert!(lost.ran < Duration::from_secs(10), "{lost}");
    until("the worker is gone", async || is_gone(pid)).await;
    serves_again(&pool, pid).await;
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_started_ends_with_it() {
    let mut undertaker = Undertaker::default();
    let pool = builder().start().await.unwrap();
    let pid = worker_pid(&pool).await;
    let child: u32 = pool.call("forks:child", ()).await.unwrap();
    let daemon: u32 = pool.call("forks:daemon", ()).await.unwrap();
    undertaker.add(child);
    undertaker.add(daemon);
    assert!(!is_gone(child) && !is_gone(daemon));
    // A worker that dies by itself cannot end its children any more; its backend does.
    let _ = lost(&pool, "exits:os_exit", (1,)).await;
    serves_again(&pool, pid).await;
    assert!(
        is_gone(child) && is_gone(daemon),
        "the slot was refilled before its tree was empty"
    );
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_ends_what_workers_started() {
    let mut undertaker = Undertaker::default();
    let pool = builder().start().await.unwrap();
    let pid = worker_pid(&pool).await;
    let child: u32 = pool.call("forks:child", ()).await.unwrap();
    let daemon: u32 = pool.call("forks:daemon", ()).await.unwrap();
    undertaker.add(child);
    undertaker.add(daemon);
    pool.shutdown().await;
    assert!(is_gone(pid) && is_gone(child) && is_gone(daemon));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_on_stderr_slows_nobody_down_for_good_and_the_end_of_it_is_kept() {
    let pool = builder().start().await.unwrap();
    assert_eq!(
        pool.call::<_, u32>("floods_stderr:flood", (10,)).await.unwrap(),
        10
    );
    let lost = lost(&pool, "floods_stderr:flood_and_die", (1,)).await;
    assert!(
        lost.down.stderr_tail.ends_with("these are my last words\n"),
        "{}",
        lost.to_string()
    );
    assert!(lost.down.stderr_tail.len() <= 64 * 1024);
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_worker_is_noticed_and_replaced() {
    let heartbeat = Heartbeat {
        interval: Duration::from_millis(100),
        stuck_after: Duration::from_secs(2),
    };
    let pool = builder().heartbeat(heartbeat).start().await.unwrap();
    let mut undertaker = Undertaker::default();
    let pid = worker_pid(&pool).await;
    undertaker.add(pid);
    snakepit::core::process::Pidfd::open(pid)
        .unwrap()
        .signal(libc::SIGSTOP)
        .unwrap();
    let lost = lost(&pool, "slow:sleep", (60,)).await;
    assert_eq!(lost.down.reason, DownReason::Unresponsive(heartbeat.stuck_after));
    serves_again(&pool, pid).await;
    assert!(is_gone(pid));
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_computes_with_the_gil_held_is_not_taken_for_dead() {
    let heartbeat = Heartbeat {
        interval: Duration::from_millis(50),
        stuck_after: Duration::from_millis(1500),
    };
    let pool = builder().heartbeat(heartbeat).start().await.unwrap();
    let pid = worker_pid(&pool).await;
    assert_eq!(pool.call::<_, u32>("holds_gil:hold", (4,)).await.unwrap(), pid);
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_from_outside_costs_one_caller_and_the_others_go_on() {
    let pool = builder().workers(3).start().await.unwrap();
    let mut events = pool.events();
    let dir = tempfile::tempdir().unwrap();
    let begun = dir.path().join("begun");
    let doomed = tokio::spawn({
        let (pool, begun) = (pool.clone(), begun.clone());
        async move {
            pool.call::<_, Value>("slow:announce_and_sleep", (begun, 60))
                .await
        }
    });
    // A call that has not begun would be executed by another worker instead.
    until("it runs", async || begun.exists()).await;
    let status = pool.status().await;
    let busy = status
        .workers
        .iter()
        .find(|worker| worker.busy_for.is_some())
        .unwrap();
    let pid = busy.child.status.pid.unwrap();
    let others: Vec<_> = (0..20)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move { pool.call::<_, u32>("slow:sleep", (0.01,)).await })
        })
        .collect();
    snakepit::core::process::Pidfd::open(pid)
        .unwrap()
        .signal(libc::SIGKILL)
        .unwrap();
    let CallError::WorkerLost(lost) = doomed.await.unwrap().unwrap_err() else {
        panic!("not lost")
    };
    assert_eq!(lost.pid, Some(pid));
    assert!(lost.to_string().contains("SIGKILL"), "{lost}");
    for other in others {
        other.await.unwrap().unwrap();
    }
    until("three serve again", async || pool.status().await.ready == 3).await;
    let mut kinds = Vec::new();
    while let Ok(event) = events.try_recv() {
        match event.kind {
            EventKind::WorkerDown { .. } => kinds.push("down"),
            EventKind::WorkerEnded { .. } => kinds.push("ended"),
            EventKind::WorkerReady { .. } => kinds.push("ready"),
            _ => {}
        }
    }
    assert_eq!(kinds, ["down", "ended", "ready"]);
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_is_bounded_by_a_worker_that_ignores_cancel_and_sigterm() {
    let shutdown = Shutdown {
        drain: Duration::from_millis(300),
        grace: Duration::from_millis(300),
    };
    let pool = builder().shutdown(shutdown).start().await.unwrap();
    let mut events = pool.events();
    let pid = worker_pid(&pool).await;
    let deaf = tokio::spawn({
        let pool = pool.clone();
        async move { pool.call::<_, Value>("slow:deaf", (60,)).await }
    });
    until("it runs", async || pool.status().await.busy == 1).await;
    let began = tokio::time::Instant::now();
    pool.shutdown().await;
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert!(is_gone(pid));
    assert!(matches!(deaf.await.unwrap(), Err(CallError::WorkerLost(_))));
    let mut steps = Vec::new();
    while let Ok(event) = events.try_recv() {
        if let EventKind::WorkerEnded { report, .. } = event.kind {
            steps.push(report.step);
        }
    }
    // The runtime leaves by itself when its limits run out, without the GIL; whichever comes first, something was sent.
    assert!(matches!(steps[..], [EndStep::Term | EndStep::Kill]), "{steps:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_asked_to_leave_from_outside_loses_nobody() {
    let pool = builder()
        .workers(2)
        .adapter("leaves_slowly")
        .start()
        .await
        .unwrap();
    let pids: Vec<_> = pool
        .status()
        .await
        .workers
        .iter()
        .filter_map(|worker| worker.child.status.pid)
        .collect();
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                for _ in 0..400 {
                    pool.call::<_, Value>("slow:sleep", (0.001,)).await?;
                }
                Ok::<_, CallError>(())
            })
        })
        .collect();
    for pid in pids {
        tokio::time::sleep(Duration::from_millis(100)).await;
        snakepit::core::process::Pidfd::open(pid)
            .unwrap()
            .signal(libc::SIGTERM)
            .unwrap();
    }
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
    pool.shutdown().await;
}
