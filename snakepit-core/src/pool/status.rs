//! A snapshot of a pool.

use std::{fmt, sync::Arc, time::Duration};

use super::latency::Latency;
use crate::{supervision::ChildInfo, worker::StartError};

/// What a pool does with calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Its first workers are being started.
    Starting,
    /// It takes calls.
    Running,
    /// It finishes the calls it has and takes no more.
    Draining,
    /// It is over.
    Stopped,
}

impl Phase {
    /// Whether new calls are refused.
    pub const fn refuses(self) -> bool {
        matches!(self, Self::Draining | Self::Stopped)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
        })
    }
}

/// A snapshot of a pool.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PoolStatus {
    /// Its name.
    pub name: String,
    /// What it does with calls.
    pub phase: Phase,
    /// Every slot.
    pub workers: Vec<WorkerStatus>,
    /// Workers that serve, busy ones included.
    pub ready: usize,
    /// Workers lent to calls.
    pub busy: usize,
    /// Callers that wait.
    pub queued: usize,
    /// How many may wait; `None` is unlimited.
    pub queue_limit: Option<usize>,
    /// How long calls waited for a worker, from sending to dispatch.
    pub waited: Latency,
    /// How long calls ran, from dispatch to their end.
    pub ran: Latency,
    /// The last start that failed.
    pub last_start_error: Option<Arc<StartError>>,
}

/// A slot in a pool's status.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WorkerStatus {
    /// The slot as its supervisor sees it.
    pub child: ChildInfo,
    /// Calls its present worker was given.
    pub calls: u64,
    /// Calls that its present worker runs now, at most [`concurrency`](Self::concurrency). Further ones may wait in it.
    pub running: usize,
    /// Calls that its present worker runs at the same time; 0 without one.
    pub concurrency: usize,
    /// How long the running call, of several the first one, has been running.
    pub busy_for: Option<Duration>,
}

impl PoolStatus {
    /// Whether a call made now would be served: by a worker that is idle, or by one that is busy.
    pub fn is_serving(&self) -> bool {
        self.phase == Phase::Running && self.ready > 0
    }
}

impl fmt::Display for PoolStatus {
    /// One line; [`Pool::tree`](super::Pool::tree) prints the slots.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            phase,
            ready,
            busy,
            queued,
            ..
        } = self;
        let slots = self.workers.len();
        write!(
            f,
            "pool {name}: {phase}, {ready} of {slots} ready, {busy} busy, {queued} queued"
        )
    }
}
