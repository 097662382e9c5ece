//! A pool for the time of one command: its start, Ctrl-C, its end.

use snakepit::{Pool, PoolBuilder};
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
};

use super::failure::Failure;

/// A runtime for a command that makes one call at a time: no threads have to be started.
pub(crate) fn small_runtime() -> Result<Runtime, Failure> {
    build(tokio::runtime::Builder::new_current_thread())
}

/// A runtime as most services have it.
pub(crate) fn full_runtime() -> Result<Runtime, Failure> {
    build(tokio::runtime::Builder::new_multi_thread())
}

fn build(mut builder: tokio::runtime::Builder) -> Result<Runtime, Failure> {
    builder
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start the runtime: {error}")))
}

/// A pool of this command, recorded as one: `snakepit cleanup` has to find it, whatever the program's file is called.
pub(crate) fn builder(name: &str) -> PoolBuilder {
    let builder = Pool::builder().name(name);
    #[cfg(feature = "registry")]
    let builder = builder.registry(snakepit::registry::Settings::new().with_app(super::cleanup::OWN_APP));
    builder
}

/// Runs `work` with a pool and ends the pool, whatever comes.
///
/// The first Ctrl-C drops `work`, which cancels its calls, and ends the pool gracefully; the second ends it now. A
/// SIGTERM counts as a Ctrl-C.
pub(crate) async fn with_pool<T>(
    builder: PoolBuilder,
    work: impl AsyncFnOnce(&Pool) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut interrupts = Interrupts::listen()?;
    let pool = tokio::select! {
        started = builder.start() => started?,
        () = interrupts.next() => return Err(Failure::Interrupted),
    };
    let done = tokio::select! {
        done = work(&pool) => done,
        () = interrupts.next() => {
            eprintln!("interrupted: ending gracefully; press Ctrl-C again to end now");
            Err(Failure::Interrupted)
        }
    };
    end(&mut interrupts, &pool).await;
    done
}

async fn end(interrupts: &mut Interrupts, pool: &Pool) {
    tokio::select! {
        () = pool.shutdown() => {}
        () = interrupts.next() => {
            eprintln!("interrupted again: ending now");
            pool.kill().await;
        }
    }
}

/// Requests from outside to come to an end.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    fn listen() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::Failed(format!("cannot listen for signals: {error}")))
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
