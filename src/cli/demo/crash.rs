//! What the tour needs to kill a worker and to see what follows.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use snakepit::{Event, EventKind, Pool, core::SlotId};
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::steps::PATIENCE;
use crate::cli::failure::Failure;

/// Kills a process that is ours and runs, so that its pid is still its own.
pub(super) fn kill(pid: u32) -> io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("not a pid"))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    Ok(pidfd_send_signal(pidfd, Signal::KILL)?)
}

/// Waits for the slot's next worker; its pid, and the time since `killed`.
pub(super) async fn replacement(
    events: &mut Receiver<Event>,
    of: SlotId,
    killed: Instant,
) -> Result<(u32, Duration), Failure> {
    let ready = async {
        loop {
            match events.recv().await {
                Ok(Event {
                    kind: EventKind::WorkerReady { slot, pid, .. },
                    ..
                }) if slot == of => return Ok((pid.unwrap_or_default(), killed.elapsed())),
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => {
                    return Err(Failure::Failed(
                        "the pool ended instead of replacing its worker".to_owned(),
                    ));
                }
            }
        }
    };
    match timeout(PATIENCE, ready).await {
        Ok(ready) => ready,
        Err(_) => Err(Failure::Failed(format!(
            "the worker was not replaced within {PATIENCE:?}"
        ))),
    }
}

/// Another caller of the pool, who goes on while a worker dies.
#[derive(Debug)]
pub(super) struct Bystander {
    enough: Arc<AtomicBool>,
    calls: JoinHandle<(u64, u64)>,
}

impl Bystander {
    pub(super) fn start(pool: &Pool) -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let calls = tokio::spawn({
            let (pool, enough) = (pool.clone(), Arc::clone(&enough));
            async move {
                let (mut made, mut failed) = (0, 0);
                while !enough.load(Ordering::Relaxed) {
                    let answer = pool.call::<_, i64>("nile:flow", (1871,)).await;
                    made += 1;
                    failed += u64::from(answer.is_err());
                }
                (made, failed)
            }
        });
        Self { enough, calls }
    }

    /// How many calls were made and how many of them failed.
    pub(super) async fn stop(self) -> Result<(u64, u64), Failure> {
        self.enough.store(true, Ordering::Relaxed);
        self.calls
            .await
            .map_err(|panic| Failure::Failed(panic.to_string()))
    }
}
