//! Every state change as one typed stream.
//!
//! Tracing, metrics and the command read it. A subscriber that falls behind loses the oldest events and is told
//! how many; emitting never waits.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::broadcast;

use crate::{
    id::{RunId, SlotId, WorkerId},
    pool::{CancelOutcome, ReplaceCause},
    process::EndReport,
    worker::{Down, DownReason, StartError, Unhealthy},
};

/// Events kept for a subscriber that is slow. A pool of 100 workers starting emits a few hundred at once.
const BACKLOG: usize = 4096;

/// A state change.
#[derive(Clone, Debug)]
pub struct Event {
    /// When it was emitted.
    pub at: SystemTime,
    /// The pool it happened in.
    pub pool: Arc<str>,
    /// What happened.
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug)]
#[expect(
    missing_docs,
    reason = "slot, worker and pid mean the same everywhere; other fields are told by their variant"
)]
#[non_exhaustive]
pub enum EventKind {
    /// A worker's process exists and is held at its gate.
    WorkerLaunched {
        slot: SlotId,
        worker: WorkerId,
        pid: u32,
    },
    /// A worker answers calls; `took` is from the start of its launch.
    WorkerReady {
        slot: SlotId,
        worker: WorkerId,
        pid: Option<u32>,
        took: Duration,
    },
    /// A worker did not become ready.
    WorkerStartFailed { slot: SlotId, error: Arc<StartError> },
    /// A worker is to be replaced: another one is being started beside it.
    ReplacementStarted {
        slot: SlotId,
        worker: Option<WorkerId>,
        cause: ReplaceCause,
    },
    /// Another worker serves in a worker's place, which finishes its calls and then ends.
    WorkerReplaced {
        slot: SlotId,
        worker: WorkerId,
        /// The worker that serves now.
        by: WorkerId,
    },
    /// A worker that was to replace the slot's did not become ready; the one that serves serves on.
    ReplacementFailed { slot: SlotId, error: Arc<StartError> },
    /// A worker cannot serve any more.
    WorkerDown {
        slot: SlotId,
        worker: WorkerId,
        down: Down,
    },
    /// Nothing of a worker is left.
    WorkerEnded {
        slot: SlotId,
        worker: WorkerId,
        report: EndReport,
    },
    /// A worker's health was checked. One that is not healthy goes down next.
    HealthChecked {
        slot: SlotId,
        worker: WorkerId,
        took: Duration,
        outcome: Result<(), Unhealthy>,
    },
    /// A call whose caller had left or whose time was up has ended in its worker.
    CallCancelled {
        slot: SlotId,
        worker: WorkerId,
        call_id: u64,
        outcome: CancelOutcome,
    },
    /// A restart waits; `restart` counts from 1 within the current series.
    RestartDelayed {
        slot: SlotId,
        restart: u32,
        delay: Duration,
    },
    /// A resource of a slot started.
    ResourceStarted { slot: SlotId, resource: Arc<str> },
    /// A resource of a slot could not be started, or failed later; the worker serves on without it.
    ResourceFailed {
        slot: SlotId,
        resource: Arc<str>,
        message: String,
    },
    /// A resource of a slot ended.
    ResourceEnded { slot: SlotId, resource: Arc<str> },
    /// A starter exceeded its restart intensity and ended.
    StarterGaveUp {
        slot: SlotId,
        restarts: u32,
        period: Duration,
    },
    /// The supervisor restarted a starter.
    StarterRestarted { slot: SlotId },
    /// A slot rests after too many restarts.
    SlotQuarantined { slot: SlotId, pause: Duration },
    /// A slot's starter ended for good, with everything in it.
    SlotTerminated { slot: SlotId },
    /// A metrics sample of a worker's process tree.
    Metrics {
        slot: SlotId,
        worker: WorkerId,
        /// Resident memory of the tree in bytes.
        rss_bytes: u64,
        /// CPU use of the tree since the last sample; 1.0 is one core.
        cpu: f32,
        /// Processes in the tree.
        processes: u32,
    },
    /// A process that a dead host had left behind was found when the pool started. It was ended, unless `left` says why
    /// not.
    OrphanEnded {
        /// The run that had started it.
        run: RunId,
        worker: Option<WorkerId>,
        pid: u32,
        program: Arc<str>,
        left: Option<Arc<str>>,
    },
    /// What dead hosts had left behind was looked for when the pool started, and something was found: in how many
    /// runs, how many processes were ended and how many are left.
    OrphansCleaned {
        runs: usize,
        ended: usize,
        remaining: usize,
        took: Duration,
    },
    /// What the pool starts is recorded in memory only from now on: nothing tells the next start what to end should the
    /// host be killed, but what stands in the environment of its processes.
    LedgerDegraded { reason: Arc<str> },
    /// Calls wait until the pool goes on.
    PoolPaused,
    /// The pool goes on after a pause or a drain.
    PoolResumed,
    /// The pool has other bounds of its size.
    PoolResized { min: usize, max: usize },
    /// The pool takes no new calls.
    PoolDraining,
    /// The pool has ended.
    PoolStopped,
}

/// Emits the events of one pool.
#[derive(Clone, Debug)]
pub struct Events {
    pool: Arc<str>,
    sender: broadcast::Sender<Event>,
}

impl Events {
    /// A stream for the pool of this name.
    pub fn new(pool: &str) -> Self {
        Self {
            pool: pool.into(),
            sender: broadcast::Sender::new(BACKLOG),
        }
    }

    /// The pool's name.
    pub fn pool(&self) -> &str {
        &self.pool
    }

    /// Emits an event to whoever listens now.
    pub fn emit(&self, kind: EventKind) {
        trace(&self.pool, &kind);
        // An error only says that nobody listens.
        let _ = self.sender.send(Event {
            at: SystemTime::now(),
            pool: Arc::clone(&self.pool),
            kind,
        });
    }

    /// Events from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.sender.subscribe()
    }
}

/// Writes an event to the log, at a level that fits it.
fn trace(pool: &str, kind: &EventKind) {
    match kind {
        EventKind::WorkerStartFailed { slot, error } => {
            tracing::warn!(pool, %slot, error = %crate::rpc::error_chain(&**error), "worker did not start");
        }
        EventKind::ReplacementFailed { slot, error } => {
            let traceback = error.traceback().map(tracing::field::display);
            tracing::warn!(
                pool, %slot, error = %crate::rpc::error_chain(&**error), traceback,
                "the new worker did not start, the one before serves on"
            );
        }
        EventKind::WorkerDown { slot, worker, down } if !down.reason.is_normal() => {
            let traceback = match &down.reason {
                DownReason::Unhealthy(unhealthy) => Some(&unhealthy.traceback),
                _ => None,
            };
            let traceback = traceback
                .filter(|text| !text.is_empty())
                .map(tracing::field::display);
            tracing::warn!(pool, %slot, %worker, reason = %down, traceback, "worker down");
        }
        EventKind::StarterGaveUp {
            slot,
            restarts,
            period,
        } => {
            tracing::error!(pool, %slot, restarts, ?period, "starter gave up");
        }
        EventKind::SlotQuarantined { slot, pause } => {
            tracing::error!(pool, %slot, ?pause, "slot quarantined");
        }
        EventKind::ResourceFailed {
            slot,
            resource,
            message,
        } => {
            tracing::warn!(pool, %slot, %resource, message, "resource failed");
        }
        EventKind::WorkerEnded { slot, worker, report } if !report.is_complete() => {
            tracing::error!(pool, %slot, %worker, ?report, "processes are left that cannot be ended, or may be");
        }
        EventKind::Metrics { .. } => tracing::trace!(pool, event = ?kind, "metrics"),
        _ => tracing::debug!(pool, event = ?kind, "state change"),
    }
}
