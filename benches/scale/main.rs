//! How a pool of forked workers grows: 10, 100 and 1,000 of them.
//!
//! `cargo bench --bench scale` starts pools of the zygote backend with NumPy imported and says for each size how long until all
//! are ready, what memory a worker takes, what the host pays while nothing happens, and how long a call takes; and what a
//! queue of 100,000 calls costs.

#[path = "../common/mod.rs"]
mod common;
mod queue;
mod report;
mod sizes;

use std::process::ExitCode;

use rustix::process::{Resource, getrlimit, setrlimit};
use snakepit::PythonEnv;

use crate::common::{
    Result, document, interrupted,
    machine::Machine,
    options::{Bench, Options},
    record::Record,
};

/// This benchmark, for its command line.
const BENCH: Bench = Bench {
    name: "scale",
    sections: &["sizes", "queue"],
    rounds: (5, 1),
    cargo: "--all-features ",
};

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(queue::ROLE) {
        return finished(runtime().and_then(|runtime| runtime.block_on(queue_round())));
    }
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
    finished(runtime().and_then(|runtime| {
        runtime.block_on(async {
            tokio::select! {
                outcome = run(&options) => outcome,
                outcome = interrupted() => outcome,
            }
        })
    }))
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Runtime::new()?)
}

fn finished(outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!(
                "the benchmark failed: {}",
                snakepit::core::rpc::error_chain(&*error)
            );
            ExitCode::FAILURE
        }
    }
}

async fn python() -> Result<PythonEnv> {
    allow_descriptors()?;
    let python = tokio::task::spawn_blocking(|| PythonEnv::builder().with_packages(["numpy"]).build());
    Ok(python.await??)
}

async fn queue_round() -> Result<()> {
    let measured = queue::once(&python().await?).await?;
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}

async fn run(options: &Options) -> Result<()> {
    let python = python().await?;
    let machine = Machine::describe(format!("CPython {}", python.interpreter().version()))?;
    let mut record = Record::default();
    if options.wants("sizes") {
        sizes::measure(&python, options, &mut record).await?;
    }
    if options.wants("queue") {
        queue::measure(options, &mut record).await?;
    }
    document::finish(
        ("Many workers", report::METHOD),
        &machine,
        options,
        &record,
        &report::targets(&record),
        report::tables(&record),
    )
}

/// A worker takes seven descriptors of its host, and the usual limit is a thousand.
fn allow_descriptors() -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}
