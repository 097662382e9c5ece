//! The command line: what it takes, what it prints and how it exits.
//!
//! Results go to standard output, everything else to standard error. It exits with 0 when all went well, 1 when
//! the call or the operation failed, 2 when it was used wrongly.

mod args;
mod bench;
mod call;
#[cfg(feature = "registry")]
mod cleanup;
mod config;
mod demo;
mod doctor;
mod failure;
mod json;
mod logging;
mod output;
mod progress;
mod session;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Cli, Command};
use failure::Failure;

/// Runs the command that the arguments name.
pub(crate) fn main() -> ExitCode {
    let Cli { verbose, command } = Cli::parse();
    let done = match command {
        Command::Call(args) => call::run(&args, verbose),
        Command::Demo(args) => demo::run(&args, verbose),
        Command::Bench(args) => bench::run(&args, verbose),
        Command::Config(command) => config::run(&command),
        Command::Doctor(args) => doctor::run(&args, verbose),
        #[cfg(feature = "registry")]
        Command::Cleanup(args) => cleanup::run(&args, verbose),
    };
    let (code, interrupted) = match done {
        Ok(code) => (code, false),
        Err(failure) => (failure.report(), matches!(failure, Failure::Interrupted)),
    };
    session::until_told(interrupted);
    code
}
