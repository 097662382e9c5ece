//! The contract of `launch`, and what this backend promises beyond it.

use std::{process::ExitCode, sync::Arc};

use snakepit_backend_port::PortLauncher;
use snakepit_core::{
    conformance::{self, Candidate},
    launch::Launcher,
};

fn main() -> ExitCode {
    let port = Candidate::new("port", async || {
        Ok(Arc::new(PortLauncher::new()) as Arc<dyn Launcher>)
    });
    conformance::main(&[port])
}
