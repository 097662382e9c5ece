//! A process that the host looks after itself, until its tree is empty.

mod actor;
mod owned;
mod spawn;

use std::{
    io,
    process::{Child, Command},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{sync::watch, time::Instant};

use self::{
    actor::Ends,
    owned::{OwnedChild, Reaper},
    spawn::Spawned,
};
use super::{LaunchError, LaunchSpec, LaunchedProcess, ProcessIo};
use crate::process::{EndReport, EndStep, ExitOutcome, Pidfd, ProcessIdentity, Tree, sweep::SweepTarget};

/// A grace so long that it never ends, for one that a clock cannot add.
const NEVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A [`LaunchedProcess`] for backends whose processes the host looks after itself: its direct children, and those that a
/// helper process has made and reaps.
///
/// It does all that the contract says of a process that lives: it sees the exit, reaps, tells the outcome to whoever
/// asks, ends the tree, and kills it when it is dropped. The backend says how the process is created. There is no gate:
/// the program runs as soon as it is there.
///
/// ```
/// use std::{os::unix::process::CommandExt, sync::Arc};
/// use snakepit_core::launch::{ChildProcess, LaunchError, LaunchSpec, LaunchedProcess};
///
/// async fn launch(spec: &LaunchSpec) -> Result<Arc<dyn LaunchedProcess>, LaunchError> {
///     let process = ChildProcess::launch(spec, |command| command.process_group(0).spawn()).await?;
///     Ok(Arc::new(process))
/// }
/// ```
#[derive(Debug)]
pub struct ChildProcess {
    identity: Arc<ProcessIdentity>,
    pidfd: Arc<Pidfd>,
    target: SweepTarget,
    io: Mutex<ProcessIo>,
    exit: watch::Receiver<Option<ExitOutcome>>,
    deadline: watch::Sender<Option<Instant>>,
    report: watch::Receiver<Option<EndReport>>,
}

impl ChildProcess {
    /// Starts the program of `spec` with the environment, directory, channel and output pipes that `spec` asks for.
    /// `create` spawns the command it is given, **as the leader of a process group of its own**, and may change the
    /// command first, which inherits the host's environment: `get_envs` has what differs from it. It runs on a thread that may
    /// block. The limits of `spec` are the caller's to honour or refuse.
    ///
    /// # Errors
    /// [`LaunchError::Cwd`] and [`LaunchError::Exec`] for what they name, [`LaunchError::Os`] when a process, a
    /// descriptor or a look into `/proc` is not to be had, or `create` left the child in the host's group. Nothing is left
    /// then.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time enabled.
    ///
    /// # Cancel safety
    /// Dropping the future leaves no process behind.
    pub async fn launch(
        spec: &LaunchSpec,
        create: impl FnOnce(&mut Command) -> io::Result<Child> + Send + 'static,
    ) -> Result<Self, LaunchError> {
        // posix_spawn(3) returns when the program has been executed, which waits for the disk it is on.
        let job = spec.clone();
        let spawned = tokio::task::spawn_blocking(move || spawn::spawn(&job, create)).await;
        let spawned = spawned.map_err(|error| LaunchError::Os {
            step: "run the thread that creates the process",
            source: error.into(),
        })??;
        Ok(Self::new(spawned))
    }

    /// Looks after a process that another process of ours has created, and reaps, as `spec` asked for it: **the leader of
    /// a process group of its own**. `outcome` is awaited once the process has ended, and says how; it has to resolve within
    /// a bounded time.
    ///
    /// # Errors
    /// [`LaunchError::Os`] when a look into `/proc` is not to be had, or the process leads no group. It is killed then.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time enabled.
    pub fn reaped_by_another(
        spec: &LaunchSpec,
        pidfd: Arc<Pidfd>,
        io: ProcessIo,
        outcome: impl Future<Output = ExitOutcome> + Send + 'static,
    ) -> Result<Self, LaunchError> {
        let identity = spawn::identify(&pidfd).inspect_err(|_| {
            // An error means that it has ended, which is the aim.
            let _ = pidfd.signal(libc::SIGKILL);
        })?;
        let reaper = Reaper::Another(Some(Box::pin(outcome)));
        let child = OwnedChild::new(reaper, pidfd, identity, spec);
        Ok(Self::new(Spawned { child, io }))
    }

    /// Takes over a process that was just created, and starts the task that looks after it.
    fn new(spawned: Spawned) -> Self {
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
impl LaunchedProcess for ChildProcess {
    fn identity(&self) -> &ProcessIdentity {
        &self.identity
    }

    fn take_io(&self) -> ProcessIo {
        std::mem::take(&mut *self.io.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Does nothing: a runtime that waits for the preamble on its channel has its gate there, and other programs have none.
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

impl Drop for ChildProcess {
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

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;

    use super::{super::ChannelForm, *};
    use crate::{
        RunId, WorkerId,
        launch::LaunchLimits,
        process::sweep::{SweepQuery, sweep},
    };

    fn spec() -> LaunchSpec {
        LaunchSpec {
            run_id: RunId::random(),
            worker_id: WorkerId(1),
            program: "cat".into(),
            args: Vec::new(),
            env: Vec::new(),
            env_remove: Vec::new(),
            cwd: None,
            channel: ChannelForm::Inherited,
            limits: LaunchLimits::default(),
        }
    }

    #[tokio::test]
    async fn a_child_in_the_hosts_own_group_is_refused_and_not_left() {
        let spec = spec();
        let error = ChildProcess::launch(&spec, |command| command.spawn())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("group"), "{error}");
        let target = SweepTarget::Run(spec.run_id);
        assert!(sweep(SweepQuery::new(target)).await.unwrap().members.is_empty());
    }

    #[tokio::test]
    async fn a_child_in_a_group_of_its_own_is_looked_after() {
        let process = ChildProcess::launch(&spec(), |command| command.process_group(0).spawn())
            .await
            .unwrap();
        drop(process.take_io());
        assert_eq!(process.exited().await, ExitOutcome::Exited(0));
        let report = process.end(Duration::ZERO).await;
        assert_eq!((report.step, report.is_complete()), (EndStep::AlreadyGone, true));
    }
}
