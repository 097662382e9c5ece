//! Why a call has no result.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    batch::BatchRefused,
    budget::{Budget, CancelOutcome, Cancelled},
    dispatch::Refusal,
    input::InputRefused,
    poison::Poisoned,
    session::SessionLost,
    status::Phase,
};
use crate::{
    id::{SessionId, SlotId, WorkerId},
    rpc::{CodecError, RemoteError, RemoteErrorKind},
    worker::{Down, DownReason, StartError, last_words},
};

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The queue is full. Retryable: the call was not executed.
    #[error("the queue of pool `{pool}` is full: {waiting} calls wait, {limit} may")]
    QueueFull {
        /// The pool.
        pool: Arc<str>,
        /// Calls that wait.
        waiting: usize,
        /// How many may.
        limit: usize,
    },
    /// A newer call took its place in the queue, which is full ([`Overflow::DropOldest`](super::Overflow::DropOldest)). Retryable: the
    /// call was not executed.
    #[error(
        "a newer call took the place of this one in the queue of pool `{pool}`: {limit} calls wait, the most that may"
    )]
    Displaced {
        /// The pool.
        pool: Arc<str>,
        /// How many calls may wait.
        limit: usize,
    },
    /// The same call has ended one worker after the other, and is not executed for a while.
    #[error(transparent)]
    Poisoned(Box<Poisoned>),
    /// The pool takes no calls. The call was not executed.
    #[error("pool `{pool}` takes no calls: it is {phase}")]
    NotServing {
        /// The pool.
        pool: Arc<str>,
        /// What it does instead.
        phase: Phase,
    },
    /// No slot of the pool has a worker, and starting them fails. The call was not executed. Retryable: slots are
    /// tried again, with growing pauses.
    #[error("pool `{pool}` has no worker")]
    NoWorkers {
        /// The pool.
        pool: Arc<str>,
        /// The last start that failed.
        #[source]
        last: Option<Arc<StartError>>,
    },
    /// The worker of a [`StrictFail`](super::SessionMode::StrictFail) session is busy. Retryable: the call was not executed.
    #[error(
        "{session} is not served now: {worker}, which it is bound to, runs {running} of {concurrency} calls"
    )]
    SessionBusy {
        /// The session.
        session: SessionId,
        /// The worker that it is bound to.
        worker: WorkerId,
        /// Calls that this worker runs, those of others included.
        running: usize,
        /// How many it can run at the same time.
        concurrency: usize,
    },
    /// The session's worker is gone, and with it the session's state. The call was not executed. No later call in this session will be:
    /// whoever can begin anew opens a new one.
    #[error(transparent)]
    SessionLost(Arc<SessionLost>),
    /// The deadline, the queue timeout or the run timeout passed.
    #[error(transparent)]
    DeadlineExceeded(Box<DeadlineExceeded>),
    /// The worker ended during the call, which may have been executed, in part or whole.
    #[error(transparent)]
    WorkerLost(Box<WorkerLost>),
    /// The worker answered with an error.
    #[error(transparent)]
    Failed(Box<CallFailed>),
    /// An argument or the result is not of the type it should be.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The call cannot have input. It was not executed.
    #[error(transparent)]
    Input(#[from] InputRefused),
    /// The calls cannot be made in a batch. None was executed.
    #[error(transparent)]
    Batch(#[from] BatchRefused),
}

/// One of a call's budgets ran out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub struct DeadlineExceeded {
    /// The function.
    pub function: Arc<str>,
    /// Which budget.
    pub budget: Budget,
    /// How much it was.
    pub limit: Duration,
    /// How long the call waited in the queue.
    pub queued: Duration,
    /// The worker it ran on and for how long; `None` while it waited for one.
    pub ran: Option<(WorkerId, Duration)>,
    /// The worker that was lost before, where it was to be executed [again](super::Request::idempotent).
    #[source]
    pub lost: Option<Box<WorkerLost>>,
    pub(super) cancelled: Cancelled,
}

impl DeadlineExceeded {
    /// Waits until the call has ended in its worker, and tells what ended it. That takes the pool's cancel grace at most.
    ///
    /// # Cancel safety
    /// Safe; the call is ended all the same.
    pub async fn outcome(&self) -> CancelOutcome {
        self.cancelled.outcome().await
    }
}

impl fmt::Display for DeadlineExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            function,
            budget,
            limit,
            queued,
            ran,
            lost,
            ..
        } = self;
        write!(f, "the {budget} of {limit:?} for {function} passed ")?;
        match (ran, lost) {
            (Some((worker, ran)), _) => {
                write!(f, "after {ran:.1?} on {worker} and {queued:.1?} in the queue")
            }
            (None, Some(lost)) => write!(
                f,
                "while it waited for another worker than {}, which was lost",
                lost.worker
            ),
            (None, None) => write!(f, "while it waited for a worker"),
        }
    }
}

/// A worker ended during a call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub struct WorkerLost {
    /// The function.
    pub function: Arc<str>,
    /// The worker.
    pub worker: WorkerId,
    /// Its pid.
    pub pid: Option<u32>,
    /// Its slot.
    pub slot: SlotId,
    /// The id of the call within its worker, as logs and `context` show it. Where the worker ended because a call overran, that is
    /// another one: [`DownReason::CallOverran`](crate::worker::DownReason::CallOverran) has its id.
    pub call_id: Option<u64>,
    /// How long the call had been running.
    pub ran: Duration,
    /// The workers the call was executed on, this one included: more than 1 only for a call that may be
    /// [retried](super::Request::idempotent).
    pub attempts: u32,
    /// Why the worker ended, its exit outcome and the last it wrote to standard error.
    pub down: Down,
}

impl fmt::Display for WorkerLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was lost during {}", self.worker, self.function)?;
        if let Some(pid) = self.pid {
            write!(f, " (pid {pid})")?;
        }
        if self.attempts > 1 {
            write!(f, ", attempt {}", self.attempts)?;
        }
        match (&self.down.reason, self.call_id) {
            (DownReason::CallOverran { call_id, .. }, Some(own)) if *call_id != own => {
                write!(f, ": of the other calls on it, {}", self.down)?;
            }
            _ => write!(f, ": {}", self.down)?,
        }
        match last_words(&self.down.stderr_tail) {
            Some(words) => write!(f, "; it said last: {words}"),
            None => Ok(()),
        }
    }
}

/// A worker answered a call with an error; it serves on.
#[derive(Debug, thiserror::Error)]
#[error("{function} failed on {worker}")]
#[non_exhaustive]
pub struct CallFailed {
    /// The function.
    pub function: Arc<str>,
    /// The worker.
    pub worker: WorkerId,
    /// Its pid.
    pub pid: Option<u32>,
    /// What it answered.
    #[source]
    pub error: RemoteError,
}

/// The kind of a [`CallError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CallErrorKind {
    /// The queue is full.
    QueueFull,
    /// A newer call took its place in the queue.
    Displaced,
    /// It ended one worker after the other.
    Poisoned,
    /// The pool takes no calls.
    NotServing,
    /// No slot has a worker.
    NoWorkers,
    /// The worker of its session is busy.
    SessionBusy,
    /// The worker of its session is gone.
    SessionLost,
    /// The deadline passed.
    DeadlineExceeded,
    /// It waited for a worker for too long.
    QueueTimeout,
    /// It ran for too long.
    RunTimeout,
    /// The worker ended during the call.
    WorkerLost,
    /// The worker answered with an error.
    Failed,
    /// A value is not of the type it should be.
    Codec,
    /// The call cannot have input.
    Input,
    /// [`CallError::Batch`].
    Batch,
}

impl CallError {
    /// What kind of error it is.
    pub const fn kind(&self) -> CallErrorKind {
        match self {
            Self::QueueFull { .. } => CallErrorKind::QueueFull,
            Self::Displaced { .. } => CallErrorKind::Displaced,
            Self::Poisoned(_) => CallErrorKind::Poisoned,
            Self::NotServing { .. } => CallErrorKind::NotServing,
            Self::NoWorkers { .. } => CallErrorKind::NoWorkers,
            Self::SessionBusy { .. } => CallErrorKind::SessionBusy,
            Self::SessionLost(_) => CallErrorKind::SessionLost,
            Self::DeadlineExceeded(error) => match error.budget {
                Budget::Deadline => CallErrorKind::DeadlineExceeded,
                Budget::QueueTimeout => CallErrorKind::QueueTimeout,
                Budget::RunTimeout => CallErrorKind::RunTimeout,
            },
            Self::WorkerLost(_) => CallErrorKind::WorkerLost,
            Self::Failed(_) => CallErrorKind::Failed,
            Self::Codec(_) => CallErrorKind::Codec,
            Self::Input(_) => CallErrorKind::Input,
            Self::Batch(_) => CallErrorKind::Batch,
        }
    }

    /// Whether the call may have been executed, in part or whole. `false` is certain.
    pub fn may_have_executed(&self) -> bool {
        match self {
            Self::QueueFull { .. }
            | Self::Displaced { .. }
            | Self::Poisoned(_)
            | Self::NotServing { .. }
            | Self::NoWorkers { .. }
            | Self::SessionBusy { .. }
            | Self::SessionLost(_)
            | Self::Input(_)
            | Self::Batch(_) => false,
            Self::DeadlineExceeded(error) => error.ran.is_some() || error.lost.is_some(),
            Self::WorkerLost(_) => true,
            Self::Failed(failed) => failed.error.may_have_executed(),
            Self::Codec(CodecError::Decode { .. }) => true,
            Self::Codec(_) => false,
        }
    }

    /// Whether the same call may succeed when made again, on this pool, without a change. Whether it is harmless
    /// to execute it twice is the caller's to know: see [`may_have_executed`](Self::may_have_executed).
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::QueueFull { .. }
            | Self::Displaced { .. }
            | Self::NoWorkers { .. }
            | Self::SessionBusy { .. }
            | Self::WorkerLost(_) => true,
            Self::DeadlineExceeded(error) => matches!(error.budget, Budget::QueueTimeout),
            Self::Failed(failed) => matches!(
                failed.error.kind,
                RemoteErrorKind::ShuttingDown | RemoteErrorKind::Busy
            ),
            Self::Poisoned(_)
            | Self::NotServing { .. }
            | Self::SessionLost(_)
            | Self::Codec(_)
            | Self::Input(_)
            | Self::Batch(_) => false,
        }
    }

    /// The answer of the worker, where there is one.
    pub fn remote(&self) -> Option<&RemoteError> {
        if let Self::Failed(failed) = self {
            Some(&failed.error)
        } else {
            None
        }
    }

    pub(super) fn refused(pool: &str, refusal: Refusal) -> Self {
        let pool = pool.into();
        match refusal {
            Refusal::Full { waiting, limit } => Self::QueueFull { pool, waiting, limit },
            Refusal::Displaced { limit } => Self::Displaced { pool, limit },
            Refusal::Phase(phase) => Self::NotServing { pool, phase },
            Refusal::Nobody { last } => Self::NoWorkers { pool, last },
            Refusal::SessionBusy {
                session,
                worker,
                running,
                concurrency,
            } => Self::SessionBusy {
                session,
                worker,
                running,
                concurrency,
            },
            Refusal::SessionLost(lost) => Self::SessionLost(lost),
        }
    }
}
