//! Snakepit side by side with other ways to call Python from another process, in one run.
//!
//! `cargo bench --bench peers` makes its own Python environment, starts every system, visits them all in each
//! round, and prints tables of medians and of ratios per round. Nothing here asserts a time: the list of
//! targets says what was reached and what was not.

mod calls;
mod client;
#[path = "../common/mod.rs"]
mod common;
mod dispatch;
mod idle;
mod interpreter;
mod load;
mod method;
mod peer;
mod ready;
mod recovery;
mod report;
mod stats;
mod systems;
mod targets;

use std::process::ExitCode;

use crate::{
    common::{
        Error, Result, document, interrupted,
        machine::Machine,
        options::{self, Bench, Options},
        proc,
        record::{self, Record},
        spread, table, target,
    },
    interpreter::Interpreter,
};

/// This benchmark, for its command line.
const BENCH: Bench = Bench {
    name: "peers",
    sections: &["calls", "ready", "recovery", "idle", "dispatch"],
    rounds: (11, 3),
    cargo: "",
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
    let machine = Machine::describe(python.describe().await?)?;
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
    let tables = report::tables(&record, &targets);
    document::finish(method::SECTION, &machine, options, &record, &targets, tables)
}
