//! Workers without processes: test your service without Python.
//!
//! [`FakeWorkerFactory`] stands where a real factory stands and hands out [`FakeWorker`]s, whose calls do what
//! a [`FakeBehaviour`] says and which crash on command. Starts follow a script of [`FakeStart`]s. Everything
//! that happens is written to a [`Journal`], which also counts the live workers of each slot.
//!
//! Our own tests, doctests and benchmarks use the same fakes. They keep time with tokio's clock, so a test
//! with a paused clock takes no time.
//!
//! ```
//! use std::sync::Arc;
//! use snakepit_core::{SlotId, testing::{FakeStart, FakeWorkerFactory}, worker::{StartTurn, WorkerFactory}};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let factory = FakeWorkerFactory::new().with_script([FakeStart::fails("no such module")]);
//! assert!(factory.start(SlotId(0), StartTurn::now()).await.is_err());
//! let worker = factory.start(SlotId(0), StartTurn::now()).await.expect("the script is used up");
//! factory.worker(SlotId(0)).expect("it is live").crash();
//! println!("{}", worker.down().await);
//! # }
//! ```

mod client;
mod factory;
mod journal;
mod observer;
mod resource;
mod worker;

pub use client::{CallChooser, CallHandler, FakeBehaviour, FakeClient, ItemProducer};
pub use factory::{FakeStart, FakeWorkerFactory};
pub use journal::{Journal, Record};
pub use observer::RecordingObserver;
pub use resource::{FakeResource, FakeResourceFactory};
pub use worker::FakeWorker;

/// Locks a fake's state; a test that panicked while holding it has failed already.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Waits until the value is there; never resolves when its sender goes without one.
async fn filled<T: Clone>(mut value: tokio::sync::watch::Receiver<Option<T>>) -> T {
    let found = value
        .wait_for(Option::is_some)
        .await
        .ok()
        .and_then(|found| found.clone());
    match found {
        Some(found) => found,
        None => std::future::pending().await,
    }
}
