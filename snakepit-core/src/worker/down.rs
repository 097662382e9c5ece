//! Why a worker no longer serves.

use std::{fmt, time::Duration};

use crate::{process::ExitOutcome, rpc::RemoteError};

/// Why a worker no longer serves.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DownReason {
    /// Its process ended by itself or by somebody else's signal.
    Exited,
    /// It closed its channel while its process lived on.
    ChannelClosed,
    /// A call failed in its channel, and the worker lived on as if nothing had happened.
    ChannelFailed {
        /// What the transport said, for people.
        message: String,
    },
    /// It refused a call because it was leaving, and did not leave.
    StayedOn,
    /// Its control thread did not answer for this long.
    Unresponsive(Duration),
    /// A call did not stop within the cancel grace after its deadline passed or its caller left.
    CallOverran {
        /// The call.
        call_id: u64,
        /// The grace that ran out.
        grace: Duration,
    },
    /// Its health check said so, failed, or took too long.
    Unhealthy(Unhealthy),
    /// The host asked for its end. The only normal reason.
    Requested,
}

impl DownReason {
    /// Whether the host asked for it; everything else is abnormal and restarted.
    pub const fn is_normal(&self) -> bool {
        matches!(self, Self::Requested)
    }
}

impl fmt::Display for DownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited => write!(f, "its process ended"),
            Self::ChannelClosed => write!(f, "it closed its channel"),
            Self::ChannelFailed { message } => write!(f, "a call failed in its channel: {message}"),
            Self::StayedOn => write!(f, "it refused calls because it was leaving, and did not leave"),
            Self::Unresponsive(after) => write!(f, "it did not answer a heartbeat for {after:?}"),
            Self::CallOverran { call_id, grace } => {
                write!(
                    f,
                    "call {call_id} did not stop within {grace:?} of being cancelled"
                )
            }
            Self::Unhealthy(unhealthy) => write!(f, "it is not healthy: {unhealthy}"),
            Self::Requested => write!(f, "the host asked for its end"),
        }
    }
}

/// What a health check has found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Unhealthy {
    /// One line for people: the hook's exception, or what else is wrong.
    pub message: String,
    /// The exception and its causes as Python prints them; empty where there is none.
    pub traceback: String,
}

impl Unhealthy {
    /// For this reason, without an exception.
    pub(crate) fn because(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            traceback: String::new(),
        }
    }
}

impl From<RemoteError> for Unhealthy {
    fn from(error: RemoteError) -> Self {
        Self {
            message: error.to_string(),
            traceback: error.traceback(),
        }
    }
}

/// A worker that is down, with what is known of its process.
#[derive(Clone, Debug)]
pub struct Down {
    /// Why.
    pub reason: DownReason,
    /// How the process ended, if it had ended by then.
    pub outcome: Option<ExitOutcome>,
    /// The last bytes of its standard error, decoded lossily.
    pub stderr_tail: String,
}

impl fmt::Display for Down {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.outcome {
            Some(outcome) if self.reason == DownReason::Exited => write!(f, "{outcome}"),
            Some(outcome) => write!(f, "{}; {outcome}", self.reason),
            None => write!(f, "{}", self.reason),
        }
    }
}
