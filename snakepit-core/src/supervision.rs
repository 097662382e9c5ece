//! Restart policies and intensity, supervisor and starters, resources of a slot.
//!
//! The words keep their meaning from Erlang/OTP's
//! [`supervisor`](https://www.erlang.org/doc/apps/stdlib/supervisor.html); where the engines differ, they say so.
//!
//! ```text
//! DynamicSupervisor
//! └── SlotStarter (permanent)         one per slot, made by a SlotStarterFactory
//!     ├── Worker (transient)          made by a WorkerFactory, one after the other
//!     └── Resource*                   made by ResourceFactories, e.g. MetricsCollector
//! ```
//!
//! Starters restart their workers by themselves; whoever lends the workers learns of it as a [`SlotObserver`].
//!
//! ```
//! use std::sync::Arc;
//! use snakepit_core::{
//!     SlotId,
//!     event::Events,
//!     supervision::{ChildSpec, DynamicSupervisor, SlotStarterFactory, Supervisor, SupervisorLimits, Tree},
//!     testing::{FakeWorkerFactory, RecordingObserver},
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), snakepit_core::supervision::SupervisorError> {
//! let workers = FakeWorkerFactory::new();
//! let observer = RecordingObserver::new();
//! let events = Events::new("default");
//! let starters = SlotStarterFactory::new(Arc::new(workers.clone()), observer.clone(), events.clone());
//!
//! let supervisor = DynamicSupervisor::start(SupervisorLimits::default(), observer.clone(), events);
//! supervisor.start_child(ChildSpec::new(SlotId(0), Arc::new(starters))).await?;
//! observer.wait_ready(1).await;
//!
//! // A crash is a non-event: the starter has the next worker ready at once.
//! workers.worker(SlotId(0)).expect("it is ready").crash();
//! observer.wait_ready(2).await;
//! println!("{}", Tree::new("default", supervisor.which_children().await));
//!
//! supervisor.shutdown().await;
//! assert_eq!(workers.journal().live_in_all(), 0);
//! # Ok(())
//! # }
//! ```

mod backoff;
mod intensity;
mod metrics;
mod policy;
mod resource;
mod starter;
mod status;
mod supervisor;
mod tree;

use std::{fmt, sync::Arc, time::Duration};

pub use backoff::{Backoff, Quarantine};
pub use intensity::RestartIntensity;
pub use metrics::{MetricsCollector, MetricsSample, Sampler, SamplerCost};
pub use policy::{RestartPolicy, Shutdown};
pub use resource::{Resource, ResourceError, ResourceFactory};
pub use starter::{
    Departure, ReplaceError, Replaced, Replacement, SlotStarter, SlotStarterFactory, Starter, StarterExit,
    StarterFactory,
};
pub use status::{LeavingStatus, ResourceState, ResourceStatus, SlotState, SlotStatus};
pub use supervisor::{
    ChildCounts, ChildInfo, ChildKind, ChildSpec, DynamicSupervisor, Supervisor, SupervisorError,
    SupervisorLimits,
};
pub use tree::Tree;

use crate::{
    id::{SlotId, WorkerId},
    worker::{BoxFuture, Down, StartError, Worker},
};

/// What a slot tells the pool. A starter manages restarts by itself; the pool only learns who serves.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SlotEvent {
    /// A worker is ready to be called. One that was ready in its slot before is replaced: it must not be given further calls,
    /// and ends when [`SlotObserver::drained`] tells that none is left on it.
    Ready {
        /// Its slot.
        slot: SlotId,
        /// The worker.
        worker: Arc<dyn Worker>,
    },
    /// The slot's worker must not be called any more. Told at once, before its process tree is ended.
    Down {
        /// Its slot.
        slot: SlotId,
        /// The worker.
        worker: WorkerId,
        /// Why.
        down: Down,
    },
    /// A start failed; the starter tries again or gives up by itself.
    StartFailed {
        /// The slot.
        slot: SlotId,
        /// Why.
        error: Arc<StartError>,
    },
    /// A worker that was to replace the slot's did not start; the one that serves serves on.
    ReplacementFailed {
        /// The slot.
        slot: SlotId,
        /// Why.
        error: Arc<StartError>,
    },
    /// The slot rests: its starter exceeded its intensity, and the supervisor its own.
    Quarantined {
        /// The slot.
        slot: SlotId,
        /// For how long.
        pause: Duration,
    },
    /// The slot is gone, with everything in it.
    Terminated {
        /// The slot.
        slot: SlotId,
    },
}

/// Learns what slots do. Called synchronously from the starter: implementations must not block.
pub trait SlotObserver: Send + Sync + fmt::Debug {
    /// Something happened in a slot.
    fn slot_event(&self, event: SlotEvent);

    /// Resolves when no call is left on a worker of the slot that was replaced. The default knows of none.
    ///
    /// # Cancel safety
    /// Must be safe: it is waited for repeatedly.
    fn drained(&self, slot: SlotId, worker: WorkerId) -> BoxFuture<()> {
        let _ = (slot, worker);
        Box::pin(std::future::ready(()))
    }
}
