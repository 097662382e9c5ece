//! A starter owns ONE worker slot: its worker, one after the other, and the slot's resources.

mod actor;
mod keeper;
mod launch;
mod leaving;
mod replacement;
mod shared;
mod slot_starter;
mod state;
mod wreck;

use std::{fmt, sync::Arc};

use async_trait::async_trait;

pub use replacement::{Departure, ReplaceError, Replaced, Replacement};
pub(super) use slot_starter::Config;
pub use slot_starter::{SlotStarter, SlotStarterFactory};

use super::{RestartIntensity, Shutdown, status::SlotStatus};
use crate::id::SlotId;

/// The permanent wrapper around one worker slot. When it has ended, everything in the slot has ended.
#[async_trait]
pub trait Starter: Send + Sync + fmt::Debug {
    /// Its slot.
    fn slot(&self) -> SlotId;

    /// What the slot does right now.
    fn status(&self) -> SlotStatus;

    /// Resolves when the starter has ended and nothing of its slot is left. Repeated and concurrent waits
    /// agree.
    ///
    /// # Cancel safety
    /// Safe; nothing is lost.
    async fn terminated(&self) -> StarterExit;

    /// Ends the slot: resources, then worker, then its process tree; returns when nothing is left. A start, a
    /// pause or an ending under way does not delay it. Repeated calls agree; the shorter times win.
    ///
    /// # Cancel safety
    /// The ending goes on when the future is dropped.
    async fn terminate(&self, shutdown: Shutdown) -> StarterExit;

    /// Starts another worker and has it serve in place of the one that does, which finishes its calls and is ended then.
    /// Returns when the new one serves. When it does not become ready nothing has changed.
    ///
    /// A slot whose worker is being started gives that start up for the one asked for; one that waits to restart does not
    /// wait any longer. The default refuses.
    ///
    /// # Errors
    /// See [`ReplaceError`].
    ///
    /// # Cancel safety
    /// The replacement goes on when the future is dropped.
    async fn replace(&self, replacement: Replacement) -> Result<Replaced, ReplaceError> {
        drop(replacement);
        Err(ReplaceError::Unsupported(self.slot()))
    }
}

/// Makes the starters of slots. The supervisor calls it again when a starter ended by itself.
pub trait StarterFactory: Send + Sync + fmt::Debug {
    /// Starts a starter. Its worker comes up later and is announced by the starter itself, so that slots
    /// start side by side.
    fn start(&self, slot: SlotId) -> Arc<dyn Starter>;
}

/// How a starter ended. In each case nothing of its slot is left.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StarterExit {
    /// It was asked to. The only normal exit.
    Terminated,
    /// Its worker needed one restart more than its intensity allows.
    GaveUp {
        /// The intensity that was exceeded.
        intensity: RestartIntensity,
        /// Why the last worker was not ready or ended.
        cause: Arc<str>,
    },
    /// Its task panicked or was killed.
    Killed,
}

impl StarterExit {
    /// Whether the host asked for it.
    pub const fn is_normal(&self) -> bool {
        matches!(self, Self::Terminated)
    }
}

impl fmt::Display for StarterExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Terminated => f.write_str("terminated"),
            Self::GaveUp {
                intensity: RestartIntensity { restarts, period },
                cause,
            } => write!(f, "gave up after {restarts} restarts within {period:?}: {cause}"),
            Self::Killed => f.write_str("its task was killed"),
        }
    }
}
