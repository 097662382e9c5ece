//! The command line: what it takes, what it prints and how it exits.
//!
//! Results go to standard output, everything else to standard error. It exits with 0 when all went well, 1 when
//! the call or the operation failed, 2 when it was used wrongly.

mod args;
mod doctor;
mod failure;
mod json;
mod output;
mod progress;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Cli, Command};

/// Runs the command that the arguments name.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Doctor(args) => doctor::run(&args),
    };
    match done {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}
