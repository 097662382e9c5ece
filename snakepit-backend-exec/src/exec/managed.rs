//! Processes that somebody else started.

use std::{
    os::fd::AsFd,
    sync::{Arc, Mutex},
    time::Duration,
};

use snakepit_core::process::{ExitOutcome, Pidfd, ProcessIdentity};
use tokio::{sync::watch, time::timeout};

use super::{
    Child, Inner,
    error::ManageError,
    lock,
    monitor::{Exit, Exits},
};
use crate::{
    engine::{Engine, next_id},
    guardian::{
        Lease,
        lost::{gone, outcome},
    },
    link::Packet,
    wire::{Message, Request},
};

/// The pause before another attempt where no guardian can be started.
const RETRY: Duration = Duration::from_secs(1);

/// A process that was adopted: it is ended when the host dies. Dropping this releases it.
///
/// Only the process itself is adopted. What it starts is its own, and is not looked for.
#[derive(Debug)]
#[must_use = "dropping it releases the process"]
pub struct Managed {
    process: Arc<ManagedProcess>,
}

#[derive(Debug)]
pub(crate) struct ManagedProcess {
    id: u64,
    identity: ProcessIdentity,
    pidfd: Arc<Pidfd>,
    /// The guardian that knows of it.
    lease: Arc<Mutex<Arc<Lease>>>,
    released: watch::Sender<bool>,
}

impl ManagedProcess {
    pub(super) async fn adopt(inner: &Inner, identity: &ProcessIdentity) -> Result<Arc<Self>, ManageError> {
        let pidfd = Arc::new(identity.open()?.ok_or(ManageError::Gone)?);
        // The guardian is the same user as we are.
        pidfd.signal(0).map_err(ManageError::Signal)?;
        let lease = inner.engine.guardian().await?;
        let id = next_id();
        let process = Arc::new(Self {
            id,
            identity: identity.clone(),
            pidfd: Arc::clone(&pidfd),
            lease: Arc::new(Mutex::new(Arc::clone(&lease))),
            released: watch::Sender::new(false),
        });
        manage(&lease, id, &pidfd).map_err(ManageError::Signal)?;
        let adopted = Adopted {
            id,
            identity: identity.clone(),
            pidfd,
            engine: Arc::clone(&inner.engine),
            exits: inner.exits.clone(),
            lease: Arc::clone(&process.lease),
            released: process.released.subscribe(),
        };
        tokio::spawn(adopted.keep());
        Ok(process)
    }

    pub(super) fn release(&self) {
        self.released.send_replace(true);
        // At once, and not by the task: the guardian may be told to leave next.
        let lease = Arc::clone(&*lock(&self.lease));
        lease.post(Message::new(Request::Release, self.id));
    }

    pub(super) fn child(&self) -> Option<Child> {
        (!self.pidfd.has_exited()).then(|| Child {
            identity: self.identity.clone(),
            program: None,
        })
    }
}

fn manage(lease: &Lease, id: u64, pidfd: &Pidfd) -> std::io::Result<()> {
    lease.post(Packet {
        message: Message::new(Request::Manage, id),
        fds: vec![Arc::new(pidfd.as_fd().try_clone_to_owned()?)],
    });
    Ok(())
}

/// What the task that looks after a managed process knows.
struct Adopted {
    id: u64,
    identity: ProcessIdentity,
    pidfd: Arc<Pidfd>,
    engine: Arc<Engine>,
    exits: Exits,
    lease: Arc<Mutex<Arc<Lease>>>,
    released: watch::Receiver<bool>,
}

impl Adopted {
    /// Until it ends or is released. A new guardian is told of it when the old one dies.
    async fn keep(mut self) {
        loop {
            let lease = Arc::clone(&*lock(&self.lease));
            tokio::select! {
                biased;
                () = gone(&self.pidfd) => {
                    let outcome = outcome(&self.pidfd).await;
                    self.exits.tell(Exit { identity: self.identity, outcome });
                    return;
                }
                // Released, or dropped.
                _ = self.released.changed() => {
                    lease.post(Message::new(Request::Release, self.id));
                    return;
                }
                () = lease.dead() => {}
            }
            let lease = loop {
                match self.engine.guardian().await {
                    Ok(lease) => break lease,
                    Err(error) => {
                        tracing::warn!(pid = self.pidfd.pid(), %error, "nobody will end a managed process");
                        tokio::time::sleep(RETRY).await;
                    }
                }
            };
            if let Err(error) = manage(&lease, self.id, &self.pidfd) {
                tracing::warn!(pid = self.pidfd.pid(), %error, "nobody will end a managed process");
            }
            *lock(&self.lease) = lease;
        }
    }
}

impl Managed {
    pub(super) fn new(process: Arc<ManagedProcess>) -> Self {
        Self { process }
    }

    /// Who it is.
    pub fn identity(&self) -> &ProcessIdentity {
        &self.process.identity
    }

    /// Waits until it has ended. How it ended is known where the kernel tells strangers, from Linux 6.15 on, and once its
    /// parent has reaped it.
    ///
    /// # Cancel safety
    /// Safe; nothing is lost.
    pub async fn exited(&self) -> ExitOutcome {
        gone(&self.process.pidfd).await;
        outcome(&self.process.pidfd).await
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// What pidfd_send_signal(2) answers: `ESRCH` when it has been reaped.
    pub fn signal(&self, signal: i32) -> std::io::Result<()> {
        self.process.pidfd.signal(signal)
    }

    /// Ends it: SIGTERM and SIGCONT, the grace, SIGKILL.
    ///
    /// # Cancel safety
    /// Signals that were sent stay sent; SIGKILL is not sent when the future is dropped before.
    pub async fn end(&self, grace: Duration) -> ExitOutcome {
        for signal in [libc::SIGTERM, libc::SIGCONT] {
            // It has ended, or may not be signalled any more, and then nothing else helps either.
            let _ = self.signal(signal);
        }
        if timeout(grace, gone(&self.process.pidfd)).await.is_err() {
            let _ = self.signal(libc::SIGKILL);
        }
        self.exited().await
    }

    /// Lets it go on without us.
    pub fn release(self) {}
}

impl Drop for Managed {
    fn drop(&mut self) {
        self.process.release();
    }
}
