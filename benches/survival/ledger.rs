//! What a durable ledger costs.

use std::{path::PathBuf, sync::Arc};

use snakepit_registry::{Policy, Registry, Settings};

use crate::{Result, host::Plan, options::Options, record::Record, role::Role, systems::System, work::Work};

/// Workers of each host.
const WORKERS: usize = 100;

/// Backends that hold a worker before its program runs, and that do not.
pub(crate) const SYSTEMS: [System; 2] = [System::Namespace, System::Port];

/// The record's name of the number of flushes until all workers are ready.
pub(crate) fn flushes(system: System) -> String {
    format!("ledger/{system}/flushes")
}

/// The record's name of the time until all workers are ready, in milliseconds.
pub(crate) fn key(system: System, durable: bool) -> String {
    format!(
        "ledger/{system}/{}/ms",
        if durable { "durable" } else { "memory" }
    )
}

/// The application that all hosts here are.
pub(crate) const APP: &str = "survival";

/// Opens a durable one that has to record.
pub(crate) async fn open(state: PathBuf) -> Result<Arc<Registry>> {
    let settings = Settings::new()
        .with_app(APP)
        .with_state_dir(state)
        .with_policy(Policy::Required);
    Ok(tokio::task::spawn_blocking(move || Registry::open(&settings)).await??)
}

/// A directory on a disk, which the directory for temporary files need not be on.
pub(crate) fn state_dir() -> Result<tempfile::TempDir> {
    Ok(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?)
}

/// Runs the rounds, each beginning with the other.
pub(crate) fn measure(options: &Options, record: &mut Record) -> Result<()> {
    for round in 0..options.rounds {
        eprintln!("ledger: round {} of {}", round + 1, options.rounds);
        for system in SYSTEMS {
            for durable in [round % 2 == 0, round % 2 != 0] {
                let state = state_dir()?;
                let mut plan = Plan::new(system, Work::BarePython, WORKERS);
                plan.state = durable.then(|| state.path().to_owned());
                let ready = Role::host(&plan)?.ready()?;
                record.push(key(system, durable), ready.ms);
                if durable {
                    record.push(flushes(system), ready.flushes);
                }
            }
        }
    }
    Ok(())
}
