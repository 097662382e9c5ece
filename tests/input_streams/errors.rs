//! What goes wrong with an input is told on both sides, and reaches no further.

use std::{collections::BTreeMap, convert::Infallible, io};

use bytes::Bytes;
use serde::{Deserialize, Serialize, Serializer};
use snakepit::{CallError, CallErrorKind, Concurrency, InputRefused, RemoteErrorKind, Value};
use tokio_stream::StreamExt as _;

use crate::{
    common::worker_pid,
    support::{MODES, numbers, pool, stalling, with_input},
};

#[derive(Deserialize, Debug, PartialEq)]
struct Failure {
    kind: String,
    index: u64,
    message: String,
    causes: Vec<String>,
}

/// What came before the error, the error, and what came after it.
type Told = (Vec<u64>, Failure, Vec<Value>);

#[derive(Debug, thiserror::Error)]
#[error("page {page} cannot be loaded")]
struct PageError {
    page: u64,
    #[source]
    source: io::Error,
}

fn pages() -> impl tokio_stream::Stream<Item = Result<u64, PageError>> + Send + 'static {
    tokio_stream::iter(0..10).map(|page| {
        if page < 3 {
            return Ok(page);
        }
        let source = io::Error::other("connection refused");
        Err(PageError { page, source })
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_stream_is_raised_after_the_items_before_it() {
    for mode in MODES {
        let pool = pool(mode).await;
        for form in ["failure", "failure_async"] {
            let request = pool.request(format!("reads_input:{form}"));
            let (before, failure, after): Told = request.try_input(pages()).send().await.unwrap();
            assert_eq!(before, [0, 1, 2]);
            let expected = Failure {
                kind: "failed".into(),
                index: 3,
                message: "page 3 cannot be loaded".into(),
                causes: vec!["connection refused".into()],
            };
            assert_eq!(failure, expected, "{mode:?} {form}");
            assert!(after.is_empty());
        }
        pool.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_that_nobody_catches_comes_back_as_the_exception_it_is() {
    let pool = pool(Concurrency::One).await;
    let request = pool.request("reads_input:collect").try_input(pages());
    let error = request.send::<Value>().await.unwrap_err();
    let remote = error.remote().unwrap();
    assert_eq!(remote.kind, RemoteErrorKind::Raised);
    let chain: Vec<_> = remote
        .exceptions
        .iter()
        .map(|e| (&*e.type_name, &*e.message, e.is_cause))
        .collect();
    assert_eq!(
        chain,
        [
            ("snakepit.InputError", "page 3 cannot be loaded", false),
            ("snakepit.InputError", "connection refused", true),
        ]
    );
    // Items come before the error, as anywhere.
    let request = pool.request("reads_input:doubled").try_input(pages());
    let mut items = request.stream::<u64>().await.unwrap();
    for number in 0..3 {
        assert_eq!(items.next().await.unwrap().unwrap(), 2 * number);
    }
    assert!(items.next().await.unwrap().unwrap_err().remote().is_some());
    assert!(items.next().await.is_none());
    let fine = pool.request("reads_input:first").args(&(1,)).unwrap();
    let fine: Vec<u64> = fine
        .try_input(tokio_stream::iter([Ok::<_, Infallible>(1)]))
        .send()
        .await
        .unwrap();
    assert_eq!(fine, [1]);
    pool.shutdown().await;
}

/// Has no representation.
struct Opaque;

impl Serialize for Opaque {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("it is opaque"))
    }
}

/// A form that no Python value has.
struct Unknown;

impl Serialize for Unknown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_newtype_struct("_ExtStruct", &(99_i8, Value::Bytes(Bytes::from_static(b"?"))))
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum Item {
    Number(u64),
    Opaque(Opaque),
    Nested(BTreeMap<&'static str, Unknown>),
    Bytes(Value),
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_does_not_fit_is_told_with_its_number_and_the_place_in_it() {
    let pool = pool(Concurrency::One).await;
    let large = || Value::Bytes(Bytes::from(vec![0; (64 << 20) + 1]));
    for (item, begins, ends) in [
        (Item::Opaque(Opaque), "input[2]: cannot encode", "it is opaque"),
        (
            Item::Nested(BTreeMap::from([("a", Unknown)])),
            "input[2][\"a\"] ",
            "",
        ),
        (Item::Bytes(large()), "input[2]: takes", "can take 67108864"),
    ] {
        let stream = tokio_stream::iter([Item::Number(0), Item::Number(1), item, Item::Number(3)]);
        let request = with_input(&pool, "failure", stream);
        let (before, failure, after): Told = request.send().await.unwrap();
        assert_eq!(
            (before, failure.index, &*failure.kind),
            (vec![0, 1], 2, "bad_item")
        );
        assert!(
            failure.message.starts_with(begins) && failure.message.ends_with(ends),
            "{failure:?}"
        );
        assert!(after.is_empty(), "{after:?}");
    }
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_panics_fails_its_own_call() {
    let pool = pool(Concurrency::Threads(2)).await;
    let pid = worker_pid(&pool).await;
    let (other, watch) = stalling(2);
    let mut beside = with_input(&pool, "doubled", other).stream::<u64>().await.unwrap();
    assert_eq!(beside.next().await.unwrap().unwrap(), 0);
    let (stream, panicking) = numbers(10);
    let stream = stream.map(|number| {
        assert!(number < 4, "no luck with {number}");
        number
    });
    let (before, failure, _): Told = with_input(&pool, "failure", stream).send().await.unwrap();
    assert_eq!((before.len(), &*failure.kind), (4, "failed"));
    assert!(
        failure.message.contains("panicked: no luck with 4"),
        "{failure:?}"
    );
    panicking.until_dropped().await;
    assert_eq!(beside.next().await.unwrap().unwrap(), 2);
    assert!(!watch.is_dropped());
    drop(beside);
    watch.until_dropped().await;
    assert_eq!(pool.call::<_, u32>("reads_input:pid", ()).await.unwrap(), pid);
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_with_input_cannot_be_idempotent() {
    let pool = pool(Concurrency::One).await;
    let (stream, watch) = numbers(10);
    let request = pool.request("builtins:sum").idempotent().input(stream);
    let error = request.send::<u64>().await.unwrap_err();
    assert!(
        matches!(error, CallError::Input(InputRefused::Idempotent { .. })),
        "{error}"
    );
    assert_eq!(error.kind(), CallErrorKind::Input);
    assert!(!error.may_have_executed() && !error.is_retryable());
    assert!(error.to_string().contains("leave `idempotent` out"), "{error}");
    assert!(watch.is_dropped() && watch.read() == 0);
    let (stream, _) = numbers(10);
    let request = pool.request("builtins:iter").idempotent().input(stream);
    assert_eq!(
        request.stream::<u64>().await.unwrap_err().kind(),
        CallErrorKind::Input
    );
    pool.shutdown().await;
}
