//! What these tests share: a pool with functions of every kind.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize, Serializer};
use snakepit::{HostCall, Pool, PoolBuilder, Value};

use crate::common::{builder, until};

/// A deadline that a test lets pass.
pub(crate) const SHORT: Duration = Duration::from_secs(1);

/// What Python tells of a host call that failed.
#[derive(Deserialize, Debug)]
pub(crate) struct Failure {
    pub(crate) kind: String,
    pub(crate) function: String,
    pub(crate) message: String,
    pub(crate) causes: Vec<String>,
    pub(crate) attribute_error: bool,
}

/// Counts what begins, and what is over: finished or dropped.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts(Arc<(AtomicUsize, AtomicUsize)>);

impl Counts {
    pub(crate) fn begin(&self) -> Counted {
        self.0.0.fetch_add(1, Ordering::SeqCst);
        Counted(self.clone())
    }

    pub(crate) fn begun(&self) -> usize {
        self.0.0.load(Ordering::SeqCst)
    }

    pub(crate) fn over(&self) -> usize {
        self.0.1.load(Ordering::SeqCst)
    }

    pub(crate) async fn until_begun(&self, count: usize) {
        until("the host function runs", async || self.begun() == count).await;
    }

    pub(crate) async fn until_over(&self, count: usize) {
        until("the host function is over", async || self.over() == count).await;
    }
}

pub(crate) struct Counted(Counts);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.1.fetch_add(1, Ordering::SeqCst);
    }
}

#[derive(Debug, thiserror::Error)]
#[error("cannot load user {id}")]
struct LoadError {
    id: u64,
    #[source]
    source: io::Error,
}

/// Has no representation.
struct Opaque;

impl Serialize for Opaque {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("it is opaque"))
    }
}

/// Functions that most tests use; `hang` never ends by itself.
pub(crate) fn with_functions(builder: PoolBuilder, hangs: &Counts) -> PoolBuilder {
    let hangs = hangs.clone();
    builder
        .adapter("asks_host")
        .host_function("echo", |(value,): (Value,)| async move { Ok::<_, String>(value) })
        .host_function("nothing", |(): ()| async { Ok::<_, String>(()) })
        .host_function("add", |(a, b): (i64, i64)| async move {
            a.checked_add(b).ok_or("the sum is out of range")
        })
        .host_function("load_user", |(id,): (u64,)| async move {
            let source = io::Error::other("connection refused");
            Err::<(), _>(LoadError { id, source })
        })
        .host_function("panics", |(now,): (bool,)| {
            assert!(!now, "at once");
            async move {
                tokio::task::yield_now().await;
                panic!("later") as Result<(), String>
            }
        })
        .host_function("opaque", |(): ()| async { Ok::<_, String>(Opaque) })
        .host_function("zeros", |(size,): (usize,)| async move {
            Ok::<_, String>(Value::Bytes(Bytes::from(vec![0; size])))
        })
        .host_function("hang", move |(): ()| {
            let counted = hangs.begin();
            async move {
                let _counted = counted;
                std::future::pending::<Result<(), String>>().await
            }
        })
        .host_call_function("page", |call: HostCall| async move {
            #[derive(Deserialize)]
            struct Page {
                #[serde(default)]
                from: u64,
                limit: Option<u64>,
            }
            let (name,): (String,) = call.args()?;
            let Page { from, limit } = call.kwargs()?;
            Ok::<_, snakepit::ArgumentsError>((name, from, limit))
        })
        .host_call_function("who", |call: HostCall| async move {
            let left = call.deadline().map(|deadline| {
                deadline
                    .saturating_duration_since(tokio::time::Instant::now())
                    .as_secs_f64()
            });
            Ok::<_, String>((call.function().to_owned(), call.worker().0, call.call_id(), left))
        })
}

pub(crate) async fn pool() -> (Pool, Counts) {
    let hangs = Counts::default();
    (with_functions(builder(), &hangs).start().await.unwrap(), hangs)
}

pub(crate) async fn failure(pool: &Pool, function: &str, args: impl Serialize) -> Failure {
    pool.call(function, args).await.unwrap()
}
