//! Lends workers to callers: queue, dispatch, deadlines.
//!
//! A [`Pool`] knows nothing of processes and does not manage restarts: its supervisor does, and tells it who
//! serves. A call takes an idle worker, or waits in a bounded FIFO queue for one; the answer goes back to that
//! call alone.
//!
//! ```
//! use std::sync::Arc;
//! use snakepit_core::{event::Events, pool::Pool, testing::FakeWorkerFactory};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let factory = Arc::new(FakeWorkerFactory::new());
//! let pool = Pool::builder(factory, Events::new("doc")).workers(2).start().await?;
//! // Fake workers answer their arguments.
//! let answer: (i64, String) = pool.call("any:function", (7, "seven")).await?;
//! assert_eq!(answer, (7, "seven".to_owned()));
//! pool.shutdown().await;
//! # Ok(())
//! # }
//! ```

mod attempt;
mod batch;
mod budget;
mod builder;
mod cause;
mod dispatch;
mod error;
mod health;
mod idle;
mod input;
mod latency;
mod lease;
mod limits;
mod poison;
mod queue;
mod recycle;
mod replace;
mod request;
mod restart;
mod scaling;
mod seat;
mod session;
mod settings;
mod settle;
mod status;
mod stream;
mod unary;
mod version;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

pub use batch::{BatchRefused, BatchRequest};
pub use budget::{Budget, CancelOutcome};
pub use builder::{PoolBuilder, PoolStartError, SettingsError};
pub use cause::ReplaceCause;
pub use error::{CallError, CallErrorKind, CallFailed, DeadlineExceeded, WorkerLost};
pub use health::HealthCheck;
pub use input::{InputRefused, InputRequest};
pub use latency::Latency;
pub use poison::Poisoned;
pub use queue::Overflow;
pub use request::Request;
pub use restart::{RestartError, Restarted};
pub use session::{LostBy, Session, SessionLost, SessionMode};
pub use settings::PoolSettings;
pub use status::{Phase, PoolStatus, Verdict, WorkerStatus};
pub use stream::Items;

use dispatch::Dispatch;
use restart::Restarter;
use seat::Seat;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{sync::broadcast, task::JoinHandle, time::timeout};
use tokio_util::task::TaskTracker;

use crate::{
    event::{Event, EventKind, Events},
    process::EndReport,
    supervision::{Shutdown, Supervisor, Tree},
    worker::WorkerFactory,
};

/// A supervised pool of workers. Clones share it.
///
/// End it with [`shutdown`](Self::shutdown). Dropping the last handle without doing so ends the workers in the
/// background, as a last defence, and warns.
#[derive(Clone, Debug)]
pub struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: Arc<PoolSettings>,
    dispatch: Arc<Dispatch>,
    supervisor: Arc<dyn Supervisor>,
    restarter: Arc<Restarter>,
    events: Events,
    /// Calls whose caller has left and whose end in the worker is awaited.
    settling: TaskTracker,
    /// The end has been told.
    stopped: AtomicBool,
    runtime: tokio::runtime::Handle,
}

impl Pool {
    /// Settings of a new pool whose workers come from `factory`; `events` names it.
    pub fn builder(factory: Arc<dyn WorkerFactory>, events: Events) -> PoolBuilder {
        PoolBuilder::new(factory, events)
    }

    /// Calls a function with positional arguments and decodes its result, with the pool's default deadline.
    ///
    /// `function` is `module:qualname` or the bare name of an adapter's function. `args` is a tuple or another
    /// sequence; `()` for none.
    ///
    /// # Errors
    /// See [`CallError`]. The call is executed at most once.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call: one that waits is never executed, one that runs is interrupted.
    pub async fn call<A: Serialize, R: DeserializeOwned>(
        &self,
        function: &str,
        args: A,
    ) -> Result<R, CallError> {
        self.request(function).args(&args)?.send().await
    }

    /// Prepares a call with keyword arguments or a deadline of its own, or a stream.
    pub fn request(&self, function: impl Into<Arc<str>>) -> Request<'_> {
        Request::new(self, function.into())
    }

    /// A session: calls that belong together, on a worker that may keep state for them. See [`Session`].
    pub fn session(&self, mode: SessionMode) -> Session {
        Session::new(self.clone(), mode)
    }

    /// The pool's name.
    pub fn name(&self) -> &str {
        self.shared.events.pool()
    }

    /// The settings that it was started with.
    pub fn settings(&self) -> &PoolSettings {
        &self.shared.settings
    }

    /// What the pool does right now.
    pub async fn status(&self) -> PoolStatus {
        let slots = self.shared.supervisor.which_children().await;
        self.shared.dispatch.status(slots)
    }

    /// The supervision tree, printable.
    pub async fn tree(&self) -> Tree {
        Tree::new(self.name(), self.shared.supervisor.which_children().await)
    }

    /// State changes from now on. A subscriber that falls behind loses the oldest.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.shared.events.subscribe()
    }

    /// Hands out no workers until [`resume`](Self::resume): calls that run go on, later ones wait, within the queue's bounds.
    pub fn pause(&self) {
        if self.shared.dispatch.pause() {
            self.shared.events.emit(EventKind::PoolPaused);
        }
    }

    /// Takes no new calls until [`resume`](Self::resume), and returns when all that were accepted are over.
    ///
    /// # Cancel safety
    /// A dropped future leaves the pool draining.
    pub async fn drain(&self) {
        if self.shared.dispatch.drain() {
            self.shared.events.emit(EventKind::PoolDraining);
        }
        self.shared.dispatch.quiet().await;
    }

    /// Goes on after [`pause`](Self::pause) or [`drain`](Self::drain). A pool that is being shut down stays so.
    pub fn resume(&self) {
        if self.shared.dispatch.resume() {
            self.shared.events.emit(EventKind::PoolResumed);
        }
    }

    /// Sets how many slots the pool has at least and at most; the same number twice fixes it. Missing ones are started, and of too many those
    /// without a worker and without a call go at once, the others when their calls are over.
    ///
    /// # Errors
    /// When `min` is more than `max`, or `max` is 0 or too many.
    pub fn resize(&self, min: usize, max: usize) -> Result<(), SettingsError> {
        let settings = PoolSettings {
            workers: max,
            min_workers: Some(min),
            ..(*self.shared.settings).clone()
        };
        settings.check()?;
        self.shared.dispatch.set_bounds(min, max);
        self.shared.events.emit(EventKind::PoolResized { min, max });
        Ok(())
    }

    /// Gives every slot a new worker, one slot after the other (see [`PoolSettings::replacements`]): the program is the same,
    /// and new code that lies where the old one did is loaded. The first new worker has to become ready before anything else
    /// is touched. The workers that are replaced finish their calls first; no caller notices.
    ///
    /// Returns when every slot has a new worker and the others are gone, or have been finishing their calls for 10 s. A slot
    /// that rests or waits to restart is tried again at once. Restarts that are asked for together run one after the other.
    ///
    /// # Errors
    /// [`RestartError::Failed`] when a new worker does not become ready: the slots that were not replaced yet serve on as
    /// they did.
    ///
    /// # Cancel safety
    /// The restart goes on when the future is dropped.
    pub async fn restart(&self) -> Result<Restarted, RestartError> {
        self.roll(None).await
    }

    /// [Restarts](Self::restart) the pool with workers of another kind: a changed configuration. Once the first of them is
    /// ready, all that are started from then on are of this kind; if it does not become ready, nothing has changed.
    ///
    /// # Errors
    /// As [`restart`](Self::restart).
    ///
    /// # Cancel safety
    /// As [`restart`](Self::restart).
    pub async fn restart_with(&self, workers: Arc<dyn WorkerFactory>) -> Result<Restarted, RestartError> {
        self.roll(Some(workers)).await
    }

    async fn roll(&self, workers: Option<Arc<dyn WorkerFactory>>) -> Result<Restarted, RestartError> {
        let restarter = Arc::clone(&self.shared.restarter);
        let restart = async move { restarter.restart(workers).await };
        match self.shared.runtime.spawn(restart).await {
            Ok(done) => done,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Its runtime has been shut down, and the pool with it.
            Err(_) => Err(RestartError::NotRunning {
                pool: self.name().to_owned(),
                phase: Phase::Stopped,
            }),
        }
    }

    /// Ends the pool: takes no new calls, lets accepted ones finish within the drain time, then ends the
    /// workers. Returns when nothing of them is left. Repeated and concurrent calls agree.
    ///
    /// A call that still runs then loses its worker: SIGTERM, which our runtime takes as a cancel, and SIGKILL after the
    /// grace.
    ///
    /// # Cancel safety
    /// A dropped future leaves the pool draining; call again to go on.
    pub async fn shutdown(&self) {
        self.shared.dispatch.end();
        self.shared.restarter.replacer().stop();
        if self.shared.dispatch.drain() {
            self.shared.events.emit(EventKind::PoolDraining);
        }
        let finished = async {
            self.shared.dispatch.quiet().await;
            self.shared.settling.close();
            self.shared.settling.wait().await;
        };
        let Shutdown { drain, grace } = self.shared.settings.shutdown;
        let mut ends = Vec::new();
        if timeout(drain, finished).await.is_err() {
            tracing::warn!(
                pool = self.name(),
                ?drain,
                "calls are still under way, ending their workers"
            );
            ends = self.end_seats(Seat::is_busy, grace);
        }
        self.stop().await;
        for end in ends {
            // An ending that is gone with its runtime has nothing to tell.
            let _ = end.await;
        }
    }

    /// Ends the pool at once: waiting calls are refused, running ones lose their worker.
    ///
    /// # Cancel safety
    /// The ending of the workers goes on when the future is dropped.
    pub async fn kill(&self) {
        self.shared.dispatch.end();
        self.shared.restarter.replacer().stop();
        // Before any worker is free: nobody who waits is lent one that is being ended.
        self.shared.dispatch.stop();
        let ends = self.end_seats(|_| true, Duration::ZERO);
        self.stop().await;
        for end in ends {
            // An ending that is gone with its runtime has nothing to tell.
            let _ = end.await;
        }
    }

    /// Ends workers without a drain, also when nobody waits for it. A starter that ends its worker meanwhile joins: the
    /// shorter times win.
    fn end_seats(&self, which: impl Fn(&Seat) -> bool, grace: Duration) -> Vec<JoinHandle<EndReport>> {
        let mut seats = self.shared.dispatch.seats();
        seats.retain(|seat| which(seat));
        let end = |seat: Arc<Seat>| {
            let end = async move { seat.worker.end(Duration::ZERO, grace).await };
            self.shared.runtime.spawn(end)
        };
        seats.into_iter().map(end).collect()
    }

    async fn stop(&self) {
        self.shared.dispatch.stop();
        self.shared.supervisor.shutdown().await;
        self.shared.restarter.close().await;
        if !self.shared.stopped.swap(true, Ordering::Relaxed) {
            self.shared.events.emit(EventKind::PoolStopped);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if !self.dispatch.is_stopped() {
            // Giving up a start by dropping it is in order.
            if !self.dispatch.is_starting() {
                tracing::warn!(
                    pool = self.events.pool(),
                    "the pool was dropped without a shutdown, ending its workers"
                );
            }
            self.restarter.replacer().stop();
            self.dispatch.stop();
            let supervisor = Arc::clone(&self.supervisor);
            let restarter = Arc::clone(&self.restarter);
            self.runtime.spawn(async move {
                supervisor.shutdown().await;
                restarter.close().await;
            });
        }
    }
}
