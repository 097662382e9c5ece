//! A snapshot of a pool.

use std::{fmt, sync::Arc, time::Duration};

use super::{health::HealthCheck, latency::Latency};
use crate::{
    supervision::ChildInfo,
    worker::{ArenaUse, StartError},
};

/// What a pool does with calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Its first workers are being started.
    Starting,
    /// It takes calls.
    Running,
    /// Calls wait until it goes on.
    Paused,
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
            Self::Paused => "paused",
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
    /// Callers that wait, for any worker or for that of their session.
    pub queued: usize,
    /// How many may wait; `None` is unlimited.
    pub queue_limit: Option<usize>,
    /// Sessions that are bound to a worker.
    pub sessions: usize,
    /// Slots that there are always.
    pub min_workers: usize,
    /// Slots that there are at most.
    pub max_workers: usize,
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
    /// Sessions that have been on its present worker and have not ended.
    pub sessions: usize,
    /// Calls its present worker was given.
    pub calls: u64,
    /// Calls that its present worker runs now, at most [`concurrency`](Self::concurrency). Further ones may wait in it.
    pub running: usize,
    /// Calls that its present worker runs at the same time; 0 without one.
    pub concurrency: usize,
    /// How the memory that its present worker shares with the host is used; `None` where there is none.
    pub arena: Option<ArenaUse>,
    /// How long the running call, of several the first one, has been running.
    pub busy_for: Option<Duration>,
    /// The last health check in the slot: of its present worker, or, if that was not checked yet, of one before it.
    pub check: Option<HealthCheck>,
}

/// What a pool is good for right now.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Verdict {
    /// Every slot serves.
    Ready,
    /// Calls are served, by fewer workers than there should be.
    Degraded {
        /// Workers that serve.
        ready: usize,
        /// Slots.
        of: usize,
        /// The last start that failed.
        last: Option<Arc<StartError>>,
    },
    /// No worker serves; calls wait, or are refused once every slot's starts keep failing.
    Down {
        /// The last start that failed.
        last: Option<Arc<StartError>>,
    },
    /// It has shrunk to no worker, and starts one for the next call.
    Asleep,
    /// It takes or hands out no calls, as it was told to.
    Closed(Phase),
}

impl Verdict {
    /// Whether a call made now is served without waiting for a worker's start. An answer for load balancers.
    pub const fn is_ready(&self) -> bool {
        matches!(self, Self::Ready | Self::Degraded { .. })
    }

    /// Whether the pool can serve, now or once its workers have started. An answer for whoever restarts programs that are beyond
    /// help: a pool tries again by itself.
    pub const fn is_alive(&self) -> bool {
        !matches!(self, Self::Closed(Phase::Stopped))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (text, last) = match self {
            Self::Ready => return f.write_str("ready"),
            Self::Asleep => return f.write_str("asleep"),
            Self::Closed(phase) => return phase.fmt(f),
            Self::Degraded { ready, of, last } => (format!("degraded: {ready} of {of} workers serve"), last),
            Self::Down { last } => ("down: no worker serves".to_owned(), last),
        };
        f.write_str(&text)?;
        match last {
            Some(last) => write!(f, "; {}", crate::rpc::error_chain(&**last)),
            None => Ok(()),
        }
    }
}

impl PoolStatus {
    /// Whether a call made now would be served: by a worker that is idle, or by one that is busy.
    pub fn is_serving(&self) -> bool {
        self.phase == Phase::Running && self.ready > 0
    }

    /// What the pool is good for right now, with the last failure where it is not well.
    pub fn verdict(&self) -> Verdict {
        let last = self.last_start_error.clone();
        match self.phase {
            Phase::Running | Phase::Starting if self.ready > 0 => {
                let of = self.workers.len().max(self.ready);
                if self.ready == of {
                    Verdict::Ready
                } else {
                    Verdict::Degraded {
                        ready: self.ready,
                        of,
                        last,
                    }
                }
            }
            Phase::Running if self.workers.is_empty() => Verdict::Asleep,
            Phase::Running | Phase::Starting => Verdict::Down { last },
            closed @ (Phase::Paused | Phase::Draining | Phase::Stopped) => Verdict::Closed(closed),
        }
    }

    /// Workers whose running call has been running for longer than this. A call without a deadline shows here, and nowhere else:
    /// a deadlock looks like a long computation.
    pub fn long_running(&self, than: Duration) -> impl Iterator<Item = &WorkerStatus> {
        let workers = self.workers.iter();
        workers.filter(move |worker| worker.busy_for.is_some_and(|busy| busy > than))
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
