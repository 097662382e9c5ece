//! What survives a killed host and a killed guardian, and what it costs that nothing does.
//!
//! `cargo bench --bench survival` starts hosts in processes of their own (copies of this program), kills them or asks
//! them to stop, and waits for the last of their processes, beside what the kernel itself needs for as many. Nothing
//! here asserts a time: the list of targets says what was reached and what was not.

mod cleanup;
#[path = "../common/mod.rs"]
mod common;
mod crowd;
mod host;
mod idle;
mod kill;
mod ledger;
mod left;
mod method;
mod namespaces;
mod peers;
mod report;
mod role;
mod shutdown;
mod size;
mod spawn;
mod sys;
mod systems;
mod targets;
mod work;

use std::process::ExitCode;

use crate::{
    common::{
        Result, document, interrupted,
        machine::Machine,
        options::{self, Bench, Options},
        proc,
        record::{self, Record},
        spread, table, target,
    },
    crowd::Crowd,
    host::Plan,
    role::Role,
    systems::System,
    work::Work,
};

/// This benchmark, for its command line.
const BENCH: Bench = Bench {
    name: "survival",
    sections: &["kill", "spawn", "size", "ledger", "cleanup", "shutdown", "left"],
    rounds: (7, 2),
    cargo: "",
};

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let outcome = match args.next().as_deref() {
        Some(role::MARK) => play(&args.next().unwrap_or_default(), &args.next().unwrap_or_default()),
        _ => match Options::parse(BENCH, std::env::args().skip(1)) {
            Ok(Some(options)) => runtime().and_then(|runtime| runtime.block_on(supervise(options))),
            Ok(None) => {
                println!("{}", BENCH.usage());
                return ExitCode::SUCCESS;
            }
            Err(error) => {
                eprintln!("{error}\n{}", BENCH.usage());
                return ExitCode::from(2);
            }
        },
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = error.to_string();
            let mut cause = error.source();
            while let Some(source) = cause {
                text = format!("{text}: {source}");
                cause = source.source();
            }
            eprintln!("the benchmark failed: {text}");
            ExitCode::FAILURE
        }
    }
}

/// The flavour that services use.
fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Runtime::new()?)
}

/// Another role than measuring. The namespaces are made by a process that has no second thread.
fn play(role: &str, argument: &str) -> Result<()> {
    match role {
        "namespaces" => namespaces::run(argument.parse()?),
        "host" => runtime()?.block_on(host::run(serde_json::from_str(argument)?)),
        "spawn" => runtime()?.block_on(spawn::run(serde_json::from_str(argument)?)),
        other => Err(format!("there is no role {other}").into()),
    }
}

/// Measures on a thread of its own, so that Ctrl-C finds somebody who listens, and ends everything whatever came.
async fn supervise(options: Options) -> Result<()> {
    Crowd::adopt()?;
    let outcome = tokio::select! {
        outcome = tokio::task::spawn_blocking(move || run(&options)) => outcome?,
        outcome = interrupted() => outcome,
    };
    crowd::leave_nothing()?;
    if let Err(error) = outcome {
        // Not by returning: that would wait for the thread that measures.
        eprintln!("the benchmark failed: {error}");
        std::process::exit(1);
    }
    Ok(())
}

fn run(options: &Options) -> Result<()> {
    let python = host::python()?;
    let machine = Machine::describe(format!("CPython {}", python.interpreter().version()))?;
    let available = available()?;
    let mut record = Record::default();
    if options.wants("kill") {
        kill::measure(&available, options, &mut record)?;
    }
    if options.wants("spawn") {
        spawn::measure(&available, options, &mut record)?;
    }
    if options.wants("size") {
        size::measure(&available, &mut record)?;
    }
    if options.wants("ledger") {
        ledger::measure(options, &mut record)?;
    }
    if options.wants("cleanup") {
        cleanup::measure(options, &mut record)?;
    }
    if options.wants("shutdown") {
        shutdown::measure(&available, options, &mut record)?;
    }
    let left = if options.wants("left") {
        left::measure(&available, options, &mut record)?
    } else {
        Vec::new()
    };
    let targets = targets::list(&record);
    let tables = report::tables(&record, &targets, &left);
    document::finish(method::SECTION, &machine, options, &record, &targets, tables)
}

/// The systems that work on this machine; the others say why they do not.
fn available() -> Result<Vec<System>> {
    let mut available = Vec::new();
    for system in System::ALL {
        let mut host = Role::host(&Plan::new(system, Work::Obedient, 1))?;
        match host.ready() {
            Ok(_) => available.push(system),
            Err(error) => eprintln!("left out, as it does not work here: {system}: {error}"),
        }
    }
    Ok(available)
}
