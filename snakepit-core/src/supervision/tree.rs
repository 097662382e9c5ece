//! The supervision tree, for people.

use std::{fmt, sync::Arc};

use super::{ChildInfo, ResourceState, SlotStatus};

/// The supervision tree of a pool, printed as in
///
/// ```text
/// pool default
/// ├── slot 0: serving, 2 restarts
/// │   ├── worker 17, pid 4711: 34.5 MiB, 3 % CPU, 2 processes
/// │   └── metrics: running
/// └── slot 1: quarantined, tried again in 28.3s, starter restarted 3 times; gave up after ...
/// ```
#[derive(Clone, Debug)]
pub struct Tree {
    pool: Arc<str>,
    children: Vec<ChildInfo>,
}

impl Tree {
    /// The tree of a pool from [`Supervisor::which_children`](super::Supervisor::which_children).
    pub fn new(pool: &str, children: Vec<ChildInfo>) -> Self {
        Self {
            pool: pool.into(),
            children,
        }
    }

    /// The children, by slot.
    pub fn children(&self) -> &[ChildInfo] {
        &self.children
    }
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pool {}", self.pool)?;
        let last = self.children.len().saturating_sub(1);
        for (at, child) in self.children.iter().enumerate() {
            let (branch, stem) = if at == last {
                ("└── ", "    ")
            } else {
                ("├── ", "│   ")
            };
            write!(f, "\n{branch}{}", slot_line(child))?;
            let leaves = leaves(&child.status);
            for (at, leaf) in leaves.iter().enumerate() {
                let branch = if at + 1 == leaves.len() {
                    "└── "
                } else {
                    "├── "
                };
                write!(f, "\n{stem}{branch}{leaf}")?;
            }
        }
        Ok(())
    }
}

fn slot_line(child: &ChildInfo) -> String {
    let status = &child.status;
    let mut line = format!("{}: {}", status.slot, status.state);
    if status.restarts > 0 {
        line += &format!(", {}", counted(status.restarts, "restart"));
    }
    if child.starter_restarts > 0 {
        line += &format!(", starter restarted {}", counted(child.starter_restarts, "time"));
    }
    // Why a slot is not serving matters now; why it once was not is history.
    if let (None, Some(cause)) = (status.worker, &status.last_failure) {
        line += &format!("; {cause}");
    }
    line
}

fn leaves(status: &SlotStatus) -> Vec<String> {
    let mut leaves = Vec::new();
    if let Some(worker) = status.worker {
        let mut leaf = worker.to_string();
        if let Some(pid) = status.pid {
            leaf += &format!(", pid {pid}");
        }
        if let Some(sample) = status.metrics {
            let processes = match sample.processes {
                1 => "1 process".to_owned(),
                count => format!("{count} processes"),
            };
            leaf += &format!(
                ": {:.1} MiB, {:.0} % CPU, {processes}",
                sample.rss_mib(),
                sample.cpu * 100.0
            );
        }
        leaves.push(leaf);
    }
    if let Some(leaving) = &status.leaving {
        let mut leaf = leaving.worker.to_string();
        if let Some(pid) = leaving.pid {
            leaf += &format!(", pid {pid}");
        }
        leaf += &format!(": replaced {:.0?} ago, finishes its calls", leaving.since);
        leaves.push(leaf);
    }
    leaves.extend(status.resources.iter().map(|resource| {
        let state = match resource.state {
            ResourceState::Starting => "starting",
            ResourceState::Running => "running",
            ResourceState::Failed => "failed",
        };
        format!("{}: {state}", resource.name)
    }));
    leaves
}

fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        id::{SlotId, WorkerId},
        supervision::{ChildKind, MetricsSample, ResourceStatus, SlotState},
    };

    #[test]
    fn a_tree_shows_slots_workers_and_resources() {
        let mut serving = SlotStatus::new(SlotId(0), SlotState::Serving);
        serving.worker = Some(WorkerId(17));
        serving.pid = Some(4711);
        serving.restarts = 2;
        serving.metrics = Some(MetricsSample {
            rss_bytes: 36_175_872,
            cpu: 0.03,
            processes: 2,
        });
        serving.last_failure = Some("killed by SIGKILL".into());
        serving.resources.push(ResourceStatus {
            name: "metrics".into(),
            state: ResourceState::Running,
        });
        let left = Duration::from_millis(28_300);
        let mut resting = SlotStatus::new(SlotId(1), SlotState::Quarantined { left });
        resting.last_failure = Some("no such module".into());
        let child = |status, starter_restarts| ChildInfo {
            status,
            kind: ChildKind::Supervisor,
            starter_restarts,
        };
        let tree = Tree::new("default", vec![child(serving, 0), child(resting, 1)]);
        assert_eq!(
            tree.to_string(),
            "pool default\n\
             ├── slot 0: serving, 2 restarts\n\
             │   ├── worker 17, pid 4711: 34.5 MiB, 3 % CPU, 2 processes\n\
             │   └── metrics: running\n\
             └── slot 1: quarantined, tried again in 28.3s, starter restarted 1 time; no such module"
        );
    }
}
