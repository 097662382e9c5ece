//! The child as the one who reaps it holds it.

use std::{process::Child, sync::Arc, time::Duration};

use crate::{
    launch::LaunchSpec,
    process::{ExitOutcome, Pidfd, ProcessIdentity, Tree, sweep::SweepTarget},
};

/// How long a killed child is waited for where nothing can be awaited. More than a millisecond or two means
/// state D, and then it stays a zombie until the host ends.
const REAP_BOUND: Duration = Duration::from_secs(1);

/// Milliseconds for another waiter's wait(2) to finish.
const RELEASE_LOOKS: u32 = 20;

/// Our child, with the right and the duty to reap it. Dropping it before [`release`](Self::release) kills the
/// child and what can be reached of its tree.
#[derive(Debug)]
pub(super) struct OwnedChild {
    pub(super) pidfd: Arc<Pidfd>,
    pub(super) identity: Arc<ProcessIdentity>,
    pub(super) target: SweepTarget,
    pub(super) tree: Tree,
    pub(super) leader: Leader,
    released: bool,
}

impl OwnedChild {
    pub(super) fn new(child: Child, pidfd: Arc<Pidfd>, identity: ProcessIdentity, spec: &LaunchSpec) -> Self {
        let target = SweepTarget::Worker {
            run_id: spec.run_id,
            worker_id: spec.worker_id,
        };
        Self {
            tree: Tree::new(Arc::clone(&pidfd), &identity, target),
            leader: Leader {
                child,
                pidfd: Arc::clone(&pidfd),
            },
            pidfd,
            identity: Arc::new(identity),
            target,
            released: false,
        }
    }

    /// The tree has ended and the child is reaped: nothing is left to do.
    pub(super) fn release(mut self) {
        self.released = true;
    }
}

impl Drop for OwnedChild {
    fn drop(&mut self) {
        if !self.released {
            self.tree.kill_now();
            self.pidfd.wait_blocking(REAP_BOUND);
            self.leader.reap();
        }
    }
}

/// The child itself, apart from its tree.
#[derive(Debug)]
pub(super) struct Leader {
    child: Child,
    pidfd: Arc<Pidfd>,
}

impl Leader {
    /// Waits until it has ended and says how, leaving it unreaped.
    pub(super) async fn ended(&self) -> ExitOutcome {
        if let Err(error) = self.pidfd.exited().await {
            tracing::debug!(pid = self.pidfd.pid(), %error, "cannot watch for an exit; looking for it instead");
            while !self.pidfd.has_exited() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        // It has ended, so that "nothing to report yet" cannot be.
        match self.pidfd.peek_outcome() {
            Ok(outcome) => outcome.unwrap_or(ExitOutcome::Unknown),
            // Another waiter in this program was faster, or SIGCHLD is ignored. Newer kernels still know.
            Err(error) => {
                tracing::debug!(pid = self.pidfd.pid(), %error, "somebody else reaped a worker");
                self.outcome_after_reap().await
            }
        }
    }

    async fn outcome_after_reap(&self) -> ExitOutcome {
        // The other waiter has claimed it, and may not be through with it yet.
        for _ in 0..RELEASE_LOOKS {
            match self.pidfd.reaped_outcome() {
                Ok(Some(outcome)) => return outcome,
                Ok(None) => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(error) => {
                    tracing::warn!(pid = self.pidfd.pid(), %error, "somebody else reaped a worker and has its exit status");
                    break;
                }
            }
        }
        ExitOutcome::Unknown
    }

    /// Reaps it if it has ended. Repeated calls do no harm: the standard library remembers.
    pub(super) fn reap(&mut self) {
        // An error means that it is reaped already.
        let _ = self.child.try_wait();
    }
}
