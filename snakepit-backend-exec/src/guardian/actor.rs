//! The task that hears one guardian out, and sees its death.

use std::{process::Child, sync::Arc, time::Duration};

use tokio::time::{Interval, MissedTickBehavior};

use super::{Guardian, Life, lost};
use crate::{
    cgroups,
    link::Received,
    settings::ExecSettings,
    wire::{Event, Message, Request},
};

/// How long the death of a guardian that was killed may take, and its leave beyond the grace that trees get. More
/// means a process in state D.
const LEAVE_BOUND: Duration = Duration::from_secs(5);

/// Why the host is through with a guardian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    /// Nobody needs it any more.
    Unused,
    /// It has died, or closed its end.
    Gone,
    /// It hangs, or talks nonsense, or cannot be heard.
    Useless(&'static str),
}

/// The guardian's process, with the right and the duty to reap it. Dropped before [`reap`](Self::reap), as when the
/// runtime shuts down, it has the guardian end everything and leave.
#[derive(Debug)]
pub(super) struct Owned {
    pub(super) guardian: Arc<Guardian>,
    pub(super) child: Option<Child>,
    pub(super) patience: Duration,
}

/// Runs until the guardian is dead and reaped.
pub(super) async fn run(mut owned: Owned, settings: ExecSettings) {
    let guardian = Arc::clone(&owned.guardian);
    let over = listen(&guardian, &settings).await;
    let pid = guardian.pidfd.pid();
    let dismissed = guardian.tasks().dismissed;
    match over {
        Over::Gone if dismissed => tracing::debug!(pid, "the guardian was told to leave"),
        Over::Unused => tracing::debug!(pid, "the guardian is not needed any more"),
        Over::Gone => tracing::warn!(pid, "the guardian is gone; what it started is ended"),
        Over::Useless(why) => {
            tracing::warn!(pid, why, "the guardian is killed; what it started is ended");
            guardian.kill();
        }
    }
    guardian.link.close();
    if tokio::time::timeout(owned.patience, died(&guardian))
        .await
        .is_err()
    {
        tracing::warn!(pid, "the guardian does not leave: killing it");
        guardian.kill();
        if tokio::time::timeout(LEAVE_BOUND, died(&guardian)).await.is_err() {
            tracing::error!(pid, "the guardian cannot be killed");
        }
    }
    owned.reap();
    for task in guardian.all_tasks() {
        tokio::spawn(lost::end(Arc::clone(&guardian), task));
    }
}

/// Takes in what it says, until there is no point in that any more.
async fn listen(guardian: &Guardian, settings: &ExecSettings) -> Over {
    let mut watchdog = Watchdog::new(settings);
    let death = died(guardian);
    tokio::pin!(death);
    loop {
        tokio::select! {
            // Its words first: what it said before it died is still true, and a sign of life is one.
            biased;
            received = guardian.link.receive() => match received {
                Ok(Received::Event(event, fds)) => {
                    guardian.heard.send_modify(|heard| *heard = heard.wrapping_add(1));
                    watchdog.heard(event);
                    hear(guardian, event, fds);
                }
                Ok(Received::End) => return Over::Gone,
                Ok(Received::Nonsense) => return Over::Useless("it does not speak the protocol"),
                Err(error) => {
                    tracing::debug!(%error, "cannot hear the guardian");
                    return Over::Useless("it cannot be heard");
                }
            },
            () = &mut death => return Over::Gone,
            error = guardian.link.flush() => {
                tracing::debug!(%error, "cannot speak to the guardian");
                return Over::Useless("it cannot be spoken to");
            }
            () = unused(guardian) => return Over::Unused,
            _ = watchdog.ticks.tick() => match watchdog.tick() {
                Look::Fine => {}
                Look::Ask => guardian.link.post(Message::new(Request::Ping, 0)),
                Look::Stuck => return Over::Useless("it hangs"),
            },
        }
    }
}

fn hear(guardian: &Guardian, event: Message<Event>, fds: Vec<std::os::fd::OwnedFd>) {
    let task = guardian.tasks().all.get(&event.id).cloned();
    let Some(task) = task else { return };
    if task.on_event(event, fds) {
        guardian.remove(event.id);
        // The guardian does so as well where it knows the directory, and also when we are dead.
        if task.cgroup.is_some() {
            tokio::task::spawn_blocking(move || task.cgroup.as_ref().map(cgroups::remove));
        }
    }
}

/// Waits until nobody needs it: no lease, no process.
async fn unused(guardian: &Guardian) {
    loop {
        {
            let mut tasks = guardian.tasks();
            if tasks.released && tasks.all.is_empty() {
                tasks.closed = true;
                return;
            }
        }
        guardian.fewer.notified().await;
    }
}

async fn died(guardian: &Guardian) {
    if let Err(error) = guardian.pidfd.exited().await {
        tracing::debug!(%error, "cannot watch for the guardian's death; looking for it instead");
        while !guardian.pidfd.has_exited() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Tells a guardian that hangs from one that has nothing to say. It counts its own ticks and not the time, so that a
/// host which was stopped for a while does not take its own silence for the guardian's.
struct Watchdog {
    ticks: Interval,
    allowed: u32,
    silent: u32,
    asked: bool,
}

enum Look {
    Fine,
    Ask,
    Stuck,
}

impl Watchdog {
    fn new(settings: &ExecSettings) -> Self {
        let every = settings.ping_every();
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let allowed = settings
            .stuck_after
            .as_millis()
            .div_ceil(every.as_millis().max(1));
        Self {
            ticks,
            allowed: u32::try_from(allowed).unwrap_or(u32::MAX).max(1),
            silent: 0,
            asked: false,
        }
    }

    fn heard(&mut self, event: Message<Event>) {
        self.silent = 0;
        if event.kind == Event::Pong {
            self.asked = false;
        }
    }

    fn tick(&mut self) -> Look {
        if !self.asked {
            self.asked = true;
            return Look::Ask;
        }
        self.silent += 1;
        if self.silent > self.allowed {
            Look::Stuck
        } else {
            Look::Fine
        }
    }
}

impl Owned {
    /// Reaps a guardian that has ended.
    fn reap(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Somebody else in the host reaped it: as good.
            let _ = child.try_wait();
        }
        self.declare_dead();
    }

    fn declare_dead(&self) {
        self.guardian.tasks().closed = true;
        self.guardian.life.send_replace(Life::Dead);
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        self.guardian.link.close();
        self.declare_dead();
        // Nothing can be awaited: the runtime is shutting down, or this is a panic. It leaves by itself, and somebody
        // has to reap it then, or to kill it if it hangs.
        let (pidfd, patience) = (Arc::clone(&self.guardian.pidfd), self.patience);
        let cgroup = self.guardian.take_cgroup();
        let reaper = move || {
            if !pidfd.wait_blocking(patience) {
                let _ = pidfd.signal(libc::SIGKILL);
            }
            let _ = child.wait();
            // Its directory is removed when nothing is in it any more.
            drop(cgroup);
        };
        if let Err(error) = std::thread::Builder::new()
            .name("snakepit-reaper".to_owned())
            .spawn(reaper)
        {
            tracing::warn!(%error, "the guardian is not reaped");
        }
    }
}

/// How long a guardian that was told to leave may take.
pub(super) fn patience(settings: &ExecSettings) -> Duration {
    settings.host_death_grace.saturating_add(LEAVE_BOUND)
}
