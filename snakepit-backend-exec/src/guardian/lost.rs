//! What becomes of processes whose guardian is gone.

use std::{sync::Arc, time::Duration};

use snakepit_core::process::{EndStep, ExitOutcome, Pidfd, ProcessIdentity, Tree};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::Guardian;
use crate::{
    cgroups,
    task::{Held, Task},
};

/// How long a keeper, which sees the guardian's death by itself, gets to end its tree before the host does so too.
const KEEPER_BOUND: Duration = Duration::from_secs(2);
/// How long SIGKILL may take.
const KILL_BOUND: Duration = Duration::from_secs(5);
/// How long whoever reaps a worker may take to do so: until then nobody knows how it ended.
const REAP_BOUND: Duration = Duration::from_millis(100);

/// Ends what a guardian has left of one process, and confirms that.
///
/// The keeper does the same on its own, or the kernel does it where the keeper is the first process of a namespace.
/// But a keeper may be dead or stopped as well, so that everything is looked at once more from here.
pub(crate) async fn end(guardian: Arc<Guardian>, task: Arc<Task>) {
    let _one_at_a_time = task.recovery.lock().await;
    let settled = task.now().report.is_some_and(|report| report.is_complete());
    if !settled {
        match task.hold() {
            Ok(held) => end_held(&task, held).await,
            // It never got past its gate, whose only other end was the guardian's: it has ended, or does so now.
            Err(error) => {
                tracing::debug!(id = task.id, %error, "a process was lost before it was known");
                task.note_exit(ExitOutcome::Unknown);
                task.note_report(EndStep::Kill, 0, Vec::new());
            }
        }
    }
    if let Some(cgroup) = task.cgroup.clone() {
        blocking(move || cgroups::remove(&cgroup)).await;
    }
    guardian.remove(task.id);
}

async fn end_held(task: &Task, held: &Held) {
    if timeout(KEEPER_BOUND, gone(&held.keeper)).await.is_err() {
        tracing::warn!(
            keeper = held.keeper.pid(),
            "a keeper does not end its tree after the guardian's death; ending it from here"
        );
        // First what only the link to the keeper leads to.
        let _ = timeout(KILL_BOUND, end_below(&held.keeper)).await;
    }
    if let Some(cgroup) = task.cgroup.clone() {
        let kill = move || {
            if let Err(error) = cgroup.kill() {
                tracing::warn!(path = %cgroup.path().display(), %error, "cannot kill a cgroup");
            }
        };
        blocking(kill).await;
    }
    // Before the keeper, since its death would make orphans of the processes that are found by the link to it.
    let mut tree = Tree::new(Arc::clone(&held.worker), &held.identity, task.target);
    let worker_gone = || gone(&held.worker);
    let (_now, deadline) = watch::channel(Some(Instant::now()));
    let end = tree.end(deadline, worker_gone).await;
    // Where it is the first process of a namespace, this also is the proof that the namespace is empty.
    let _ = held.keeper.signal(libc::SIGKILL);
    let keeper_gone = timeout(KILL_BOUND, gone(&held.keeper)).await.is_ok();

    task.note_exit(outcome(&held.worker).await);
    let mut remaining = end.remaining;
    if !keeper_gone {
        remaining.push(held.keeper_identity.clone());
    }
    let complete = remaining.is_empty() && end.step != EndStep::Incomplete;
    let step = if complete {
        EndStep::Kill
    } else {
        EndStep::Incomplete
    };
    task.note_report(step, end.swept, remaining);
}

/// Does what may wait for the kernel, beside the tasks of the runtime.
async fn blocking(job: impl FnOnce() + Send + 'static) {
    if let Err(error) = tokio::task::spawn_blocking(job).await {
        tracing::debug!(%error, "a cgroup is not seen to: the runtime shuts down");
    }
}

/// Kills what is below a keeper until nothing is.
async fn end_below(keeper: &Pidfd) {
    loop {
        match snakepit_core::process::descendants(keeper) {
            Ok(members) if members.is_empty() => return,
            Ok(members) => {
                for member in members {
                    // One that has ended meanwhile needs none.
                    let _ = member.pidfd.signal(libc::SIGKILL);
                }
            }
            Err(error) => tracing::debug!(%error, "cannot list what a keeper keeps; trying again"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until a process has ended.
pub(crate) async fn gone(pidfd: &Pidfd) {
    if let Err(error) = pidfd.exited().await {
        tracing::debug!(pid = pidfd.pid(), %error, "cannot watch for an end; looking for it instead");
        while !pidfd.has_exited() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// How a process ended that somebody else reaps, where the kernel tells (Linux 6.15).
pub(crate) async fn outcome(worker: &Pidfd) -> ExitOutcome {
    let asking = async {
        loop {
            match worker.reaped_outcome() {
                Ok(Some(outcome)) => return outcome,
                Ok(None) => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(_) => return ExitOutcome::Unknown,
            }
        }
    };
    timeout(REAP_BOUND, asking).await.unwrap_or(ExitOutcome::Unknown)
}

/// What is left of a tree that should have ended: its worker, and what its keeper keeps.
pub(crate) fn remaining(held: &Held) -> Vec<ProcessIdentity> {
    let mut remaining = Vec::new();
    if !held.worker.has_exited() {
        remaining.push(held.identity.clone());
    }
    match snakepit_core::process::descendants(&held.keeper) {
        Ok(members) => {
            let others = members
                .iter()
                .filter(|member| member.pidfd.pid() != held.worker.pid());
            remaining.extend(others.filter_map(|member| member.identity().ok()));
        }
        Err(error) => tracing::debug!(%error, "cannot list what is left of a tree"),
    }
    remaining
}
