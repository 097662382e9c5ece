//! Where a pool's workers are recorded.

#[cfg(feature = "registry")]
mod registered;

use std::{ffi::OsString, sync::Arc};

use snakepit_core::ledger::Ledger;

/// The ledger of a pool. Clones share it.
#[derive(Clone, Debug)]
pub(crate) enum Record {
    /// One that knows nothing of other hosts.
    Own(Arc<dyn Ledger>),
    /// A share in the registry of this program.
    #[cfg(feature = "registry")]
    Registered(Arc<registered::Registered>),
}

impl Record {
    pub(crate) fn own(ledger: Arc<dyn Ledger>) -> Self {
        Self::Own(ledger)
    }

    pub(crate) fn ledger(&self) -> Arc<dyn Ledger> {
        match self {
            Self::Own(ledger) => Arc::clone(ledger),
            #[cfg(feature = "registry")]
            Self::Registered(registered) => Arc::<registered::Registered>::clone(registered),
        }
    }

    /// What the workers carry in their environment, so that they can be told to belong to the application.
    pub(crate) fn env(&self) -> Option<(OsString, OsString)> {
        match self {
            Self::Own(_) => None,
            #[cfg(feature = "registry")]
            Self::Registered(registered) => {
                Some((snakepit_core::launch::env::APP.into(), registered.tag().into()))
            }
        }
    }

    /// What can be done beside the start of the workers.
    pub(crate) async fn look_around(&self) {
        match self {
            Self::Own(_) => {}
            #[cfg(feature = "registry")]
            Self::Registered(registered) => registered.look_around().await,
        }
    }

    /// Nothing more will be recorded.
    pub(crate) async fn close(&self) {
        match self {
            Self::Own(_) => {}
            #[cfg(feature = "registry")]
            Self::Registered(registered) => registered.close().await,
        }
    }
}
