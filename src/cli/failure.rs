//! How a command fails: what is told, and the exit code.

use std::{error::Error, io, process::ExitCode};

use snakepit::{CallError, PoolError, core::pool::PoolStartError, python_env::PythonEnvError};

use super::output;

/// Why a command could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// It was asked for something that cannot be. Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// There is no Python to work with.
    #[error(transparent)]
    Python(#[from] PythonEnvError),
    /// The pool did not start.
    #[error(transparent)]
    Start(#[from] PoolError),
    /// A call failed.
    #[error(transparent)]
    Call(Box<CallError>),
    /// Standard output takes nothing more.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
    /// The operation failed.
    #[error("{0}")]
    Failed(String),
    /// The operation failed, and all has been told.
    #[error("failed")]
    Told,
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self::Call(Box::new(error))
    }
}

impl Failure {
    /// Tells the failure on standard error and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        match self {
            // Whoever read our output has seen enough, as `head` has. There is nobody to tell.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
            Self::Told => {}
            _ => output::tell(format_args!("error: {}", chain(self))),
        }
        if let Self::Start(error) = self {
            tell_traceback(error);
        }
        ExitCode::from(match self {
            Self::Usage(_) => 2,
            // What is wrong with an option's value is wrong usage.
            Self::Python(PythonEnvError::BadPackage { .. }) => 2,
            Self::Start(PoolError::Backend(_) | PoolError::Pool(PoolStartError::Settings(_))) => 2,
            _ => 1,
        })
    }
}

/// An error and its causes on one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    snakepit::core::rpc::error_chain(error)
}

/// Shows Python's own words when an adapter failed to import: the line that has to be mended is in them.
pub(crate) fn tell_traceback(error: &(dyn Error + 'static)) {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(snakepit::StartErrorKind::Adapter(remote)) = error.downcast_ref() {
            output::tell(remote.traceback().trim_end());
        }
        cause = error.source();
    }
}
