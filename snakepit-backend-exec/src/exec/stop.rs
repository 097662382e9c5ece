//! Ending a program in its own way.

use std::{ffi::OsString, sync::Arc, time::Duration};

use snakepit_core::process::EndReport;

use super::{Command, error::RunError, route, running::Shared};
use crate::{containment::in_full, proc::Proc};

/// The variable that tells a stop command whom to stop.
const STOP_PID: &str = "SNAKEPIT_STOP_PID";

/// Runs the stop command beside the program, and then whatever force is needed.
pub(super) async fn stop(shared: &Arc<Shared>, argv: Vec<OsString>) -> EndReport {
    let grace = shared.command.grace;
    // A task, so that the stop goes on when nobody waits for it.
    let stopping = tokio::spawn({
        let shared = Arc::clone(shared);
        async move {
            match run(&shared, &argv).await {
                Ok(command) => {
                    let report = shared.proc.end_unasked(grace).await;
                    command.end(Duration::ZERO).await;
                    report
                }
                Err(error) => {
                    tracing::warn!(
                        pid = shared.proc.identity().pid,
                        error = in_full(&error),
                        "a stop command cannot be run; sending SIGTERM instead"
                    );
                    shared.proc.end(grace).await
                }
            }
        }
    });
    match stopping.await {
        Ok(report) => report,
        // It panicked, or its runtime is shutting down.
        Err(_) => shared.proc.end(grace).await,
    }
}

async fn run(shared: &Shared, argv: &[OsString]) -> Result<Proc, RunError> {
    let pid = shared.proc.identity().pid.to_string();
    let program = argv.first().cloned().unwrap_or_default();
    let command = Command::new(program).args(argv.iter().skip(1)).env(STOP_PID, pid);
    let (program, (standard, _)) = (command.resolve()?, route::open(&command.routes)?);
    let proc = shared.inner.outside().spawn(program, standard).await?;
    match proc.open_gate().await {
        Ok(()) => Ok(proc),
        Err(error) => {
            proc.end(Duration::ZERO).await;
            Err(error.into())
        }
    }
}
