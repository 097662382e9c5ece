//! A function that nobody waits for is over, and Python is told.

use std::{fs, sync::Arc, time::Duration};

use libc::SIGKILL;
use snakepit::{CallError, HostCall, Value};
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    common::{PATIENCE, builder, until, worker_pid},
    support::{Counts, SHORT, failure, pool, with_functions},
};

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_of_the_surrounding_call_ends_both() {
    let hangs = Counts::default();
    let pool = with_functions(builder().cancel_grace(PATIENCE), &hangs)
        .start()
        .await
        .unwrap();
    let pid = worker_pid(&pool).await;
    for (round, form) in ["asks_host:ask", "asks_host:ask_async"].into_iter().enumerate() {
        let request = pool.request(form).args(&("hang",)).unwrap().deadline(SHORT);
        let error = request.send::<Value>().await.unwrap_err();
        assert!(
            matches!(&error, CallError::DeadlineExceeded(e) if e.ran.is_some()),
            "{error}"
        );
        hangs.until_over(round + 1).await;
        assert_eq!(pool.call::<_, u32>("asks_host:pid", ()).await.unwrap(), pid);
    }
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_of_ones_own_ends_the_function_and_the_call_goes_on() {
    let (pool, hangs) = pool().await;
    let told = failure(&pool, "asks_host:failure_within", (0.3, "hang")).await;
    assert_eq!((told.kind.as_str(), told.function.as_str()), ("deadline", "hang"));
    hangs.until_over(1).await;
    // Nothing is started for a time that is over.
    let told = failure(&pool, "asks_host:failure_within", (0.0, "hang")).await;
    assert_eq!(told.kind, "deadline");
    assert_eq!(hangs.begun(), 1);
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_ends_the_function_and_python_is_told() {
    let hangs = Counts::default();
    let pool = with_functions(builder().cancel_grace(PATIENCE), &hangs)
        .start()
        .await
        .unwrap();
    let pid = worker_pid(&pool).await;
    let directory = tempfile::tempdir().unwrap();
    // A task that has not come to its await yet is interrupted like any other code.
    let forms: [(_, &[&str]); 2] = [
        ("asks_host:witness", &["Cancelled"]),
        ("asks_host:witness_async", &["CancelledError", "Cancelled"]),
    ];
    for (round, (form, raised)) in forms.into_iter().enumerate() {
        let path = directory.path().join(round.to_string());
        let caller = tokio::spawn({
            let (pool, path) = (pool.clone(), path.to_str().unwrap().to_owned());
            async move { pool.call::<_, Value>(form, (path, "hang")).await }
        });
        hangs.until_begun(round + 1).await;
        caller.abort();
        hangs.until_over(round + 1).await;
        until("Python is told", async || path.exists()).await;
        let found = fs::read_to_string(&path).unwrap();
        assert!(raised.contains(&&*found), "{found}");
        assert_eq!(pool.call::<_, u32>("asks_host:pid", ()).await.unwrap(), pid);
    }
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancels_that_cross_answers_hit_no_later_call() {
    let (pool, _) = pool().await;
    for round in 0..100 {
        let request = pool.request("asks_host:ask").args(&("echo", round)).unwrap();
        // About as long as the call takes.
        let _ = request
            .deadline(Duration::from_micros(100 + 20 * round))
            .send::<Value>()
            .await;
        assert_eq!(
            pool.call::<_, u64>("asks_host:ask", ("echo", round))
                .await
                .unwrap(),
            round
        );
    }
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_is_over_when_its_worker_is_gone() {
    let (pool, hangs) = pool().await;
    let pid = worker_pid(&pool).await;
    let caller = tokio::spawn({
        let pool = pool.clone();
        async move { pool.call::<_, Value>("asks_host:ask", ("hang",)).await }
    });
    hangs.until_begun(1).await;
    snakepit::core::process::Pidfd::open(pid)
        .unwrap()
        .signal(SIGKILL)
        .unwrap();
    assert!(matches!(caller.await.unwrap(), Err(CallError::WorkerLost(_))));
    hangs.until_over(1).await;
    assert_eq!(
        pool.call::<_, i64>("asks_host:ask", ("add", 1, 1)).await.unwrap(),
        2
    );
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_is_over_when_its_pool_is() {
    for gracefully in [true, false] {
        let hangs = Counts::default();
        let shutdown = snakepit::Shutdown {
            drain: SHORT,
            grace: PATIENCE,
        };
        let pool = with_functions(builder().shutdown(shutdown), &hangs)
            .start()
            .await
            .unwrap();
        let caller = tokio::spawn({
            let pool = pool.clone();
            async move { pool.call::<_, Value>("asks_host:ask", ("hang",)).await }
        });
        hangs.until_begun(1).await;
        if gracefully {
            pool.shutdown().await;
        } else {
            pool.kill().await;
        }
        hangs.until_over(1).await;
        caller.await.unwrap().unwrap_err();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_was_handed_on_learns_that_nobody_waits() {
    let told = Arc::new(Semaphore::new(0));
    let noted = Arc::clone(&told);
    let pool = builder()
        .adapter("asks_host")
        .host_call_function("hands_on", move |call: HostCall| {
            let noted = Arc::clone(&noted);
            tokio::spawn({
                let cancelled = call.cancelled();
                async move {
                    cancelled.await;
                    noted.add_permits(1);
                }
            });
            std::future::pending::<Result<(), String>>()
        })
        .start()
        .await
        .unwrap();
    let told_in_python = failure(&pool, "asks_host:failure_within", (0.3, "hands_on")).await;
    assert_eq!(told_in_python.kind, "deadline");
    timeout(PATIENCE, told.acquire()).await.unwrap().unwrap().forget();
    pool.shutdown().await;
}
