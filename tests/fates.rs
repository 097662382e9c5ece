//! A worker that dies, or user code that raises, at each moment of a call: who is told what, and what is left.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use common::{builder, is_gone, until, worker_pid};
use serde::Serialize;
use snakepit::{
    CallError, Pool, RemoteErrorKind, Value,
    core::process::{ExitOutcome, Pidfd},
};

const FATES: [&str; 4] = ["crash", "exit", "c_exit", "raise"];

fn outcome_of(fate: &str) -> Option<ExitOutcome> {
    match fate {
        "crash" => Some(ExitOutcome::Signaled {
            signal: libc::SIGSEGV,
            core_dumped: false,
        }),
        "exit" => Some(ExitOutcome::Exited(41)),
        "c_exit" => Some(ExitOutcome::Exited(42)),
        _ => None,
    }
}

/// Makes the call, and checks that it alone is told, with the exact outcome, and that the pool is whole afterwards.
async fn meets(pool: &Pool, function: &str, argument: impl Serialize, fate: &str) {
    let before = worker_pid(pool).await;
    let error = pool.call::<_, Value>(function, (argument,)).await.unwrap_err();
    let after: u32 = pool.call("dies:pid", ()).await.unwrap();
    match (outcome_of(fate), &error) {
        (None, CallError::Failed(failed)) => {
            assert_eq!(
                failed.error.kind,
                RemoteErrorKind::Raised,
                "{function} {fate}: {error}"
            );
            assert_eq!(after, before, "{function} {fate}: the worker stays");
        }
        (Some(expected), CallError::WorkerLost(lost)) => {
            let told = match lost.down.outcome {
                // Where the machine keeps cores is not ours to say.
                Some(ExitOutcome::Signaled { signal, .. }) => Some(ExitOutcome::Signaled {
                    signal,
                    core_dumped: false,
                }),
                other => other,
            };
            assert_eq!(told, Some(expected), "{function} {fate}: {error}");
            assert_eq!(lost.pid, Some(before));
            assert_ne!(after, before, "{function} {fate}");
            assert!(is_gone(before));
        }
        _ => panic!("{function} {fate}: {error}"),
    }
    let status = pool.status().await;
    assert_eq!(
        (status.ready, status.busy, status.queued),
        (1, 0, 0),
        "{function} {fate}"
    );
}

async fn pool() -> Pool {
    // Each moment costs a worker three times over; the limit for poison is not what is tried here.
    builder()
        .adapter("dies")
        .poison_limit(None)
        .start()
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn while_its_arguments_are_made() {
    let pool = pool().await;
    for (at, fate) in FATES.into_iter().enumerate() {
        let argument = Value::Decimal(format!("{}", 1000 + at));
        meets(&pool, "dies:given", argument, fate).await;
    }
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_call() {
    let pool = pool().await;
    for fate in FATES {
        meets(&pool, "dies:called", fate, fate).await;
    }
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_its_result_is_read() {
    let pool = pool().await;
    for fate in FATES {
        meets(&pool, "dies:answers", fate, fate).await;
    }
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_it_has_answered() {
    let pool = pool().await;
    for fate in FATES {
        let before: u32 = pool.call("dies:afterwards", (fate,)).await.unwrap();
        if outcome_of(fate).is_some() {
            until("it dies", async || is_gone(before)).await;
        }
        let after: u32 = pool.call("dies:pid", ()).await.unwrap();
        assert_eq!(after == before, fate == "raise", "{fate}");
        assert_eq!(pool.status().await.workers.len(), 1);
    }
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotent_call_survives_its_worker() {
    let pool = pool().await;
    let dir = tempfile::tempdir().unwrap();
    for fate in ["crash", "exit", "c_exit"] {
        let before = worker_pid(&pool).await;
        let request = pool
            .request("dies:once")
            .args(&(dir.path().join(fate), fate))
            .unwrap();
        let after: u32 = request.idempotent().send().await.unwrap();
        assert_ne!(after, before);
    }
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_kills_its_workers_is_refused_and_others_are_not() {
    let pool = builder().adapter("dies").start().await.unwrap();
    let request = pool.request("dies:called").args(&("exit",)).unwrap();
    let error = request.clone().idempotent().send::<Value>().await.unwrap_err();
    assert!(
        matches!(&error, CallError::WorkerLost(lost) if lost.attempts == 3),
        "{error}"
    );
    let error = request.send::<Value>().await.unwrap_err();
    let CallError::Poisoned(poisoned) = &error else {
        panic!("{error}");
    };
    assert_eq!(
        (poisoned.deaths, poisoned.last.outcome),
        (3, Some(ExitOutcome::Exited(41)))
    );
    assert!(!error.may_have_executed());
    pool.call::<_, u32>("dies:pid", ()).await.unwrap();
    pool.shutdown().await;
}

/// A worker that leaves by itself runs its stop hooks and looks at nothing meanwhile: what the host sends it then is refused by name, certainly
/// not executed, and taken by the next worker.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_to_a_worker_that_is_leaving_is_not_lost() {
    for streams in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let said = dir.path().join("leaving");
        let pool = builder()
            .adapter("leaves_slowly")
            .env("LEAVES_SLOWLY", &said)
            .start()
            .await
            .unwrap();
        let leaving = worker_pid(&pool).await;
        let pidfd = Pidfd::open(leaving).unwrap();
        pidfd.signal(libc::SIGTERM).unwrap();
        until("its stop hook runs", async || said.exists()).await;
        if streams {
            // The first of this worker: its connection begins with it.
            let call = pool.request("dies:pids").args(&()).unwrap();
            let mut items = call.stream::<u32>().await.unwrap();
            let next = items.next().await.unwrap().unwrap();
            assert_ne!(next, leaving);
        } else {
            let next: u32 = pool.call("dies:pid", ()).await.unwrap();
            assert_ne!(next, leaving);
        }
        pool.shutdown().await;
    }
}
