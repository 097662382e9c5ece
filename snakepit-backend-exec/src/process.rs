//! The handle on a worker.

use std::{
    io,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use snakepit_core::{
    launch::{LaunchError, LaunchedProcess, ProcessIo},
    process::{Containment, EndReport, ExitOutcome, ProcessIdentity},
};

use crate::proc::Proc;

/// A worker process below a guardian.
#[derive(Debug)]
pub struct ExecProcess {
    proc: Proc,
    io: Mutex<ProcessIo>,
}

impl ExecProcess {
    pub(crate) fn new(proc: Proc, io: ProcessIo) -> Self {
        Self {
            proc,
            io: Mutex::new(io),
        }
    }
}

#[async_trait]
impl LaunchedProcess for ExecProcess {
    fn identity(&self) -> &ProcessIdentity {
        self.proc.identity()
    }

    fn containment(&self) -> Containment {
        self.proc.containment().clone()
    }

    fn take_io(&self) -> ProcessIo {
        std::mem::take(&mut *self.io.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has the program executed; the process has done nothing of its own before.
    async fn open_gate(&self) -> Result<(), LaunchError> {
        self.proc.open_gate().await
    }

    async fn exited(&self) -> ExitOutcome {
        self.proc.exited().await
    }

    fn try_exited(&self) -> Option<ExitOutcome> {
        self.proc.try_exited()
    }

    fn signal(&self, signal: i32) -> io::Result<()> {
        self.proc.signal(signal)
    }

    async fn end(&self, grace: Duration) -> EndReport {
        self.proc.end(grace).await
    }
}
