//! The handle on a process.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use snakepit_core::{
    launch::{LaunchError, LaunchedProcess, ProcessIo},
    process::{EndReport, EndStep, ExitOutcome, Pidfd, ProcessIdentity, Tree, sweep::SweepTarget},
};
use tokio::{sync::watch, time::Instant};

use crate::{
    actor::{self, Ends},
    spawn::Spawned,
};

/// A grace so long that it never ends, for one that a clock cannot add.
const NEVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A worker process that is our direct child.
#[derive(Debug)]
pub struct PortProcess {
    identity: Arc<ProcessIdentity>,
    pidfd: Arc<Pidfd>,
    target: SweepTarget,
    io: Mutex<ProcessIo>,
    exit: watch::Receiver<Option<ExitOutcome>>,
    deadline: watch::Sender<Option<Instant>>,
    report: watch::Receiver<Option<EndReport>>,
}

impl PortProcess {
    /// Takes over a process that was just created, and starts the task that looks after it.
    pub(crate) fn new(spawned: Spawned) -> Self {
        let Spawned { child, io } = spawned;
        let (exit_sender, exit) = watch::channel(None);
        let (deadline, deadline_receiver) = watch::channel(None);
        let (report_sender, report) = watch::channel(None);
        let process = Self {
            identity: Arc::clone(&child.identity),
            pidfd: Arc::clone(&child.pidfd),
            target: child.target,
            io: Mutex::new(io),
            exit,
            deadline,
            report,
        };
        let ends = Ends {
            exit: exit_sender,
            deadline: deadline_receiver,
            report: report_sender,
        };
        tokio::spawn(actor::run(child, ends));
        process
    }

    /// What can be said when the task is gone, which the shutdown of its runtime does: it has killed the
    /// process, and confirmed nothing.
    fn unconfirmed(&self) -> EndReport {
        let remains = !self.pidfd.has_exited();
        EndReport {
            outcome: self.try_exited().unwrap_or(ExitOutcome::Unknown),
            step: EndStep::Incomplete,
            took: Duration::ZERO,
            swept: 0,
            remaining: remains.then(|| (*self.identity).clone()).into_iter().collect(),
        }
    }
}

#[async_trait]
impl LaunchedProcess for PortProcess {
    fn identity(&self) -> &ProcessIdentity {
        &self.identity
    }

    fn take_io(&self) -> ProcessIo {
        std::mem::take(&mut *self.io.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Does nothing: the preamble on the channel is the gate of our runtime, and other programs have none.
    async fn open_gate(&self) -> Result<(), LaunchError> {
        Ok(())
    }

    async fn exited(&self) -> ExitOutcome {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.unwrap_or(ExitOutcome::Unknown),
            Err(_) => ExitOutcome::Unknown,
        }
    }

    fn try_exited(&self) -> Option<ExitOutcome> {
        *self.exit.borrow()
    }

    fn signal(&self, signal: i32) -> io::Result<()> {
        match self.pidfd.signal(signal) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => Ok(()),
            other => other,
        }
    }

    async fn end(&self, grace: Duration) -> EndReport {
        let now = Instant::now();
        let asked = now.checked_add(grace).unwrap_or(now + NEVER);
        self.deadline.send_if_modified(|deadline| {
            let shorter = deadline.is_none_or(|current| asked < current);
            if shorter {
                *deadline = Some(asked);
            }
            shorter
        });
        let mut report = self.report.clone();
        let done = report.wait_for(Option::is_some).await;
        match done.ok().and_then(|report| report.clone()) {
            Some(report) => report,
            None => self.unconfirmed(),
        }
    }
}

impl Drop for PortProcess {
    fn drop(&mut self) {
        // An end that was asked for goes on with its grace.
        if self.deadline.borrow().is_some() {
            return;
        }
        tracing::warn!(
            pid = self.identity.pid,
            program_exited = self.try_exited().is_some(),
            "the last handle of a process that was not ended is dropped: killing it"
        );
        // Now, and not in the task: its runtime may be shutting down. The task reaps it, and looks for what
        // this has not reached.
        Tree::new(Arc::clone(&self.pidfd), &self.identity, self.target).kill_now();
    }
}
