//! The PID namespace of one process, as its host holds it.

use std::{io, time::Duration};

use rustix::process::Signal;
use snakepit_core::process::{Containment, ContainmentLevel, EndReport, EndStep, Pidfd, ProcessIdentity};
use tokio::time::timeout;

/// How long the kernel may take to end a namespace whose first process is killed. More than some milliseconds means that
/// something in it is in state D.
const ENDS: Duration = Duration::from_secs(5);

/// A PID namespace. It is there as long as its first process, which ends when all others in it have.
#[derive(Debug)]
pub(crate) struct Nest {
    first: Pidfd,
    identity: ProcessIdentity,
}

impl Nest {
    /// # Errors
    /// What a look into `/proc` answers.
    pub(crate) fn new(first: Pidfd) -> io::Result<Self> {
        let identity = ProcessIdentity::of(&first).inspect_err(|_| {
            // An error means that it has ended, which is the aim.
            let _ = first.signal(Signal::KILL.as_raw());
        })?;
        Ok(Self { first, identity })
    }

    /// What keeps a process that is in it, besides what keeps its template.
    pub(crate) fn within(&self, template: Containment) -> Containment {
        let containment = Containment::new(ContainmentLevel::Namespace).with_keeper(self.identity.clone());
        match template.cgroup {
            Some(cgroup) => containment.with_cgroup(cgroup),
            None => containment,
        }
    }

    /// Ends whatever is in it. What it finds out belongs into the report of the end of a process that was.
    pub(crate) async fn end(&self, report: EndReport) -> EndReport {
        // An error means that it has ended, which is the aim.
        let _ = self.first.signal(Signal::KILL.as_raw());
        let ended = timeout(ENDS, self.first.exited()).await;
        if matches!(ended, Ok(Ok(()))) || self.first.has_exited() {
            // Which the kernel lets it do when all others are gone, also those that were not to be ended before.
            let step = match report.step {
                EndStep::Incomplete => EndStep::Kill,
                step => step,
            };
            let remaining = Vec::new();
            return EndReport {
                step,
                remaining,
                ..report
            };
        }
        let mut remaining = report.remaining;
        remaining.push(self.identity.clone());
        EndReport {
            step: EndStep::Incomplete,
            remaining,
            ..report
        }
    }
}

/// Nobody has asked for its end, or nobody has waited for that: it gets no grace.
impl Drop for Nest {
    fn drop(&mut self) {
        // An error means that it has ended, which is the aim.
        let _ = self.first.signal(Signal::KILL.as_raw());
    }
}
