//! The task that looks after one process: sees its exit, reaps it, ends its tree.

use tokio::{sync::watch, time::Instant};

use super::owned::OwnedChild;
use crate::process::{EndReport, ExitOutcome};

/// The task's ends of what it shares with the handle.
#[derive(Debug)]
pub(super) struct Ends {
    /// How the process ended, once it has.
    pub(super) exit: watch::Sender<Option<ExitOutcome>>,
    /// When to use force, once the end has been asked for. Closed when the last handle is gone.
    pub(super) deadline: watch::Receiver<Option<Instant>>,
    /// What the end took, once it is done.
    pub(super) report: watch::Sender<Option<EndReport>>,
}

/// Runs until the process has been reaped and its tree has ended. Dropped before that (the runtime shuts down),
/// it kills what it can reach.
pub(super) async fn run(mut owned: OwnedChild, ends: Ends) {
    let Ends {
        exit,
        mut deadline,
        report,
    } = ends;
    let OwnedChild { tree, leader, .. } = &mut owned;
    let keep_zombie = tree.needs_unreaped_leader();
    let reaping = async {
        let outcome = leader.ended().await;
        if !keep_zombie {
            leader.reap();
        }
        exit.send_replace(Some(outcome));
    };
    let ending = async {
        let asked = asked(&mut deadline).await;
        let begun = Instant::now();
        let deadline = if asked {
            deadline
        } else {
            // The handle was dropped, and has killed what it could; what is left gets no grace either.
            watch::channel(Some(begun)).1
        };
        let exited = || {
            let mut exited = exit.subscribe();
            async move {
                // The sender lives as long as this task.
                let _ = exited.wait_for(Option::is_some).await;
            }
        };
        let end = tree.end(deadline, exited).await;
        report.send_replace(Some(EndReport {
            outcome: exit.borrow().unwrap_or(ExitOutcome::Unknown),
            step: end.step,
            took: begun.elapsed(),
            swept: end.swept,
            remaining: end.remaining,
        }));
    };
    // Reaping first: once the leader is reaped, one system call proves that its group is empty.
    tokio::join!(biased; reaping, ending);
    owned.leader.reap();
    owned.release();
}

/// Waits for the end to be asked for; `false` when it never will be.
async fn asked(deadline: &mut watch::Receiver<Option<Instant>>) -> bool {
    deadline.wait_for(Option::is_some).await.is_ok()
}
