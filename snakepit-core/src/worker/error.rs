//! Why a worker did not become ready.

use std::{fmt, time::Duration};

use super::last_words;
use crate::{id::WorkerId, launch::LaunchError, ledger::LedgerError, process::ExitOutcome, rpc::RemoteError};

/// The steps of a start, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StartPhase {
    /// Reserving the ledger row.
    Reserve,
    /// Creating the process.
    Launch,
    /// Recording its identity.
    Record,
    /// Opening the gate.
    Gate,
    /// Waiting for the handshake's answer.
    Handshake,
    /// Importing and starting the adapters.
    Import,
}

impl fmt::Display for StartPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reserve => "reserving its ledger row",
            Self::Launch => "launching its process",
            Self::Record => "recording its identity",
            Self::Gate => "opening its gate",
            Self::Handshake => "the handshake",
            Self::Import => "importing its adapters",
        })
    }
}

/// A worker did not become ready; nothing of it is left.
#[derive(Debug, thiserror::Error)]
#[error("{worker} failed while {phase}{}", describe(.outcome, .stderr_tail))]
pub struct StartError {
    /// The worker that was to be.
    pub worker: WorkerId,
    /// Its pid, if it got that far.
    pub pid: Option<u32>,
    /// The step that failed.
    pub phase: StartPhase,
    /// Why.
    #[source]
    pub kind: StartErrorKind,
    /// How its process ended, where it ended by itself.
    pub outcome: Option<ExitOutcome>,
    /// The last bytes of its standard error, decoded lossily.
    pub stderr_tail: String,
}

impl StartError {
    /// Whether trying again without a change cannot help: the program cannot be executed, an adapter fails, the
    /// protocol does not fit, a setting is not supported, or the backend cannot work here.
    pub const fn is_definite(&self) -> bool {
        match &self.kind {
            StartErrorKind::Launch(error) => error.is_definite(),
            StartErrorKind::ProtocolVersion { .. } | StartErrorKind::Adapter(_) => true,
            StartErrorKind::Ledger(_)
            | StartErrorKind::Exited
            | StartErrorKind::Channel(_)
            | StartErrorKind::Deadline(_)
            | StartErrorKind::Protocol(_) => false,
        }
    }
}

impl StartError {
    /// Whether the process of either start ended by itself, at the same step and in the same way.
    pub(crate) fn ended_like(&self, other: &Self) -> bool {
        let ended = |error: &Self| matches!(error.kind, StartErrorKind::Exited) && error.outcome.is_some();
        ended(self) && ended(other) && (self.phase, self.outcome) == (other.phase, other.outcome)
    }

    /// The traceback of the adapter that failed, as Python prints it.
    pub fn traceback(&self) -> Option<String> {
        match &self.kind {
            StartErrorKind::Adapter(error) => Some(error.traceback()),
            StartErrorKind::Launch(_)
            | StartErrorKind::Ledger(_)
            | StartErrorKind::Exited
            | StartErrorKind::Channel(_)
            | StartErrorKind::Deadline(_)
            | StartErrorKind::ProtocolVersion { .. }
            | StartErrorKind::Protocol(_) => None,
        }
    }
}

fn describe(outcome: &Option<ExitOutcome>, stderr_tail: &str) -> String {
    let outcome = outcome
        .map(|outcome| format!("; its process {outcome}"))
        .unwrap_or_default();
    let said = last_words(stderr_tail)
        .map(|words| format!("; it said last: {words}"))
        .unwrap_or_default();
    outcome + &said
}

/// What went wrong in a start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartErrorKind {
    /// The launcher failed.
    #[error("the launch failed")]
    Launch(#[from] LaunchError),
    /// The ledger refused or failed.
    #[error("the ledger refused")]
    Ledger(#[from] LedgerError),
    /// The process ended before it was ready.
    #[error("the process ended before it was ready")]
    Exited,
    /// The channel failed.
    #[error("the channel failed: {0}")]
    Channel(String),
    /// The start deadline passed.
    #[error(
        "not ready within the start deadline of {0:?}; what takes longer to import needs a longer `start_deadline`"
    )]
    Deadline(Duration),
    /// Host and worker share no protocol version.
    #[error("no common protocol version: the host speaks {}, the worker {}", list(.ours), list(.theirs))]
    ProtocolVersion {
        /// What this host speaks.
        ours: Vec<u32>,
        /// What the worker speaks.
        theirs: Vec<u32>,
    },
    /// An adapter failed to import or to start.
    #[error("an adapter failed")]
    Adapter(#[source] Box<RemoteError>),
    /// The peer answered something that makes no sense at this point.
    #[error("the worker answered {0}")]
    Protocol(String),
}

fn list(versions: &[u32]) -> String {
    let versions: Vec<_> = versions.iter().map(u32::to_string).collect();
    versions.join(", ")
}
