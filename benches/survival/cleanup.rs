//! Ending what dead hosts have left.

use std::{path::Path, process::Command, time::Duration};

use snakepit_registry::cleanup::{self, CleanupOptions};
use tokio::{runtime::Handle, time::Instant};

use crate::{
    Result,
    crowd::Crowd,
    host::Plan,
    ledger::{APP, state_dir},
    options::Options,
    record::Record,
    role::Role,
    systems::System,
    work::Work,
};

/// Workers of each dead host, every one with a process of its own.
const WORKERS: usize = 100;

/// Who cleans up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// `snakepit cleanup`.
    Command,
    /// The library, in a process that runs already.
    Library,
}

impl By {
    /// Cleans up a state directory; how long that took.
    fn clean(self, state: &Path) -> Result<Duration> {
        let began = Instant::now();
        match self {
            Self::Command => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_snakepit"));
                command.args(["cleanup", "--app", APP, "--state-dir"]).arg(state);
                let output = command.output()?;
                if !output.status.success() {
                    let text = String::from_utf8_lossy(&output.stderr);
                    return Err(format!("snakepit cleanup: {}: {text}", output.status).into());
                }
            }
            Self::Library => {
                let report = Handle::current().block_on(cleanup::run(&CleanupOptions::new(state, APP)))?;
                if !report.is_clean() {
                    return Err(format!("the cleanup has left something: {report:?}").into());
                }
            }
        }
        Ok(began.elapsed())
    }
}

/// The record's name of the time, in milliseconds, with 100 trees to end or with nothing to do.
pub(crate) fn key(by: By, orphans: bool) -> String {
    format!(
        "cleanup/{by:?}/{}/ms",
        if orphans { "100 trees" } else { "nothing" }
    )
}

/// Runs the rounds, each beginning with the other.
pub(crate) fn measure(options: &Options, record: &mut Record) -> Result<()> {
    let mut both = [By::Command, By::Library];
    for round in 0..options.rounds {
        eprintln!("cleanup: round {} of {}", round + 1, options.rounds);
        for by in both {
            let state = state_dir()?;
            let mut plan = Plan::new(System::Port, Work::Sleepers, WORKERS);
            plan.state = Some(state.path().to_owned());
            let mut host = Role::host(&plan)?;
            host.ready()?;
            Crowd::gather("the host", |crowd| crowd.named("sleep") == 2 * WORKERS)?;
            host.kill()?;
            let orphans = Crowd::gather("what it has left", |crowd| crowd.len() == 2 * WORKERS)?;
            record.push(key(by, true), by.clean(state.path())?.as_secs_f64() * 1e3);
            if orphans.gone(Instant::now(), Duration::ZERO).is_none() {
                return Err("the cleanup says that all is clean, and something lives".into());
            }
            record.push(key(by, false), by.clean(state.path())?.as_secs_f64() * 1e3);
        }
        both.rotate_left(1);
    }
    Ok(())
}
