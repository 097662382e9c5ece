//! Who reads an input, and what it may hold.

use std::collections::HashMap;

use snakepit::{Concurrency, Value};

use crate::{
    common::builder,
    support::{MODES, numbers, pool, with_input},
};

type Collected = (Vec<u64>, Vec<String>, HashMap<String, i64>);

#[tokio::test(flavor = "multi_thread")]
async fn a_function_gets_it_as_its_first_argument_however_its_worker_runs_it() {
    for mode in MODES {
        let pool = pool(mode).await;
        // Twice, since a function is known the second time and may run elsewhere.
        for form in ["collect", "collect_async", "collect", "collect_async"] {
            let (stream, watch) = numbers(100);
            let request = pool.request(format!("reads_input:{form}"));
            let request = request.args(&("other",)).unwrap();
            let request = request.kwargs(&HashMap::from([("named", 7)])).unwrap();
            let (items, others, named): Collected = request.input(stream).send().await.unwrap();
            assert_eq!(items, (0..100).collect::<Vec<_>>(), "{mode:?} {form}");
            assert_eq!((&others[..], named["named"]), (&["other".to_owned()][..], 7));
            watch.until_dropped().await;
        }
        pool.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_directions_run_at_once_however_the_worker_runs_them() {
    for mode in MODES {
        let pool = pool(mode).await;
        for form in ["doubled", "doubled_async", "doubled", "doubled_async"] {
            let (stream, watch) = numbers(100);
            let mut items = with_input(&pool, form, stream).stream::<u64>().await.unwrap();
            for number in 0..100 {
                assert_eq!(
                    items.next().await.unwrap().unwrap(),
                    2 * number,
                    "{mode:?} {form}"
                );
            }
            assert!(items.next().await.is_none());
            watch.until_dropped().await;
        }
        pool.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_function_that_takes_an_iterable_will_do() {
    let pool = builder().start().await.unwrap();
    let sum: u64 = pool
        .request("builtins:sum")
        .input(numbers(1000).0)
        .send()
        .await
        .unwrap();
    assert_eq!(sum, 499_500);
    let none: u64 = pool
        .request("builtins:sum")
        .input(numbers(0).0)
        .send()
        .await
        .unwrap();
    assert_eq!(none, 0);
    let request = pool.request("itertools:islice").args(&(2, 5)).unwrap();
    let mut slice = request.input(numbers(1000).0).stream::<u64>().await.unwrap();
    for number in 2..5 {
        assert_eq!(slice.next().await.unwrap().unwrap(), number);
    }
    assert!(slice.next().await.is_none());
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn items_are_any_value() {
    let pool = pool(Concurrency::One).await;
    let values = vec![
        Value::Nil,
        Value::Str("ü".into()),
        Value::Set(vec![Value::Int(1)]),
        Value::Map(vec![(Value::Int(1), Value::Array(vec![Value::Float(0.5)]))]),
    ];
    let stream = tokio_stream::iter(values.clone());
    let mut back = with_input(&pool, "same", stream).stream::<Value>().await.unwrap();
    for value in values {
        assert_eq!(back.next().await.unwrap().unwrap(), value);
    }
    assert!(back.next().await.is_none());
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thread_of_the_functions_own_may_read_it() {
    for mode in MODES {
        let pool = pool(mode).await;
        let items: Vec<u64> = with_input(&pool, "from_thread", numbers(100).0)
            .send()
            .await
            .unwrap();
        assert_eq!(items.len(), 100);
        pool.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_side_by_side_have_inputs_of_their_own() {
    for mode in [Concurrency::Threads(4), Concurrency::Asyncio(4)] {
        let pool = pool(mode).await;
        let calls = (0..16_u64).map(|call| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let form = if call % 2 == 0 { "collect" } else { "collect_async" };
                let stream = tokio_stream::iter((0..50).map(move |i| 1000 * call + i));
                let (items, ..): Collected = with_input(&pool, form, stream).send().await.unwrap();
                assert_eq!(items, (0..50).map(|i| 1000 * call + i).collect::<Vec<_>>());
            })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap();
        }
        pool.shutdown().await;
    }
}

#[cfg(feature = "backend-exec")]
#[tokio::test(flavor = "multi_thread")]
async fn it_is_the_same_on_the_exec_backend() {
    let builder = builder().backend(snakepit::Backend::Exec).adapter("reads_input");
    let pool = builder.start().await.unwrap();
    let mut items = with_input(&pool, "doubled", numbers(1000).0)
        .stream::<u64>()
        .await
        .unwrap();
    for number in 0..1000 {
        assert_eq!(items.next().await.unwrap().unwrap(), 2 * number);
    }
    assert!(items.next().await.is_none());
    pool.shutdown().await;
}
