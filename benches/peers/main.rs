//! Snakepit side by side with other ways to call Python from another process, in one run.
//!
//! `cargo bench --bench peers` makes its own Python environment, starts every system, visits them all in each
//! round, and prints tables of medians and of ratios per round. Nothing here asserts a time: the list of
//! targets says what was reached and what was not.
//!
//! The whole run takes about an hour and a half, and wants a machine that does nothing else; `--quick` takes some minutes
//! and shows that everything works.

mod calls;
mod client;
#[path = "../common/mod.rs"]
mod common;
mod dispatch;
mod idle;
mod interpreter;
mod kind;
mod load;
mod memory;
mod method;
mod packages;
mod peer;
mod plots;
mod ready;
mod recovery;
mod report;
mod stats;
mod systems;
mod targets;

use std::process::ExitCode;

use crate::{
    common::{
        Error, Result, block, document, interrupted,
        machine::Machine,
        options::{self, Bench, Options},
        plot, proc,
        record::{self, Record},
        spread, table, target,
    },
    interpreter::Interpreter,
};

/// This benchmark, for its command line.
const BENCH: Bench = Bench {
    name: "peers",
    sections: &["calls", "ready", "recovery", "idle", "dispatch"],
    rounds: (7, 2),
    cargo: "--all-features ",
};

/// The runtime is the flavour that services use. Leaving `main` drops every guard of a started process, also
/// after an error and after Ctrl-C.
#[tokio::main]
async fn main() -> ExitCode {
    let options = match Options::parse(BENCH, std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{}", BENCH.usage());
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}\n{}", BENCH.usage());
            return ExitCode::from(2);
        }
    };
    let outcome = tokio::select! {
        outcome = run(&options) => outcome,
        outcome = interrupted() => outcome,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the benchmark failed: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<()> {
    let python = Interpreter::prepare().await?;
    let machine = Machine::describe(python.versions.clone())?;
    let mut record = Record::default();
    if options.wants("calls") {
        calls::measure(&python, options, &mut record).await?;
    }
    if options.wants("ready") {
        ready::measure(&python, options, &mut record).await?;
    }
    if options.wants("recovery") {
        recovery::measure(&python, options, &mut record).await?;
    }
    if options.wants("idle") {
        idle::measure(&python, options, &mut record).await?;
    }
    if options.wants("dispatch") {
        dispatch::measure(options, &mut record).await?;
    }
    let targets = targets::list(&record);
    let blocks = report::blocks(&record, &targets);
    document::finish(method::SECTION, &machine, options, &record, &targets, blocks)
}
