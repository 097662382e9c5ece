//! A dynamic supervisor: starts, counts, lists and ends starters.

mod actor;
mod dynamic;
mod state;

use std::{fmt, sync::Arc};

use async_trait::async_trait;

pub use dynamic::{DynamicSupervisor, SupervisorLimits};

use super::{ReplaceError, Replaced, Replacement, RestartPolicy, Shutdown, SlotStatus, StarterFactory};
use crate::id::SlotId;

/// What kind of child a spec describes, as in OTP; it matters for counting only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChildKind {
    /// The child supervises others: a starter does.
    Supervisor,
    /// The child does the work itself.
    Worker,
}

/// How a slot is started, restarted and ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ChildSpec {
    /// The slot; names the child.
    pub slot: SlotId,
    /// Makes its starter.
    pub starter: Arc<dyn StarterFactory>,
    /// When an ended starter is started again. Default [`RestartPolicy::Permanent`].
    pub restart: RestartPolicy,
    /// How its worker is ended on [`Supervisor::terminate_child`] and [`Supervisor::shutdown`].
    pub shutdown: Shutdown,
    /// Default [`ChildKind::Supervisor`].
    pub kind: ChildKind,
}

impl ChildSpec {
    /// A permanent starter with the default shutdown.
    pub fn new(slot: SlotId, starter: Arc<dyn StarterFactory>) -> Self {
        Self {
            slot,
            starter,
            restart: RestartPolicy::Permanent,
            shutdown: Shutdown::default(),
            kind: ChildKind::Supervisor,
        }
    }

    /// Sets when an ended starter is started again.
    #[must_use]
    pub fn with_restart(self, restart: RestartPolicy) -> Self {
        Self { restart, ..self }
    }

    /// Sets how its worker is ended.
    #[must_use]
    pub fn with_shutdown(self, shutdown: Shutdown) -> Self {
        Self { shutdown, ..self }
    }

    /// Sets what kind of child it is.
    #[must_use]
    pub fn with_kind(self, kind: ChildKind) -> Self {
        Self { kind, ..self }
    }
}

/// One child, as `which_children/1` lists it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ChildInfo {
    /// What its slot does.
    pub status: SlotStatus,
    /// What kind of child it is.
    pub kind: ChildKind,
    /// How often the supervisor started its starter again.
    pub starter_restarts: u64,
}

/// The children, as `count_children/1` counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChildCounts {
    /// Child specs, running or not.
    pub specs: usize,
    /// Children that run; a quarantined slot does not.
    pub active: usize,
    /// Children of kind supervisor, running or not.
    pub supervisors: usize,
    /// Children of kind worker, running or not.
    pub workers: usize,
}

/// Why a supervisor refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SupervisorError {
    /// The slot is taken; OTP's `already_started`, or its child is being ended.
    #[error("{0} is already started")]
    AlreadyStarted(SlotId),
    /// There is no such slot.
    #[error("there is no {0}")]
    NotFound(SlotId),
    /// The supervisor is ending or has ended.
    #[error("the supervisor is ending")]
    Ending,
}

/// A dynamic supervisor of starters: all children are independent of each other (`one_for_one`).
#[async_trait]
pub trait Supervisor: Send + Sync + fmt::Debug {
    /// Starts a child. Returns when its starter runs; the worker comes up later and is announced by
    /// [`SlotEvent::Ready`](super::SlotEvent::Ready), so that many slots start side by side.
    ///
    /// # Errors
    /// When the slot is taken or the supervisor is ending.
    ///
    /// # Cancel safety
    /// A dropped future may have started the child.
    async fn start_child(&self, spec: ChildSpec) -> Result<(), SupervisorError>;

    /// Ends a child and forgets it; returns when nothing of the slot is left. A quarantined slot is ended at
    /// once. Repeated and concurrent calls agree until the slot is forgotten.
    ///
    /// # Errors
    /// When there is no such child.
    ///
    /// # Cancel safety
    /// The ending goes on when the future is dropped.
    async fn terminate_child(&self, slot: SlotId) -> Result<(), SupervisorError>;

    /// Has a slot's starter [replace](super::Starter::replace) its worker. A quarantined slot is tried again at once.
    /// The default refuses.
    ///
    /// # Errors
    /// See [`ReplaceError`].
    ///
    /// # Cancel safety
    /// The replacement goes on when the future is dropped.
    async fn replace_child(&self, slot: SlotId, replacement: Replacement) -> Result<Replaced, ReplaceError> {
        drop(replacement);
        Err(ReplaceError::Unsupported(slot))
    }

    /// All children, by slot. Empty once the supervisor has ended.
    async fn which_children(&self) -> Vec<ChildInfo>;

    /// Counts the children.
    async fn count_children(&self) -> ChildCounts;

    /// Ends all children side by side, then itself; returns when nothing is left. Repeated calls agree.
    ///
    /// OTP's supervisor ends its children in reverse order of their start, one after the other; a dynamic
    /// supervisor's children are ended concurrently, there as here.
    ///
    /// # Cancel safety
    /// The ending goes on when the future is dropped.
    async fn shutdown(&self);
}
