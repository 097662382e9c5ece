//! What the tests of a pool on fake workers share.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test file uses its part, and a test that cannot go on has failed"
)]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use snakepit_core::{
    event::Events,
    pool::{CallError, Pool, PoolBuilder},
    testing::{FakeBehaviour, FakeWorkerFactory},
};
use snakepit_proto::v1::{CallResponse, call_response::Outcome};
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};

pub const FOREVER: Duration = Duration::from_secs(3600);

pub fn builder(factory: &FakeWorkerFactory) -> PoolBuilder {
    Pool::builder(Arc::new(factory.clone()), Events::new("test")).workers(1)
}

pub async fn pool_of(behaviour: FakeBehaviour) -> (FakeWorkerFactory, Pool) {
    let factory = FakeWorkerFactory::new().with_behaviour(behaviour);
    let pool = builder(&factory).start().await.unwrap();
    (factory, pool)
}

/// What a handler of a fake worker answers: nil.
pub fn nil(call_id: u64) -> CallResponse {
    CallResponse {
        call_id,
        outcome: Some(Outcome::Value(Bytes::from_static(&[0xc0]))),
    }
}

/// Answers nil, each call after it was let through the gate; records the functions in the order they ran.
pub fn gated() -> (FakeBehaviour, Arc<Semaphore>, Arc<Mutex<Vec<String>>>) {
    let gate = Arc::new(Semaphore::new(0));
    let ran = Arc::new(Mutex::new(Vec::new()));
    let (gated, log) = (Arc::clone(&gate), Arc::clone(&ran));
    let behaviour = FakeBehaviour::handler(move |request| {
        let (gate, log) = (Arc::clone(&gated), Arc::clone(&log));
        async move {
            log.lock().unwrap().push(request.function);
            gate.acquire().await.unwrap().forget();
            Ok(nil(request.call_id))
        }
    });
    (behaviour, gate, ran)
}

pub async fn until(mut done: impl AsyncFnMut() -> bool) {
    let waited = async {
        while !done().await {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(FOREVER, waited).await.expect("it never came to that");
}

pub async fn until_queued(pool: &Pool, callers: usize) {
    until(async || pool.status().await.queued == callers).await;
}

pub fn spawn_call(pool: &Pool, function: &str) -> tokio::task::JoinHandle<Result<(), CallError>> {
    let (pool, function) = (pool.clone(), function.to_owned());
    tokio::spawn(async move { pool.call(&function, ()).await })
}
