//! How a command fails: what is told, and the exit code.

use std::{error::Error, io, process::ExitCode};

use snakepit::python_env::PythonEnvError;

/// Why a command could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// It was asked for something that cannot be. Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// There is no Python to work with.
    #[error(transparent)]
    Python(#[from] PythonEnvError),
    /// Standard output takes nothing more.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
    /// The operation failed. Exit code 1.
    #[error("{0}")]
    Failed(String),
}

impl Failure {
    /// Tells the failure on standard error and gives the exit code.
    pub(crate) fn report(self) -> ExitCode {
        match &self {
            // Whoever read our output has seen enough, as `head` has. There is nobody to tell.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
            _ => eprintln!("error: {}", chain(&self)),
        }
        ExitCode::from(match self {
            Self::Usage(_) => 2,
            // What is wrong with an option's value is wrong usage.
            Self::Python(PythonEnvError::BadPackage { .. }) => 2,
            Self::Python(_) | Self::Output(_) | Self::Failed(_) => 1,
        })
    }
}

/// An error and its causes on one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    snakepit_core::rpc::error_chain(error)
}
