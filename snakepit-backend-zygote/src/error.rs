//! What keeps the template from being there.

use std::{io, sync::Arc, time::Duration};

use snakepit_core::{launch::LaunchError, ledger::LedgerError, process::ExitOutcome};

/// The name users choose this backend by.
pub(crate) const NAME: &str = "zygote";

/// Why there is no template.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// Its process could not be started.
    #[error("the template could not be started")]
    Launch(#[source] LaunchError),
    /// It could not be recorded.
    #[error("the template could not be recorded")]
    Ledger(#[source] LedgerError),
    /// A module could not be imported.
    #[error("the template cannot import what it is to have: {0}")]
    Import(String),
    /// Workers cannot have PID namespaces of their own.
    #[error(
        "workers cannot have PID namespaces of their own, which takes root or user namespaces ({0}): let them share those of \
         the template"
    )]
    Unnested(String),
    /// Its process ended while it was importing.
    #[error("the template {outcome} before it had imported everything; it said: {stderr_tail}")]
    Exited {
        /// How.
        outcome: ExitOutcome,
        /// The last it wrote to standard error.
        stderr_tail: String,
    },
    /// It takes too long.
    #[error("the template has not imported everything within {limit:?}; it said: {stderr_tail}")]
    Deadline {
        /// The limit.
        limit: Duration,
        /// The last it wrote to standard error.
        stderr_tail: String,
    },
    /// The socket to it failed.
    #[error("the template cannot be talked to")]
    Socket(#[source] io::Error),
    /// A setting has a NUL byte.
    #[error("the template cannot be told of `{0}`, which has a NUL byte")]
    Unspeakable(String),
    /// Threads run in it.
    #[error(
        "the template has imported something that runs threads ({threads}), and a fork would leave them behind in the middle \
         of what they do: import it in the workers, or name native threads that do no harm as safe"
    )]
    Threads {
        /// Their names.
        threads: String,
    },
}

/// As an error of a launch. What starting it again may cure counts as passing.
pub(crate) fn launch_error(error: Arc<TemplateError>) -> LaunchError {
    let passing = match &*error {
        TemplateError::Launch(error) => !error.is_definite(),
        TemplateError::Import(_)
        | TemplateError::Unnested(_)
        | TemplateError::Threads { .. }
        | TemplateError::Unspeakable(_) => false,
        TemplateError::Ledger(_)
        | TemplateError::Exited { .. }
        | TemplateError::Deadline { .. }
        | TemplateError::Socket(_) => true,
    };
    if passing {
        LaunchError::Os {
            step: "start the template",
            source: io::Error::other(error),
        }
    } else {
        LaunchError::Backend {
            launcher: NAME.to_owned(),
            source: Box::new(error),
        }
    }
}
