//! The cgroup of one process, as its host holds it.

use std::{
    fs::OpenOptions,
    io,
    os::fd::OwnedFd,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use snakepit_core::process::{Containment, EndReport, EndStep, ProcessIdentity, cgroup::Cgroup};

/// How long the kernel may take to end what is in a cgroup that is killed. More than some milliseconds means that something
/// in it is in state D.
const ENDS: Duration = Duration::from_secs(5);

/// Numbers the cgroups below those of templates.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// A cgroup below that of the template, for one process and all that it starts.
#[derive(Debug)]
pub(crate) struct Leaf(Cgroup);

impl Leaf {
    /// One for a process that is to be forked, and the file that it writes `0` to in order to be in it. `None` where no cgroup
    /// keeps the template.
    ///
    /// # Errors
    /// What mkdir(2) and open(2) answer.
    pub(crate) fn new(template: &Containment) -> io::Result<Option<(Self, OwnedFd)>> {
        let Some(path) = &template.cgroup else {
            return Ok(None);
        };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let cgroup = Cgroup::at(path).child(&format!("fork-{number}"));
        cgroup.create()?;
        let leaf = Self(cgroup);
        let entrance = leaf.0.path().join("cgroup.procs");
        let entrance = OpenOptions::new().write(true).open(entrance)?;
        Ok(Some((leaf, entrance.into())))
    }

    /// What keeps a process that is in it, besides what keeps its template.
    pub(crate) fn within(&self, template: Containment) -> Containment {
        template.with_cgroup(self.0.path())
    }

    /// Ends whatever is in it, and removes it. What it finds out belongs into the report of the end of a process that was.
    ///
    /// Blocks.
    pub(crate) fn end(&self, report: EndReport) -> EndReport {
        let left = self.0.is_populated().unwrap_or(true);
        if left {
            // Whether it came to anything is seen next.
            let _ = self.0.kill();
        }
        let empty = self.0.wait_empty(ENDS).unwrap_or(false);
        if let Err(error) = self.0.remove(ENDS) {
            tracing::debug!(cgroup = %self.0.path().display(), %error, "a cgroup is not removed");
        }
        if !empty {
            let pids = self.0.processes().unwrap_or_default();
            let mut remaining = report.remaining;
            remaining.extend(
                pids.into_iter()
                    .filter_map(|pid| ProcessIdentity::of_pid(pid).ok()),
            );
            return EndReport {
                step: EndStep::Incomplete,
                remaining,
                ..report
            };
        }
        let step = match report.step {
            // The kernel says that nothing is left, also of what was not found before.
            EndStep::Incomplete => EndStep::Kill,
            EndStep::AlreadyGone | EndStep::Term if left => EndStep::Kill,
            step => step,
        };
        EndReport {
            step,
            remaining: Vec::new(),
            ..report
        }
    }
}

/// Nobody has asked for its end, or nobody has waited for that: it gets no grace.
impl Drop for Leaf {
    fn drop(&mut self) {
        if self.0.exists() {
            // What cannot be killed or removed now goes with the template.
            let _ = self.0.kill();
            let _ = self.0.remove(Duration::ZERO);
        }
    }
}
