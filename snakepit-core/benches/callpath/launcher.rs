//! Starts this program as its own worker, by nothing but what a program under an instruction counter may call.

use std::{io, process::Stdio, sync::Arc, time::Duration};

use async_trait::async_trait;
use snakepit_core::{
    launch::{LaunchError, LaunchSpec, LaunchedProcess, Launcher, ProcessIo},
    process::{EndReport, EndStep, ExitOutcome, ProcessIdentity},
};
use tokio::{
    process::{Child, Command},
    sync::{Mutex, watch},
};

#[derive(Debug)]
pub(crate) struct Direct;

#[async_trait]
impl Launcher for Direct {
    fn name(&self) -> &str {
        "direct"
    }

    async fn launch(&self, spec: &LaunchSpec) -> Result<Arc<dyn LaunchedProcess>, LaunchError> {
        let child = Command::new(&spec.program)
            .args(&spec.args)
            .env("SNAKEPIT_CHANNEL", spec.channel.to_string())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| LaunchError::Exec {
                program: spec.program.clone(),
                source,
            })?;
        let pid = child.id().unwrap_or_default();
        Ok(Arc::new(Process {
            identity: ProcessIdentity {
                pid,
                pgid: pid,
                start_ticks: 0,
                handle: None,
                boot_id: String::new(),
                pid_namespace: 0,
            },
            child: Mutex::new(child),
            exit: watch::Sender::new(None),
        }))
    }
}

/// A worker that starts nothing and ends when it is killed.
#[derive(Debug)]
struct Process {
    identity: ProcessIdentity,
    child: Mutex<Child>,
    exit: watch::Sender<Option<ExitOutcome>>,
}

#[async_trait]
impl LaunchedProcess for Process {
    fn identity(&self) -> &ProcessIdentity {
        &self.identity
    }

    fn take_io(&self) -> ProcessIo {
        ProcessIo::default()
    }

    async fn open_gate(&self) -> Result<(), LaunchError> {
        Ok(())
    }

    async fn exited(&self) -> ExitOutcome {
        let mut exit = self.exit.subscribe();
        let ended = exit.wait_for(Option::is_some).await;
        ended
            .ok()
            .and_then(|outcome| *outcome)
            .unwrap_or(ExitOutcome::Exited(0))
    }

    fn try_exited(&self) -> Option<ExitOutcome> {
        *self.exit.borrow()
    }

    fn signal(&self, _: i32) -> io::Result<()> {
        Ok(())
    }

    async fn end(&self, _: Duration) -> EndReport {
        // It may have ended by itself.
        let _ = self.child.lock().await.kill().await;
        let outcome = ExitOutcome::Signaled {
            signal: 9,
            core_dumped: false,
        };
        self.exit.send_replace(Some(outcome));
        EndReport {
            outcome,
            step: EndStep::Kill,
            took: Duration::ZERO,
            swept: 0,
            remaining: Vec::new(),
        }
    }
}
