//! What the command takes.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use snakepit::{PythonEnv, python_env::Step};

use super::{failure::Failure, progress::Progress};

/// Python in supervised worker processes.
///
/// Results are printed on standard output, everything else on standard error. Exit code 0: all went well;
/// 1: the call or the operation failed; 2: wrong usage.
#[derive(Debug, Parser)]
#[command(name = "snakepit", version, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Doctor(DoctorArgs),
}

/// Show what this machine offers and what is missing, each with the remedy.
///
/// It tries things rather than guessing them from version numbers, and leaves everything as it was. Exit code 0
/// when a pool can run here, 1 when not.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Print the findings as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) python: PythonArgs,
}

/// Which Python the workers run on.
#[derive(Clone, Debug, Args)]
pub(crate) struct PythonArgs {
    /// Interpreter to use: a path, the directory of a virtual environment, or a name in PATH [default:
    /// $SNAKEPIT_PYTHON, the active virtual environment, then python3 in PATH].
    #[arg(long, value_name = "PATH")]
    pub(crate) python: Option<PathBuf>,
    /// Make this package importable (as pip takes it: numpy, 'pandas>=2'); it is installed into a virtual
    /// environment that later runs use again. May be repeated.
    #[arg(long, value_name = "PKG")]
    pub(crate) with: Vec<String>,
}

impl PythonArgs {
    /// Finds or makes the environment. Blocks.
    pub(crate) fn environment(&self) -> Result<PythonEnv, Failure> {
        let progress = Progress::start();
        let tell = progress.teller();
        let mut builder = PythonEnv::builder()
            .with_packages(&self.with)
            .on_step(move |step: &Step| tell(step.to_string()));
        if let Some(python) = &self.python {
            builder = builder.interpreter(python);
        }
        Ok(builder.build()?)
    }
}
