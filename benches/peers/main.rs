//! Snakepit side by side with other ways to call Python from another process, in one run.
//!
//! `cargo bench --bench peers` makes its own Python environment, starts every system, visits them all in each
//! round, and prints tables of medians and of ratios per round. Nothing here asserts a time: the list of
//! targets says what was reached and what was not.

mod calls;
mod client;
mod dispatch;
mod document;
mod idle;
mod interpreter;
mod load;
mod machine;
mod options;
mod peer;
mod proc;
mod ready;
mod record;
mod recovery;
mod report;
mod stats;
mod systems;
mod table;
mod targets;

use std::{path::Path, process::ExitCode};

use tokio::signal::unix::{SignalKind, signal};

use crate::{interpreter::Interpreter, machine::Machine, options::Options, record::Record};

/// Whatever went wrong; the benchmark ends with it.
type Error = Box<dyn std::error::Error + Send + Sync>;
/// The outcome of anything here.
type Result<T, E = Error> = std::result::Result<T, E>;

/// The runtime is the flavour that services use. Leaving `main` drops every guard of a started process, also
/// after an error and after Ctrl-C.
#[tokio::main]
async fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{}", options::USAGE);
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}\n{}", options::USAGE);
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
    let machine = Machine::describe(&python).await?;
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
    println!("{}", document::facts(&machine, options));
    for table in &tables {
        print!("{table}");
    }
    if let Some(path) = &options.json {
        let all = serde_json::json!({"machine": machine, "values": record, "targets": targets});
        std::fs::write(path, format!("{all:#}\n"))?;
    }
    if options.write {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/benchmarks.md");
        std::fs::write(path, document::render(&machine, options, &tables))?;
    }
    Ok(())
}

/// Resolves at Ctrl-C or SIGTERM.
async fn interrupted() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        outcome = tokio::signal::ctrl_c() => outcome?,
        _ = terminate.recv() => {}
    }
    Err("interrupted".into())
}
