//! What a slot does right now, and the printable tree.

use std::{fmt, sync::Arc, time::Duration};

use super::metrics::MetricsSample;
use crate::id::{SlotId, WorkerId};

/// What a slot is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SlotState {
    /// A worker is being started.
    Starting,
    /// A worker is ready.
    Serving,
    /// A worker is ready, and the one that is to replace it is being started.
    Replacing,
    /// The worker is down; it and its resources are being ended.
    Ending,
    /// The next start waits.
    Pausing {
        /// How long from now.
        left: Duration,
    },
    /// The worker ended because the host asked for it; the slot is empty.
    Idle,
    /// The slot rests after too many restarts.
    Quarantined {
        /// How long from now.
        left: Duration,
    },
    /// Everything in the slot is being ended for good.
    Terminating,
    /// Nothing of the slot is left.
    Terminated,
}

impl fmt::Display for SlotState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.write_str("starting"),
            Self::Serving => f.write_str("serving"),
            Self::Replacing => f.write_str("serving, its replacement is being started"),
            Self::Ending => f.write_str("ending"),
            Self::Pausing { left } => write!(f, "restarts in {left:.1?}"),
            Self::Idle => f.write_str("idle"),
            Self::Quarantined { left } => write!(f, "quarantined, tried again in {left:.1?}"),
            Self::Terminating => f.write_str("terminating"),
            Self::Terminated => f.write_str("terminated"),
        }
    }
}

/// A snapshot of a slot.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SlotStatus {
    /// The slot.
    pub slot: SlotId,
    /// What it is busy with.
    pub state: SlotState,
    /// Its worker, from ready until nothing of it is left.
    pub worker: Option<WorkerId>,
    /// The worker's process, where it has one of ours.
    pub pid: Option<u32>,
    /// The worker that was replaced last, until nothing of it is left.
    pub leaving: Option<LeavingStatus>,
    /// The resources beside the worker.
    pub resources: Vec<ResourceStatus>,
    /// How often its present starter started a worker again.
    pub restarts: u64,
    /// What the worker's process tree uses, where a resource measures it.
    pub metrics: Option<MetricsSample>,
    /// Why the last worker was not ready or ended, or the last starter ended.
    pub last_failure: Option<Arc<str>>,
}

/// A worker that was replaced and finishes its calls, in a slot's status.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeavingStatus {
    /// The worker.
    pub worker: WorkerId,
    /// Its process, where it has one of ours.
    pub pid: Option<u32>,
    /// Since when it is given no more calls.
    pub since: Duration,
}

/// A resource in a slot's status.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResourceStatus {
    /// Its name.
    pub name: Arc<str>,
    /// Whether it works.
    pub state: ResourceState,
}

/// Whether a resource works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResourceState {
    /// It is being started.
    Starting,
    /// It works.
    Running,
    /// It did not start, or failed since.
    Failed,
}

impl SlotStatus {
    /// The status of a slot without worker.
    pub fn new(slot: SlotId, state: SlotState) -> Self {
        Self {
            slot,
            state,
            worker: None,
            pid: None,
            leaving: None,
            resources: Vec::new(),
            restarts: 0,
            metrics: None,
            last_failure: None,
        }
    }
}
