//! The `snakepit` command: Python in supervised worker processes, from the shell.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
