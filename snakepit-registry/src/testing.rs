//! What the unit tests of this crate share.

use std::time::SystemTime;

use snakepit_core::{
    RunId, WorkerId,
    ledger::{Row, RowState},
    process::Containment,
};

/// A reserved row of this process's run.
pub(crate) fn row(worker: u64) -> Row {
    Row {
        run_id: RunId::current(),
        worker_id: WorkerId(worker),
        program: "python3".into(),
        launcher: "fake".into(),
        state: RowState::Reserved,
        endpoint: "fd:0".into(),
        identity: None,
        containment: Containment::default(),
        reserved_at: SystemTime::now(),
    }
}
