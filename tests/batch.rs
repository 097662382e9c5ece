//! Many calls of one function in one message, on real workers.

mod common;

use std::time::Duration;

use common::{builder, until, worker_pid};
use snakepit::{CallError, CallErrorKind, Concurrency, RemoteErrorKind, Value};

#[tokio::test(flavor = "multi_thread")]
async fn every_call_has_its_own_outcome_in_order() {
    for concurrency in [Concurrency::One, Concurrency::Threads(2), Concurrency::Asyncio(2)] {
        let pool = builder().concurrency(concurrency).start().await.unwrap();
        let batch = pool
            .request("builtins:pow")
            .batch((0..1000).map(|n| (n, 2)))
            .unwrap();
        let squares = batch.send::<u64>().await.unwrap();
        let expected: Vec<u64> = (0..1000).map(|n| n * n).collect();
        let squares: Vec<u64> = squares.into_iter().map(Result::unwrap).collect();
        assert_eq!(squares, expected);

        let batch = pool
            .request("math:sqrt")
            .batch([(4.0,), (-1.0,), (9.0,)])
            .unwrap();
        let roots = batch.send::<f64>().await.unwrap();
        assert_eq!(
            (roots[0].as_ref().ok(), roots[2].as_ref().ok()),
            (Some(&2.0), Some(&3.0))
        );
        let error = roots[1].as_ref().unwrap_err();
        assert_eq!(error.kind, RemoteErrorKind::Raised);
        assert_eq!(error.exception().unwrap().type_name, "ValueError");

        let none = pool.request("math:sqrt").batch(Vec::<(f64,)>::new()).unwrap();
        assert!(none.send::<f64>().await.unwrap().is_empty());
        pool.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keyword_arguments_are_those_of_all_and_asynchronous_functions_are_awaited() {
    for concurrency in [Concurrency::One, Concurrency::Asyncio(4)] {
        let pool = builder().concurrency(concurrency).start().await.unwrap();
        let request = pool.request("builtins:int").kwargs(
            &[("base", 16)]
                .into_iter()
                .collect::<std::collections::BTreeMap<_, _>>(),
        );
        let numbers = request.unwrap().batch([("ff",), ("10",), ("x",)]).unwrap();
        let numbers = numbers.send::<i64>().await.unwrap();
        assert_eq!(
            (numbers[0].as_ref().unwrap(), numbers[1].as_ref().unwrap()),
            (&255, &16)
        );
        assert!(numbers[2].is_err());

        let batch = pool
            .request("asyncio:sleep")
            .batch([(0.001, "a"), (0.0, "b")])
            .unwrap();
        let slept: Vec<String> = batch
            .send()
            .await
            .unwrap()
            .into_iter()
            .map(Result::unwrap)
            .collect();
        assert_eq!(slept, ["a", "b"]);
        pool.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_or_is_not_there_is_told_as_of_single_calls() {
    let pool = builder().start().await.unwrap();
    let batch = pool
        .request("values:same")
        .batch(vec![vec![1], vec![1, 2, 3]])
        .unwrap();
    let outcomes = batch.send::<Value>().await.unwrap();
    assert!(outcomes[0].is_ok());
    assert_eq!(
        outcomes[1].as_ref().unwrap_err().kind,
        RemoteErrorKind::BadArguments
    );

    let batch = pool.request("no_such_module:f").batch([(1,)]).unwrap();
    let error = batch.send::<Value>().await.unwrap_err();
    assert_eq!(error.remote().unwrap().kind, RemoteErrorKind::UnknownModule);

    let error = pool.request("math:sqrt").batch([5]).unwrap_err();
    assert!(
        error.to_string().contains("write (x,) for a single one"),
        "{error}"
    );
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_and_a_death_are_those_of_the_whole_batch() {
    let pool = builder().start().await.unwrap();
    let pid = worker_pid(&pool).await;
    let batch = pool.request("time:sleep").deadline(Duration::from_millis(200));
    let error = batch
        .batch([(0.0,), (60.0,), (60.0,)])
        .unwrap()
        .send::<Value>()
        .await
        .unwrap_err();
    assert!(matches!(error, CallError::DeadlineExceeded(_)), "{error:?}");
    until("the worker is idle again", async || pool.status().await.busy == 0).await;
    assert_eq!(pool.call::<_, u32>("os:getpid", ()).await.unwrap(), pid);

    let error = pool
        .request("os:_exit")
        .batch([(3,), (4,)])
        .unwrap()
        .send::<Value>()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::WorkerLost);
    pool.shutdown().await;
}

/// A child that comes back from the function must not go on with the batch: each call would be answered twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_a_call_forks_makes_none_of_the_others() {
    for concurrency in [Concurrency::One, Concurrency::Asyncio(1)] {
        let pool = builder().concurrency(concurrency).start().await.unwrap();
        for function in ["forks:comes_back", "forks:comes_back_async"] {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("made").to_string_lossy().into_owned();
            let batch = pool.request(function).batch([(&file,), (&file,)]).unwrap();
            let outcomes = batch.send::<Value>().await.unwrap();
            assert_eq!(outcomes.len(), 2);
            until("both children have left", async || {
                std::fs::read_to_string(&file).is_ok_and(|made| made.lines().count() == 4)
            })
            .await;
            // One line of each call and one of its child: a child that went on would write more.
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 4);
        }
        pool.shutdown().await;
    }
}
