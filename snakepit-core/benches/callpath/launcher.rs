//! Starts this program as its own worker, by nothing but what a program under an instruction counter may call.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::{Arc, Mutex as StdMutex, PoisonError},
    time::Duration,
};

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
        let channel = |source| LaunchError::Os {
            step: "create the channel",
            source,
        };
        let (ours, theirs) = UnixStream::pair().map_err(channel)?;
        let child = Command::new(&spec.program)
            .args(&spec.args)
            .env("SNAKEPIT_CHANNEL", spec.channel.to_string())
            .stdin(OwnedFd::from(theirs))
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
            channel: StdMutex::new(Some(ours)),
            child: Mutex::new(child),
            exit: watch::Sender::new(None),
        }))
    }
}

/// A worker that starts nothing and ends when it is killed.
#[derive(Debug)]
struct Process {
    identity: ProcessIdentity,
    channel: StdMutex<Option<UnixStream>>,
    child: Mutex<Child>,
    exit: watch::Sender<Option<ExitOutcome>>,
}

#[async_trait]
impl LaunchedProcess for Process {
    fn identity(&self) -> &ProcessIdentity {
        &self.identity
    }

    fn take_io(&self) -> ProcessIo {
        ProcessIo {
            channel: self.channel.lock().unwrap_or_else(PoisonError::into_inner).take(),
            ..ProcessIo::default()
        }
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
