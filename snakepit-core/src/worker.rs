//! One live process with its channel.
//!
//! [`Worker`] is what a starter supervises and a pool calls; [`WorkerFactory`] makes the next one for a slot.

mod client;
mod concurrency;
mod down;
mod error;
mod grpc;
mod input;
mod turn;
mod words;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;

pub use crate::arena::ArenaUse;
pub use client::{Aside, BoxFuture, ItemStream, Received, TransportError, WorkerClient};
pub use concurrency::Concurrency;
pub use down::{Down, DownReason, Unhealthy};
pub use error::{StartError, StartErrorKind, StartPhase};
pub use grpc::{
    Affinity, ChannelSpec, CoreSet, GrpcWorker, GrpcWorkerFactory, GrpcWorkerSpec, Heartbeat,
    ParseCoresError, PerSlot, Template, TemplateError,
};
pub(crate) use input::InputItems;
pub use input::{Feed, Input, NoInput};
pub use turn::{StartPermit, StartTurn, StartTurns};
pub(crate) use words::last_words;

use crate::{
    id::{SlotId, WorkerId},
    process::EndReport,
};

/// A worker that has been ready. It is transient: every end the host did not ask for is abnormal.
///
/// Dropping the last handle of a worker that was not ended kills its process, as a last defence.
#[async_trait]
pub trait Worker: Send + Sync + fmt::Debug {
    /// Which worker this is.
    fn id(&self) -> WorkerId;

    /// Its process id, for people and metrics; `None` for a worker without a process of ours.
    fn pid(&self) -> Option<u32>;

    /// How calls reach it.
    fn client(&self) -> Arc<dyn WorkerClient>;

    /// Calls that it runs at the same time; it is lent to as many. At least 1, and always the same. Default 1.
    fn concurrency(&self) -> usize {
        1
    }

    /// Calls that may be under way on a worker that runs one at a time; the others wait in it. More than one only for a
    /// worker whose [`has_begun`](Self::has_begun) tells, so that calls that wait can be taken back. Default 1.
    fn depth(&self) -> usize {
        1
    }

    /// Whether a call that is under way has begun to execute; `None` where that cannot be told. After the worker has
    /// ended, or has answered a [`recall`](WorkerClient::recall), `false` is final. Default `None`.
    fn has_begun(&self, call_id: u64) -> Option<bool> {
        let _ = call_id;
        None
    }

    /// The name of its function that tells whether it is healthy; see `AdapterReport.health` in the protocol. `None`, the
    /// default, for a worker without one.
    fn health_check(&self) -> Option<Arc<str>> {
        None
    }

    /// Whether it wants to be told of the end of a session that has been on it. Default `false`.
    fn ends_sessions(&self) -> bool {
        false
    }

    /// How the memory that it shares with the host is used; `None`, the default, where there is none.
    fn arena(&self) -> Option<ArenaUse> {
        None
    }

    /// Whether it takes many calls of a function in one message. Default `false`.
    fn takes_batches(&self) -> bool {
        false
    }

    /// Takes the input of a call, which is sent to it next under this id. The caller's stream is read as far as the worker's
    /// code asks for items, and dropped with what is returned. The default takes none.
    ///
    /// # Errors
    /// When the worker's program takes no input.
    fn feed(&self, call_id: u64, input: Input) -> Result<Feed, NoInput> {
        let _ = (call_id, input);
        Err(NoInput)
    }

    /// Declares the worker unfit to serve, once: [`down`](Self::down) resolves with this reason and whoever
    /// supervises it ends and replaces it. Later reasons are ignored.
    fn condemn(&self, reason: DownReason);

    /// Resolves when the worker cannot serve any more: its process ended, its control thread stopped
    /// answering, or it was condemned. Repeated and concurrent waits agree.
    ///
    /// # Cancel safety
    /// Safe; nothing is lost.
    async fn down(&self) -> Down;

    /// Ends the worker: asks it to finish the running call within `drain` and to leave, then ends its process
    /// tree with `grace` between SIGTERM and SIGKILL, and releases its ledger row when the tree is empty.
    /// Repeated and concurrent calls agree; the shorter times win. A worker that is already down is not asked.
    ///
    /// # Cancel safety
    /// The ending goes on when the future is dropped.
    async fn end(&self, drain: Duration, grace: Duration) -> EndReport;
}

/// Makes the workers of a slot, one after the other.
#[async_trait]
pub trait WorkerFactory: Send + Sync + fmt::Debug {
    /// Starts a worker and returns it ready, or fails and leaves nothing behind. It waits for its `turn` before it does what
    /// costs much, and holds the permit until the worker is ready.
    ///
    /// # Errors
    /// Which phase failed, why, and what the process said last.
    ///
    /// # Cancel safety
    /// Dropping the future ends whatever it had started, in the background.
    async fn start(&self, slot: SlotId, turn: StartTurn) -> Result<Arc<dyn Worker>, StartError>;

    /// Resolves when nothing is left of this slot's starts whose future was dropped. A starter waits for it
    /// before it reports that the slot has ended. The default has nothing to wait for.
    ///
    /// # Cancel safety
    /// Safe; the endings go on.
    async fn settle(&self, slot: SlotId) {
        let _ = slot;
    }

    /// A factory of the same workers that begins anew with what this one has prepared from files. A restart takes its workers
    /// from it. `None`, the default, is one that prepares nothing.
    fn renewed(&self) -> Option<Arc<dyn WorkerFactory>> {
        None
    }

    /// Ends what it keeps running for further starts, when no worker is left. By default there is nothing.
    ///
    /// # Cancel safety
    /// The ending goes on when the future is dropped.
    async fn close(&self) {}
}
