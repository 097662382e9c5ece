//! A process of either face, held by whoever launched it.

use std::{fmt, io, sync::Arc, time::Duration};

use snakepit_core::{
    launch::LaunchError,
    process::{Containment, ContainmentLevel, EndReport, EndStep, ExitOutcome, Pidfd, ProcessIdentity, Tree},
};
use tokio::time::{Instant, timeout};

use crate::{
    guardian::{Lease, lost},
    request::{Program, os},
    task::{Asked, Held, Life, Status, Task},
    wire::{Level, Message, Request, Target},
};

/// How long SIGKILL may take, after the grace, before an end is reported incomplete. A process in state D dies when its
/// system call returns, which may be never.
const KILL_BOUND: Duration = Duration::from_secs(5);
/// The longest grace that is sent, in milliseconds: ten years, which the guardian can add to its clock.
const LONGEST_GRACE_MS: u128 = 10 * 365 * 24 * 60 * 60 * 1000;

/// A process. Dropping it before its end was asked for kills its tree.
pub(crate) struct Proc {
    lease: Arc<Lease>,
    task: Arc<Task>,
    program: Arc<Program>,
    deadline: Duration,
    worker: Arc<Pidfd>,
    identity: ProcessIdentity,
    containment: Containment,
}

impl Proc {
    /// # Panics
    /// When the process is not held yet.
    pub(crate) fn new(lease: Arc<Lease>, task: Arc<Task>, program: Arc<Program>, deadline: Duration) -> Self {
        let held = task.held().expect("it was looked at before");
        let (worker, identity) = (Arc::clone(&held.worker), held.identity.clone());
        let containment = containment(&lease, &task, held);
        Self {
            lease,
            task,
            program,
            deadline,
            worker,
            identity,
            containment,
        }
    }

    #[cfg(test)]
    pub(crate) fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }

    pub(crate) fn identity(&self) -> &ProcessIdentity {
        &self.identity
    }

    pub(crate) fn containment(&self) -> &Containment {
        &self.containment
    }

    pub(crate) fn program(&self) -> &Program {
        &self.program
    }

    /// Has the program executed.
    ///
    /// # Cancel safety
    /// The gate may have been opened.
    pub(crate) async fn open_gate(&self) -> Result<(), LaunchError> {
        let mut status = self.task.status();
        let first = status.borrow().life == Life::Held;
        if first {
            self.lease.post(Message::new(Request::Go, self.task.id));
        }
        let opened = async {
            tokio::select! {
                // What it said before it died is still true.
                biased;
                status = status.wait_for(|status| status.life != Life::Held || status.exit.is_some()) =>
                    status.ok().map(|status| status.life),
                () = self.lease.dead() => None,
            }
        };
        let refuse = |why: &'static str| Err(os("open the gate")(io::Error::other(why)));
        match timeout(self.deadline, opened).await {
            Ok(Some(Life::Started)) => Ok(()),
            Ok(Some(Life::NotStarted(failure) | Life::Refused(failure))) => {
                Err(failure.launch_error(&self.program, self.lease.user_namespace))
            }
            Ok(Some(Life::Asked | Life::Held)) => refuse("the process has ended"),
            Ok(None) => refuse("the guardian died"),
            Err(_) if self.lease.confirm_alive().await => {
                Err(os("open the gate")(io::ErrorKind::TimedOut.into()))
            }
            Err(_) => refuse("the guardian died"),
        }
    }

    pub(crate) async fn exited(&self) -> ExitOutcome {
        let status = await_status(&self.lease, &self.task, |status| status.exit.is_some()).await;
        status.exit.unwrap_or(ExitOutcome::Unknown)
    }

    pub(crate) fn try_exited(&self) -> Option<ExitOutcome> {
        self.task.now().exit
    }

    /// Tells how it ended; `None` when nobody will know any more. Does not keep it alive.
    pub(crate) fn watch(&self) -> impl Future<Output = Option<ExitOutcome>> + Send + use<> {
        let mut status = self.task.status();
        async move {
            let status = status.wait_for(|status| status.exit.is_some()).await;
            status.ok().and_then(|status| status.exit)
        }
    }

    /// Waits until nothing is left of the tree, however that came about.
    pub(crate) async fn ended(&self) -> EndReport {
        await_end(&self.lease, &self.task).await
    }

    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        match self.worker.signal(signal) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            other => other,
        }
    }

    /// Has the guardian signal more than the process itself.
    pub(crate) fn signal_many(&self, signal: i32, target: Target) {
        let message = Message::new(Request::Signal, self.task.id);
        self.lease.post(message.with(i64::from(signal), target as i64, 0));
    }

    pub(crate) async fn end(&self, grace: Duration) -> EndReport {
        end(&self.lease, &self.task, grace, false).await
    }

    /// As [`end`](Self::end), for a process that somebody else has asked to end.
    pub(crate) async fn end_unasked(&self, grace: Duration) -> EndReport {
        end(&self.lease, &self.task, grace, true).await
    }
}

impl fmt::Debug for Proc {
    /// Without arguments and variables, which may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proc")
            .field("pid", &self.identity.pid)
            .field("program", &self.program.name)
            .field("containment", &self.containment.level)
            .field("exit", &self.try_exited())
            .finish_non_exhaustive()
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        // An end that was asked for goes on with its grace.
        let over = self.task.now().report.is_some();
        if over || self.task.asked().borrow().is_some() {
            return;
        }
        tracing::warn!(
            pid = self.identity.pid,
            program_exited = self.try_exited().is_some(),
            "the last handle of a process that was not ended is dropped: killing it"
        );
        stop(&self.lease, &self.task, Duration::ZERO, false);
        if !self.lease.is_alive() {
            Tree::new(Arc::clone(&self.worker), &self.identity, self.task.target).kill_now();
        }
    }
}

fn containment(lease: &Lease, task: &Task, held: &Held) -> Containment {
    let level = match lease.level {
        Level::Namespace => ContainmentLevel::Namespace,
        Level::Cgroup => ContainmentLevel::Cgroup,
        // The namespace is the run's, and the keeper is only a subreaper in it: the tree outlives the keeper.
        Level::SharedNamespace | Level::Subreaper => ContainmentLevel::Subreaper,
    };
    let containment = Containment::new(level).with_keeper(held.keeper_identity.clone());
    match &task.cgroup {
        Some(cgroup) => containment.with_cgroup(cgroup.path()),
        None => containment,
    }
}

/// Tells the guardian to end a tree, unless it was told to do so as soon.
fn stop(lease: &Lease, task: &Task, grace: Duration, quietly: bool) {
    if task.ask(grace).is_some() {
        // Rounded up, as zero means something else.
        let ms = grace.as_nanos().div_ceil(1_000_000).min(LONGEST_GRACE_MS);
        let ms = i64::try_from(ms).unwrap_or(i64::MAX);
        let message = Message::new(Request::Stop, task.id);
        lease.post(message.with(ms, i64::from(quietly), 0));
    }
}

/// Ends a tree.
///
/// # Cancel safety
/// The ending goes on when the future is dropped.
pub(crate) async fn end(lease: &Arc<Lease>, task: &Arc<Task>, grace: Duration, quietly: bool) -> EndReport {
    stop(lease, task, grace, quietly);
    let mut asked = task.asked();
    loop {
        let bound = asked.borrow_and_update().map_or_else(Instant::now, Asked::bound);
        tokio::select! {
            biased;
            report = await_end(lease, task) => return report,
            // A shorter grace. The sender lives as long as the task, which we hold.
            _ = asked.changed() => {}
            () = tokio::time::sleep_until(bound) => {
                if lease.confirm_alive().await {
                    return incomplete(task);
                }
                // What is done without a guardian has bounds of its own.
                return await_end(lease, task).await;
            }
        }
    }
}

impl Asked {
    /// When force has had its time too.
    fn bound(self) -> Instant {
        self.deadline + KILL_BOUND
    }
}

/// Waits until nothing is left of the tree.
async fn await_end(lease: &Arc<Lease>, task: &Arc<Task>) -> EndReport {
    let status = await_status(lease, task, |status| status.report.is_some()).await;
    status.report.unwrap_or_else(|| incomplete(task))
}

/// Waits for what the end of a process brings about, and sees to that itself where the guardian is dead.
async fn await_status(lease: &Arc<Lease>, task: &Arc<Task>, reached: impl FnMut(&Status) -> bool) -> Status {
    let mut status = task.status();
    let reached = async {
        // The sender lives as long as the task, which we hold, so that there is no error to look at.
        let _ = status.wait_for(reached).await;
        status.borrow().clone()
    };
    tokio::pin!(reached);
    tokio::select! {
        // What the guardian said before it died is still true.
        biased;
        status = &mut reached => return status,
        () = lease.dead() => {}
    }
    tokio::spawn(lost::end(Arc::clone(lease.guardian()), Arc::clone(task)));
    reached.await
}

/// What can be said of an end that takes too long.
fn incomplete(task: &Task) -> EndReport {
    let remaining = task.held().map(lost::remaining).unwrap_or_default();
    task.note_report(EndStep::Incomplete, 0, remaining);
    task.now().report.unwrap_or(EndReport {
        outcome: ExitOutcome::Unknown,
        step: EndStep::Incomplete,
        took: Duration::ZERO,
        swept: 0,
        remaining: Vec::new(),
    })
}
