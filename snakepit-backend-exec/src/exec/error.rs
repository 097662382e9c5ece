//! Why a program was not run, or did not succeed.

use std::{io, path::PathBuf};

use snakepit_core::{launch::LaunchError, process::IdentifyError};

use super::Output;
use crate::containment::ContainmentError;

/// Why a program could not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// It could not be launched.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// No user has this name.
    #[error("there is no user `{0}`")]
    NoSuchUser(String),
    /// No group has this name.
    #[error("there is no group `{0}`")]
    NoSuchGroup(String),
    /// Users or groups could not be looked up.
    #[error("cannot look up `{name}`")]
    LookUp {
        /// Who was looked for.
        name: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A file that a stream was routed to could not be opened.
    #[error("cannot open {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Standard error was routed to itself, or another stream to where only standard error can go.
    #[error("{0} cannot be routed so")]
    Route(&'static str),
}

/// Why a program's output is not that of a success.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// It did not run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// It ended with none of its success codes.
    #[error("{}", .0.outcome)]
    Unsuccessful(Output),
    /// Its output could not be read.
    #[error("cannot read the output")]
    Read(#[source] io::Error),
}

/// Why a process could not be adopted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManageError {
    /// Exactly this process does not run any more.
    #[error("the process has ended")]
    Gone,
    /// It could not be identified.
    #[error(transparent)]
    Identify(#[from] IdentifyError),
    /// There is no guardian.
    #[error(transparent)]
    Containment(#[from] ContainmentError),
    /// The guardian may not signal it.
    #[error("the process may not be signalled")]
    Signal(#[source] io::Error),
}
