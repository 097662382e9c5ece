//! Being told of ends.

use snakepit_core::process::{ExitOutcome, ProcessIdentity};
use tokio::sync::broadcast::{self, error::RecvError};

/// Ends that a monitor may be behind. Each is about a hundred bytes; more at once than a host usually runs programs.
const BEHIND: usize = 1024;

/// A program has ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Exit {
    /// Which.
    pub identity: ProcessIdentity,
    /// How.
    pub outcome: ExitOutcome,
}

/// Tells of ends; see [`Exec::monitor`](super::Exec::monitor).
#[derive(Debug)]
pub struct Monitor {
    exits: broadcast::Receiver<Exit>,
}

impl Monitor {
    /// The next end; `None` when there will be none any more. A monitor that is far behind has lost the oldest ones, and
    /// says so in the log.
    ///
    /// # Cancel safety
    /// Safe; nothing is lost.
    pub async fn next(&mut self) -> Option<Exit> {
        loop {
            match self.exits.recv().await {
                Ok(exit) => return Some(exit),
                Err(RecvError::Lagged(lost)) => tracing::warn!(lost, "a monitor is too far behind"),
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

/// Where ends are told.
#[derive(Clone, Debug)]
pub(crate) struct Exits {
    exits: broadcast::Sender<Exit>,
}

impl Exits {
    pub(super) fn new() -> Self {
        Self {
            exits: broadcast::Sender::new(BEHIND),
        }
    }

    pub(super) fn monitor(&self) -> Monitor {
        Monitor {
            exits: self.exits.subscribe(),
        }
    }

    pub(super) fn tell(&self, exit: Exit) {
        // Nobody may be listening.
        let _ = self.exits.send(exit);
    }
}
