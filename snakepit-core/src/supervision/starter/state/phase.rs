//! Where a starter stands.

use tokio::time::Instant;

use super::Exit;

/// What follows once the worker has ended, or the start is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Restart,
    Rest,
    Replace,
    Terminate,
}

/// What the slot is busy with, but for a worker that was replaced and is leaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::supervision::starter) enum Phase {
    New,
    Starting,
    /// There is a worker. Since when there has been one all along: replaced by plan or not, it is the slot that holds.
    Serving {
        since: Instant,
    },
    /// Serving, and the next worker is being started beside it.
    Replacing {
        since: Instant,
    },
    EndingResources(AfterEnd),
    EndingWorker(AfterEnd),
    Pausing {
        until: Instant,
    },
    Idle,
    Cancelling(AfterEnd),
    /// All that is left is the worker that was replaced.
    Finishing(Exit),
    Ended,
}

/// Private to the rules; public in name only because [`Phase`] carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::supervision::starter) struct AfterEnd(pub(super) Next);

impl AfterEnd {
    /// Whether the starter itself ends afterwards.
    pub(in crate::supervision::starter) fn is_final(self) -> bool {
        self.0 == Next::Terminate
    }
}

/// What a worker that was replaced is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::supervision::starter) enum Leaving {
    /// Finishing its calls, until this time where there is one.
    Draining { until: Option<Instant> },
    /// Its resources are being ended.
    EndingResources,
    /// It is being ended.
    EndingWorker,
}
