//! The guardian as the host knows it: one life of it, from its start to its death.

mod actor;
pub(crate) mod lost;
mod start;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use snakepit_core::process::Pidfd;
use tokio::sync::{Notify, watch};

pub(crate) use self::start::start;
use crate::{
    cgroups::RunCgroup,
    containment::GuardianError,
    link::{Link, Packet},
    task::Task,
    wire::{Level, Message, Request},
};

/// How long a guardian that may be hanging gets for a sign of life, once it has been silent for so long that it is
/// suspected. A host that was itself stopped, together with its guardian, suspects it wrongly.
const LAST_CHANCE: Duration = Duration::from_secs(1);

/// A guardian. It leaves when its last [`Lease`] and its last process are gone.
#[derive(Debug)]
pub(crate) struct Guardian {
    pub(crate) level: Level,
    /// It made a user namespace, as the host is not privileged.
    pub(crate) user_namespace: bool,
    /// For processes to have theirs in; made at the start at the cgroup level, else when a limit first needs it.
    cgroup: Mutex<Option<Arc<RunCgroup>>>,
    link: Link,
    pidfd: Arc<Pidfd>,
    tasks: Mutex<Tasks>,
    /// Counts what it has said.
    heard: watch::Sender<u64>,
    life: watch::Sender<Life>,
    /// Told when the last lease is gone, and when a task is.
    fewer: Notify,
}

/// What there is to be looked after.
#[derive(Debug, Default)]
struct Tasks {
    all: HashMap<u64, Arc<Task>>,
    /// Nobody will ask for more.
    released: bool,
    /// It was told to leave.
    dismissed: bool,
    closed: bool,
}

/// Whether the guardian lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Alive,
    /// It is dead, or as good as that: nothing will come from it.
    Dead,
}

impl Guardian {
    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        // Each use leaves it whole.
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn pidfd(&self) -> &Arc<Pidfd> {
        &self.pidfd
    }

    pub(crate) fn is_alive(&self) -> bool {
        *self.life.borrow() == Life::Alive
    }

    /// Waits until it is dead.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn dead(&self) {
        let mut life = self.life.subscribe();
        // The sender lives as long as we do.
        let _ = life.wait_for(|life| *life == Life::Dead).await;
    }

    /// Sends a message, now or as soon as there is room; a guardian that is dead gets none.
    pub(crate) fn post(&self, packet: impl Into<Packet>) {
        if self.is_alive() {
            self.link.post(packet);
        }
    }

    /// Looks after a process from now on; `false` when it is too late for that.
    pub(crate) fn add(&self, task: Arc<Task>) -> bool {
        let mut tasks = self.tasks();
        let open = !tasks.closed;
        if open {
            tasks.all.insert(task.id, task);
        }
        open
    }

    pub(crate) fn all_tasks(&self) -> Vec<Arc<Task>> {
        self.tasks().all.values().cloned().collect()
    }

    fn remove(&self, id: u64) {
        self.tasks().all.remove(&id);
        self.fewer.notify_one();
    }

    /// The cgroup that processes have theirs in.
    pub(crate) fn run_cgroup(
        &self,
        make: impl FnOnce() -> Result<RunCgroup, GuardianError>,
    ) -> Result<Arc<RunCgroup>, GuardianError> {
        let mut cgroup = self.cgroup.lock().unwrap_or_else(PoisonError::into_inner);
        match &*cgroup {
            Some(made) => Ok(Arc::clone(made)),
            None => {
                let made = Arc::new(make()?);
                *cgroup = Some(Arc::clone(&made));
                Ok(made)
            }
        }
    }

    fn take_cgroup(&self) -> Option<Arc<RunCgroup>> {
        self.cgroup.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Asks a guardian that is overdue for a sign of life, and kills it when there is none; `false` then.
    pub(crate) async fn confirm_alive(&self) -> bool {
        let mut heard = self.heard.subscribe();
        self.post(Message::new(Request::Ping, 0));
        tokio::select! {
            biased;
            () = self.dead() => false,
            // The sender lives as long as we do.
            _ = heard.changed() => true,
            () = tokio::time::sleep(LAST_CHANCE) => {
                tracing::warn!(pid = self.pidfd.pid(), "the guardian gives no sign of life: killing it");
                self.kill();
                self.dead().await;
                false
            }
        }
    }

    fn kill(&self) {
        if let Err(error) = self.pidfd.signal(libc::SIGKILL) {
            // Reaped already.
            tracing::debug!(pid = self.pidfd.pid(), %error, "cannot kill the guardian");
        }
    }

    /// Tells it to end everything and to leave, once it was sent what it is to know before.
    ///
    /// # Cancel safety
    /// It is told nothing when the future is dropped.
    pub(crate) async fn dismiss(&self, patience: Duration) {
        let sent = async {
            while self.is_alive() && !self.link.is_drained() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        // One that reads nothing for so long is not asked, but killed in the end.
        let _ = tokio::time::timeout(patience, sent).await;
        self.tasks().dismissed = true;
        self.link.close();
    }
}

/// The right to have a guardian start processes. With the last one, and the last process, it leaves.
#[derive(Debug)]
pub(crate) struct Lease {
    guardian: Arc<Guardian>,
}

impl std::ops::Deref for Lease {
    type Target = Guardian;

    fn deref(&self) -> &Guardian {
        &self.guardian
    }
}

impl Lease {
    pub(crate) fn guardian(&self) -> &Arc<Guardian> {
        &self.guardian
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.guardian.tasks().released = true;
        self.guardian.fewer.notify_one();
    }
}

/// The error of a step before there is a guardian.
fn os(step: &'static str) -> impl FnOnce(io::Error) -> GuardianError {
    move |source| GuardianError::Os { step, source }
}
