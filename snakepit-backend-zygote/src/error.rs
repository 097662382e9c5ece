//! What keeps the template from being there.

use std::{io, sync::Arc, time::Duration};

use rustix::process::Signal;
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
    #[error("the template {outcome} before it had imported everything{}", said(.stderr_tail))]
    Exited {
        /// How.
        outcome: ExitOutcome,
        /// The last it wrote to standard error.
        stderr_tail: String,
    },
    /// It takes too long.
    #[error("the template has not imported everything within {limit:?}{}", said(.stderr_tail))]
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

fn said(stderr_tail: &str) -> String {
    match stderr_tail.trim_end() {
        "" => String::new(),
        said => format!("; it said: {said}"),
    }
}

/// Whether something outside of the template may have ended it.
fn may_be_passing(outcome: ExitOutcome) -> bool {
    match outcome {
        ExitOutcome::Exited(_) => false,
        ExitOutcome::Signaled { signal, .. } => {
            let crashes = [Signal::SEGV, Signal::BUS, Signal::ILL, Signal::FPE, Signal::ABORT];
            crashes.iter().all(|crash| crash.as_raw() != signal)
        }
        _ => true,
    }
}

/// As an error of a launch. What starting it again may cure counts as passing.
pub(crate) fn launch_error(error: Arc<TemplateError>) -> LaunchError {
    let passing = match &*error {
        TemplateError::Launch(error) => !error.is_definite(),
        TemplateError::Import(_)
        | TemplateError::Unnested(_)
        | TemplateError::Threads { .. }
        | TemplateError::Unspeakable(_) => false,
        TemplateError::Exited { outcome, .. } => may_be_passing(*outcome),
        TemplateError::Ledger(_) | TemplateError::Deadline { .. } | TemplateError::Socket(_) => true,
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
