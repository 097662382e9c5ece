//! A backend of one's own, and the proof that it is one.
//!
//! [`launcher`] has a [`Launcher`] whose workers are direct children with a niceness. What every backend owes its workers
//! (seeing the exit, reaping, ending the tree, killing it when dropped) it takes from `ChildProcess`, so that what is left is
//! what makes it special. This program runs it through the conformance suite and prints what it keeps and what it promises:
//!
//! ```text
//! cargo run --example custom_backend
//! cargo run --example custom_backend -- "the launcher honours"
//! ```
//!
//! With a pool it is used like any other: `snakepit::Pool::builder().launcher(Arc::new(NiceLauncher))`. The page
//! `docs/guide/write-a-backend.md` explains the contract.

mod launcher;

use std::{process::ExitCode, sync::Arc};

use launcher::NiceLauncher;
use snakepit::core::{
    conformance::{self, Candidate},
    launch::Launcher,
};

fn main() -> ExitCode {
    let nice = Candidate::new("nice", async || Ok(Arc::new(NiceLauncher) as Arc<dyn Launcher>));
    conformance::main(&[nice])
}
