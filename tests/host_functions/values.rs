//! What goes in comes out, and who asks is known.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use snakepit::{NdArray, Value};

use crate::support::{Failure, failure, pool};

#[tokio::test(flavor = "multi_thread")]
async fn values_of_every_kind_cross_both_ways() {
    let (pool, _) = pool().await;
    let values = [
        Value::Nil,
        Value::Bool(true),
        Value::Int(i64::MIN),
        Value::UInt(u64::MAX),
        Value::Float(-0.5),
        Value::Str("grün".into()),
        Value::Bytes(Bytes::from_static(b"\x00\xff")),
        Value::Array(vec![Value::Array(vec![Value::Nil]), Value::Map(vec![])]),
        Value::Map(vec![(Value::Str("a".into()), Value::Array(vec![Value::Int(1)]))]),
        Value::Set(vec![Value::Int(1)]),
        Value::Decimal("1.10".into()),
        Value::Uuid([7; 16]),
    ];
    for form in [
        "asks_host:ask",
        "asks_host:ask_async",
        "asks_host:ask_from_thread",
    ] {
        for value in &values {
            let echoed: Value = pool.call(form, ("echo", value)).await.unwrap();
            assert_eq!(&echoed, value, "{form}");
        }
    }
    assert_eq!(
        pool.call::<_, i64>("asks_host:ask", ("add", 2, 40))
            .await
            .unwrap(),
        42
    );
    assert_eq!(
        pool.call::<_, String>("asks_host:type_of", ("nothing",))
            .await
            .unwrap(),
        "NoneType"
    );
    let array = NdArray::from_slice(&[2, 2], &[1.0, 2.0, 3.0, 4.0]).unwrap();
    match pool.call::<_, NdArray>("asks_host:ask", ("echo", &array)).await {
        Ok(echoed) => assert_eq!(echoed, array),
        Err(error) => {
            let text = error.remote().unwrap().message.to_lowercase();
            assert!(text.contains("numpy"), "{text}");
        }
    }
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keyword_arguments_reach_a_function_that_takes_the_call() {
    let (pool, _) = pool().await;
    let page = |kwargs: HashMap<&'static str, Value>| {
        let request = pool.request("asks_host:ask").args(&("page", "users")).unwrap();
        request
            .kwargs(&kwargs)
            .unwrap()
            .send::<(String, u64, Option<u64>)>()
    };
    let answer = page(HashMap::from([
        ("from", Value::Int(20)),
        ("limit", Value::Int(10)),
    ]))
    .await;
    assert_eq!(answer.unwrap(), ("users".to_owned(), 20, Some(10)));
    assert_eq!(page(HashMap::new()).await.unwrap(), ("users".to_owned(), 0, None));
    let request = pool
        .request("asks_host:failure")
        .args(&("page", "users"))
        .unwrap();
    let failure: Failure = request
        .kwargs(&HashMap::from([("limit", "many")]))
        .unwrap()
        .send()
        .await
        .unwrap();
    assert_eq!(failure.kind, "bad_arguments");
    assert!(failure.message.contains("keyword arguments"), "{failure:?}");
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_learns_who_calls_and_until_when() {
    let (pool, _) = pool().await;
    let request = pool.request("asks_host:ask").args(&("who",)).unwrap();
    let (name, worker, call_id, left): (String, u64, Option<u64>, Option<f64>) =
        request.deadline(Duration::from_secs(1000)).send().await.unwrap();
    assert_eq!(name, "who");
    assert_eq!(
        Some(worker),
        pool.status().await.workers[0]
            .child
            .status
            .worker
            .map(|worker| worker.0)
    );
    assert!(call_id.is_some());
    assert!(
        left.is_some_and(|left| (900.0..=1000.0).contains(&left)),
        "{left:?}"
    );
    let (.., call_id, left): (String, u64, Option<u64>, Option<f64>) =
        pool.call("asks_host:ask_from_thread", ("who",)).await.unwrap();
    assert_eq!((call_id, left), (None, None));
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_values_cross_and_too_large_ones_are_refused() {
    let (pool, _) = pool().await;
    for form in ["asks_host:ask", "asks_host:ask_async"] {
        let value = Value::Bytes(Bytes::from(vec![7; 1 << 20]));
        assert_eq!(
            pool.call::<_, Value>(form, ("echo", &value)).await.unwrap(),
            value
        );
    }
    let size = 60 << 20;
    assert_eq!(
        pool.call::<_, usize>("asks_host:large", ("echo", size))
            .await
            .unwrap(),
        size
    );
    let size = 65 << 20;
    let error = pool
        .call::<_, Value>("asks_host:large", ("echo", size))
        .await
        .unwrap_err();
    assert!(
        error.remote().unwrap().message.contains("can carry 67108864"),
        "{error}"
    );
    let told = failure(&pool, "asks_host:failure", ("zeros", size)).await;
    assert_eq!(told.kind, "bad_result");
    assert!(told.message.contains("can carry 67108864"), "{told:?}");
    assert_eq!(
        pool.call::<_, i64>("asks_host:ask", ("add", 1, 1)).await.unwrap(),
        2
    );
    pool.shutdown().await;
}
