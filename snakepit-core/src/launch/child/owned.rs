//! The process as the one who looks after it holds it.

use std::{pin::Pin, process::Child, sync::Arc, time::Duration};

use crate::{
    launch::LaunchSpec,
    process::{ExitOutcome, Pidfd, ProcessIdentity, Tree, sweep::SweepTarget},
};

/// How long a killed child is waited for where nothing can be awaited. More than a millisecond or two means
/// state D, and then it stays a zombie until the host ends.
const REAP_BOUND: Duration = Duration::from_secs(1);

/// Milliseconds for another waiter's wait(2) to finish.
const RELEASE_LOOKS: u32 = 20;

/// Our process, with the right and the duty to reap it where it is our child. Dropping it before
/// [`release`](Self::release) kills it and what can be reached of its tree.
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
    pub(super) fn new(
        reaper: Reaper,
        pidfd: Arc<Pidfd>,
        identity: ProcessIdentity,
        spec: &LaunchSpec,
    ) -> Self {
        let target = SweepTarget::Worker {
            run_id: spec.run_id,
            worker_id: spec.worker_id,
        };
        Self {
            tree: Tree::new(Arc::clone(&pidfd), &identity, target),
            leader: Leader {
                reaper,
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

/// Who reaps the process, and so knows first how it has ended.
pub(super) enum Reaper {
    /// We do.
    Us(Child),
    /// Another process, and this is what it says, once the process has ended. `None` when that has been asked for.
    Another(Option<Pin<Box<dyn Future<Output = ExitOutcome> + Send>>>),
}

impl std::fmt::Debug for Reaper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Us(child) => f.debug_tuple("Us").field(child).finish(),
            Self::Another(_) => f.debug_tuple("Another").finish_non_exhaustive(),
        }
    }
}

/// The process itself, apart from its tree.
#[derive(Debug)]
pub(super) struct Leader {
    reaper: Reaper,
    pidfd: Arc<Pidfd>,
}

impl Leader {
    /// Waits until it has ended and says how, leaving it unreaped if it is ours to reap.
    pub(super) async fn ended(&mut self) -> ExitOutcome {
        if let Err(error) = self.pidfd.exited().await {
            tracing::debug!(pid = self.pidfd.pid(), %error, "cannot watch for an exit; looking for it instead");
            while !self.pidfd.has_exited() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        if let Reaper::Another(told) = &mut self.reaper {
            return match told.take() {
                Some(told) => told.await,
                None => ExitOutcome::Unknown,
            };
        }
        // It has ended, so that "nothing to report yet" cannot be.
        match self.pidfd.peek_outcome() {
            Ok(outcome) => outcome.unwrap_or(ExitOutcome::Unknown),
            // Another waiter in this program was faster, or SIGCHLD is ignored. Newer kernels still know.
            Err(error) => {
                tracing::debug!(pid = self.pidfd.pid(), %error, "somebody else reaped a worker");
                outcome_after_reap(&self.pidfd).await
            }
        }
    }

    /// Reaps it if it has ended and is ours to reap. Repeated calls do no harm: the standard library remembers.
    pub(super) fn reap(&mut self) {
        if let Reaper::Us(child) = &mut self.reaper {
            // An error means that it is reaped already.
            let _ = child.try_wait();
        }
    }
}

async fn outcome_after_reap(pidfd: &Pidfd) -> ExitOutcome {
    // The other waiter has claimed it, and may not be through with it yet.
    for _ in 0..RELEASE_LOOKS {
        match pidfd.reaped_outcome() {
            Ok(Some(outcome)) => return outcome,
            Ok(None) => tokio::time::sleep(Duration::from_millis(1)).await,
            Err(error) => {
                tracing::warn!(pid = pidfd.pid(), %error, "somebody else reaped a worker and has its exit status");
                break;
            }
        }
    }
    ExitOutcome::Unknown
}
