//! What goes in comes out, and what cannot is named.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::collections::{BTreeMap, HashMap};

use common::builder;
use serde::{Deserialize, Serialize};
use snakepit::{CallError, NdArray, Pool, RemoteError, RemoteErrorKind, Value};

async fn pool() -> Pool {
    builder().start().await.unwrap()
}

async fn remote(pool: &Pool, function: &str, args: impl Serialize) -> RemoteError {
    let error = pool.call::<_, Value>(function, args).await.unwrap_err();
    error.remote().unwrap_or_else(|| panic!("{error}")).clone()
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Point {
    x: f64,
    label: Option<String>,
}

#[tokio::test(flavor = "multi_thread")]
async fn typed_values_cross_both_ways() {
    let pool = pool().await;
    let hypotenuse: f64 = pool.call("math:hypot", (3, 4)).await.unwrap();
    assert_eq!(hypotenuse, 5.0);
    let point = Point {
        x: -0.5,
        label: Some("ü".into()),
    };
    assert_eq!(
        pool.call::<_, Point>("values:same", (&point,)).await.unwrap(),
        point
    );
    let bytes = vec![0_u8, 255, 1];
    assert_eq!(
        pool.call::<_, Vec<u8>>("values:same", (&bytes,)).await.unwrap(),
        bytes
    );
    let map = BTreeMap::from([("a".to_owned(), vec![1_i64, i64::MIN]), (String::new(), vec![])]);
    assert_eq!(
        pool.call::<_, BTreeMap<String, Vec<i64>>>("values:same", (&map,))
            .await
            .unwrap(),
        map
    );
    assert_eq!(
        pool.call::<_, u64>("values:same", (u64::MAX,)).await.unwrap(),
        u64::MAX
    );
    assert!(
        pool.call::<_, f64>("values:same", (f64::NAN,))
            .await
            .unwrap()
            .is_nan()
    );
    pool.call::<_, ()>("values:same", ((),)).await.unwrap();
    let request = pool.request("values:echo").args(&(1,)).unwrap();
    let answer: (Vec<i64>, HashMap<String, bool>) = request
        .kwargs(&HashMap::from([("flag", true)]))
        .unwrap()
        .send()
        .await
        .unwrap();
    assert_eq!(answer, (vec![1], HashMap::from([("flag".to_owned(), true)])));
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_only_values_arrive_as_what_they_are() {
    let pool = pool().await;
    let moments: Value = pool.call("values:moments", ()).await.unwrap();
    assert_eq!(
        moments.get("at"),
        Some(&Value::DateTime("2026-01-31T12:00:00+00:00".into()))
    );
    assert_eq!(moments.get("price"), Some(&Value::Decimal("1.10".into())));
    assert_eq!(
        moments.get("tags"),
        Some(&Value::Set(vec![Value::Str("a".into())]))
    );
    assert_eq!(
        pool.call::<_, Value>("values:same", (&moments,)).await.unwrap(),
        moments
    );
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_array_crosses_where_numpy_is_and_says_so_where_it_is_not() {
    let pool = pool().await;
    let array = NdArray::from_slice(&[2, 2], &[1.0, 2.0, 3.0, 4.0]).unwrap();
    match pool.call::<_, f64>("numpy:linalg.det", (&array,)).await {
        Ok(determinant) => {
            assert!((determinant + 2.0).abs() < 1e-9);
            let doubled: NdArray = pool.call("numpy:add", (&array, &array)).await.unwrap();
            assert_eq!(doubled.to_vec::<f64>().unwrap(), [2.0, 4.0, 6.0, 8.0]);
        }
        Err(error) => {
            let text = error.remote().unwrap().message.to_lowercase();
            assert!(text.contains("numpy"), "{text}");
        }
    }
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_nested_and_large_values_cross() {
    let pool = pool().await;
    assert_eq!(
        pool.call::<_, Value>("values:same", (Vec::<i64>::new(),))
            .await
            .unwrap(),
        Value::Array(vec![])
    );
    pool.call::<_, Value>("values:nested", (100,)).await.unwrap();
    let size = 64 << 20;
    let large: Value = pool.call("values:zeros", (size,)).await.unwrap();
    assert!(matches!(large, Value::Bytes(bytes) if bytes.len() == size));
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_represented_is_named_with_its_path() {
    let pool = pool().await;
    let error = remote(&pool, "values:unserialisable", ()).await;
    assert_eq!(error.kind, RemoteErrorKind::BadResult);
    assert_eq!(error.path, r#"result["bad"][1]"#);
    assert!(error.message.contains("object"), "{error}");
    let error = remote(&pool, "values:big_int", ()).await;
    assert!(
        error.kind == RemoteErrorKind::BadResult && error.message.contains("65"),
        "{error}"
    );
    let error = remote(&pool, "values:nested", (100_000,)).await;
    assert_eq!(error.kind, RemoteErrorKind::BadResult);
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_names_are_that_calls_error_at_once_and_near_ones_are_offered() {
    let pool = pool().await;
    let error = remote(&pool, "values:ecko", ()).await;
    assert_eq!(error.kind, RemoteErrorKind::UnknownFunction);
    assert!(
        error.suggestions.contains(&"values:echo".to_owned())
            || error.suggestions.contains(&"echo".to_owned()),
        "{error:?}"
    );
    let error = remote(&pool, "no_such_module:f", ()).await;
    assert_eq!(error.kind, RemoteErrorKind::UnknownModule);
    let error = remote(&pool, "fails_to_import:f", ()).await;
    assert_eq!(error.kind, RemoteErrorKind::UnknownModule);
    assert!(
        error.traceback().contains("the model file is missing"),
        "{}",
        error.traceback()
    );
    let error = remote(&pool, "bare", ()).await;
    assert_eq!(error.kind, RemoteErrorKind::UnknownFunction);
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_number_of_arguments_shows_the_signature() {
    let pool = pool().await;
    let error = remote(&pool, "values:two", (1,)).await;
    assert_eq!(error.kind, RemoteErrorKind::BadArguments);
    assert!(error.message.contains("(a, b)"), "{error}");
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exception_comes_with_its_cause_and_traceback_and_the_worker_stays() {
    let pool = pool().await;
    let before: u32 = pool.call("exits:pid", ()).await.unwrap();
    let error = pool.call::<_, Value>("values:fail", ()).await.unwrap_err();
    let CallError::Failed(failed) = &error else {
        panic!("{error}")
    };
    assert_eq!(failed.pid, Some(before));
    let remote = &failed.error;
    assert_eq!(remote.kind, RemoteErrorKind::Raised);
    let types: Vec<_> = remote
        .exceptions
        .iter()
        .map(|e| (e.type_name.as_str(), e.is_cause))
        .collect();
    assert_eq!(types, [("ValueError", false), ("KeyError", true)]);
    let traceback = remote.traceback();
    let cause = traceback.find("KeyError: 'missing'").unwrap();
    let link = traceback.find("direct cause of the following exception").unwrap();
    let last = traceback.find("ValueError: no such thing").unwrap();
    assert!(cause < link && link < last, "{traceback}");
    assert!(traceback.contains("values.py"), "{traceback}");
    assert_eq!(pool.call::<_, u32>("exits:pid", ()).await.unwrap(), before);
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_yield_in_order_and_errors_come_after_the_items() {
    let pool = pool().await;
    let mut stream = pool
        .request("values:numbers")
        .args(&(100,))
        .unwrap()
        .stream::<u32>()
        .await
        .unwrap();
    for expected in 0..100 {
        assert_eq!(stream.next().await.unwrap().unwrap(), expected);
    }
    assert!(stream.next().await.is_none());
    let request = pool.request("values:numbers_then_fail").args(&(3,)).unwrap();
    let mut stream = request.stream::<u32>().await.unwrap();
    for expected in 0..3 {
        assert_eq!(stream.next().await.unwrap().unwrap(), expected);
    }
    let error = stream.next().await.unwrap().unwrap_err();
    assert_eq!(
        error.remote().unwrap().exception().unwrap().message,
        "the well is dry"
    );
    assert!(stream.next().await.is_none());
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_is_never_further_ahead_than_its_credit_and_stops_when_dropped() {
    let pool = pool().await;
    let mut stream = pool
        .request("values:produce")
        .credit(4)
        .stream::<u32>()
        .await
        .unwrap();
    for _ in 0..3 {
        stream.next().await.unwrap().unwrap();
    }
    drop(stream);
    let produced: u32 = pool.call("values:produced_so_far", ()).await.unwrap();
    // Three were taken, four more may be under way, and the one after the last credit may have been computed.
    assert!((3..=8).contains(&produced), "{produced}");
    pool.shutdown().await;
}
