//! A stream that nobody reads any more is dropped, and a function that waits for an item is woken.

use std::{fs, time::Duration};

use libc::SIGKILL;
use snakepit::{CallError, Concurrency, Shutdown, Value, core::process::Pidfd};
use tokio::time::sleep;

use crate::{
    common::{PATIENCE, builder, until, worker_pid},
    support::{MODES, SHORT, pool, stalling, with_input},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_returns_or_raises_drops_it() {
    for mode in MODES {
        let pool = pool(mode).await;
        for form in ["first", "first_async"] {
            let (stream, watch) = stalling(1000);
            let request = pool.request(format!("reads_input:{form}")).args(&(3,)).unwrap();
            let taken: Vec<u64> = request.input(stream).send().await.unwrap();
            assert_eq!(taken, [0, 1, 2]);
            watch.until_dropped().await;
        }
        let (stream, watch) = stalling(1000);
        let request = pool.request("reads_input:raises_after").args(&(3,)).unwrap();
        let error = request.input(stream).send::<Value>().await.unwrap_err();
        assert_eq!(error.remote().unwrap().exceptions[0].message, "enough");
        watch.until_dropped().await;
        pool.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_closes_it_drops_it_and_goes_on() {
    for mode in MODES {
        let pool = pool(mode).await;
        let (stream, watch) = stalling(1000);
        let request = pool.request("reads_input:closes").credit(1).input(stream);
        let mut items = request.stream::<Value>().await.unwrap();
        assert_eq!(items.next().await.unwrap().unwrap(), Value::Int(0));
        assert_eq!(items.next().await.unwrap().unwrap(), Value::Str("closed".into()));
        // The call goes on.
        watch.until_dropped().await;
        assert_eq!(items.next().await.unwrap().unwrap(), Value::Array(vec![]));
        assert!(items.next().await.is_none());
        pool.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_iterator_that_outlives_its_call_has_no_more_items() {
    let pool = pool(Concurrency::One).await;
    let (stream, watch) = stalling(1000);
    assert_eq!(with_input(&pool, "keeps", stream).send::<u64>().await.unwrap(), 0);
    watch.until_dropped().await;
    let told: Value = pool.call("reads_input:kept", ()).await.unwrap();
    assert!(format!("{told:?}").contains("the call is over"), "{told:?}");
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_holds_while_the_function_waits_for_an_item() {
    for mode in MODES {
        let builder = builder().adapter("reads_input").concurrency(mode);
        let pool = builder.cancel_grace(PATIENCE).start().await.unwrap();
        let pid = worker_pid(&pool).await;
        for form in ["collect", "collect_async"] {
            // Long enough, at the latest in the end, that it has begun to wait on a machine that is busy.
            let mut deadline = SHORT;
            loop {
                let (stream, watch) = stalling(5);
                let request = pool.request(format!("reads_input:{form}")).deadline(deadline);
                let error = request.input(stream).send::<Value>().await.unwrap_err();
                assert!(matches!(&error, CallError::DeadlineExceeded(_)), "{error}");
                watch.until_dropped().await;
                if watch.read() == 5 {
                    break;
                }
                assert!(deadline < PATIENCE, "{mode:?} {form}: it never read");
                deadline *= 4;
            }
            assert_eq!(pool.call::<_, u32>("reads_input:pid", ()).await.unwrap(), pid);
        }
        pool.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_drops_it_and_python_is_told() {
    let directory = tempfile::tempdir().unwrap();
    for (number, mode) in MODES.into_iter().enumerate() {
        let builder = builder().adapter("reads_input").concurrency(mode);
        let pool = builder.cancel_grace(PATIENCE).start().await.unwrap();
        let pid = worker_pid(&pool).await;
        let forms: [(_, &[&str]); 2] = [
            ("witness", &["Cancelled"]),
            // A task that has not come to its await yet is interrupted like any other code; where there is a loop for each thread, the
            // end of the input may come before the cancel.
            ("witness_async", &["CancelledError", "Cancelled", "InputError"]),
        ];
        for (form, raised) in forms {
            let path = directory.path().join(format!("{number}-{form}"));
            let (stream, watch) = stalling(5);
            let caller = tokio::spawn({
                let (pool, path) = (pool.clone(), path.to_str().unwrap().to_owned());
                async move {
                    let request = pool
                        .request(format!("reads_input:{form}"))
                        .args(&(path,))
                        .unwrap();
                    request.input(stream).send::<Value>().await
                }
            });
            watch.until_read(5).await;
            caller.abort();
            watch.until_dropped().await;
            until("Python is told", async || path.exists()).await;
            let found = fs::read_to_string(&path).unwrap();
            assert!(raised.contains(&&*found), "{mode:?} {form}: {found}");
            assert_eq!(pool.call::<_, u32>("reads_input:pid", ()).await.unwrap(), pid);
        }
        pool.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_leaves_drops_it() {
    for (mode, form) in [
        (Concurrency::One, "doubled"),
        (Concurrency::One, "doubled_async"),
        (Concurrency::Threads(2), "doubled"),
        (Concurrency::Asyncio(2), "doubled_async"),
    ] {
        let builder = builder().adapter("reads_input").concurrency(mode);
        let pool = builder.cancel_grace(PATIENCE).start().await.unwrap();
        let pid = worker_pid(&pool).await;
        // One while the function waits for an item, one while it waits for credit.
        for count in [3, 1000] {
            let (stream, watch) = stalling(count);
            let mut items = with_input(&pool, form, stream).stream::<u64>().await.unwrap();
            for number in 0..3 {
                assert_eq!(items.next().await.unwrap().unwrap(), 2 * number);
            }
            drop(items);
            watch.until_dropped().await;
            assert_eq!(pool.call::<_, u32>("reads_input:pid", ()).await.unwrap(), pid);
        }
        pool.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancels_that_cross_items_hit_no_later_call() {
    for mode in MODES {
        let pool = pool(mode).await;
        for round in 0..60 {
            let (stream, watch) = stalling(1000);
            let request = pool.request("reads_input:doubled");
            // About as long as it takes to begin.
            let request = request.deadline(Duration::from_micros(100 + 50 * round));
            if let Ok(mut items) = request.input(stream).stream::<u64>().await {
                while let Some(Ok(_)) = items.next().await {}
            }
            watch.until_dropped().await;
            let (stream, _) = crate::support::numbers(20);
            let sum: u64 = pool.request("builtins:sum").input(stream).send().await.unwrap();
            assert_eq!(sum, 190);
        }
        pool.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_drops_it_and_the_call_is_not_made_again() {
    let pool = pool(Concurrency::One).await;
    let (stream, watch) = stalling(1000);
    let request = pool.request("reads_input:exits_after").args(&(3,)).unwrap();
    let error = request.input(stream).send::<Value>().await.unwrap_err();
    assert!(
        matches!(&error, CallError::WorkerLost(lost) if lost.attempts == 1),
        "{error}"
    );
    watch.until_dropped().await;
    assert!(watch.read() <= 3 + 16);

    let (stream, watch) = stalling(3);
    let mut items = with_input(&pool, "doubled", stream)
        .stream::<u64>()
        .await
        .unwrap();
    for number in 0..3 {
        assert_eq!(items.next().await.unwrap().unwrap(), 2 * number);
    }
    Pidfd::open(worker_pid(&pool).await)
        .unwrap()
        .signal(SIGKILL)
        .unwrap();
    // Also while nobody looks at the items.
    watch.until_dropped().await;
    assert!(matches!(
        items.next().await.unwrap(),
        Err(CallError::WorkerLost(_))
    ));
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_end_their_workers_with_different_inputs_are_not_refused() {
    let pool = builder()
        .adapter("reads_input")
        .poison_limit(Some(1))
        .start()
        .await
        .unwrap();
    for _ in 0..3 {
        let (stream, _) = stalling(10);
        let request = pool.request("reads_input:exits_after").args(&(1,)).unwrap();
        let error = request.input(stream).send::<Value>().await.unwrap_err();
        assert!(matches!(error, CallError::WorkerLost(_)), "{error}");
    }
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_ends_drops_it() {
    for gracefully in [true, false] {
        let shutdown = Shutdown {
            drain: SHORT,
            grace: PATIENCE,
        };
        let builder = builder().adapter("reads_input").shutdown(shutdown);
        let pool = builder.start().await.unwrap();
        let (stream, watch) = stalling(3);
        let caller = tokio::spawn({
            let pool = pool.clone();
            async move { with_input(&pool, "collect", stream).send::<Value>().await }
        });
        watch.until_read(3).await;
        if gracefully {
            pool.shutdown().await;
        } else {
            pool.kill().await;
        }
        watch.until_dropped().await;
        caller.await.unwrap().unwrap_err();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_for_a_worker_is_not_read_from() {
    let pool = pool(Concurrency::One).await;
    let (stream, running) = stalling(3);
    let caller = tokio::spawn({
        let pool = pool.clone();
        async move { with_input(&pool, "collect", stream).send::<Value>().await }
    });
    running.until_read(3).await;
    let (stream, waiting) = stalling(3);
    let request = pool
        .request("reads_input:collect")
        .deadline(Duration::from_millis(200));
    let error = request.input(stream).send::<Value>().await.unwrap_err();
    assert!(!error.may_have_executed(), "{error}");
    assert!(waiting.is_dropped() && waiting.read() == 0);
    sleep(Duration::from_millis(10)).await;
    assert!(!running.is_dropped());
    caller.abort();
    running.until_dropped().await;
    pool.shutdown().await;
}
