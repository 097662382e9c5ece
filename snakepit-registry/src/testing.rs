//! What the unit tests of this crate share.

use snakepit_core::{RunId, WorkerId, ledger::Row};

/// A reserved row of this process's run.
pub(crate) fn row(worker: u64) -> Row {
    Row::reserved(RunId::current(), WorkerId(worker), "python3", "fake", "fd:0")
}
