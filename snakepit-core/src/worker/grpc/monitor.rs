//! Notices when a worker cannot serve any more.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use super::{Live, client};
use crate::{
    clock::{after, within},
    id::WorkerId,
    rpc::{Calls, Connection},
    worker::{Down, DownReason},
};

/// A dying process closes its sockets a moment before its exit can be seen.
pub(super) const EXIT_FOLLOWS_EOF: Duration = Duration::from_millis(250);
/// How long to wait for the end of standard error once the process is gone; a grandchild may hold it open.
const STDERR_FOLLOWS_EXIT: Duration = Duration::from_millis(50);

/// Watches a worker until it is down, then says so. Holds no handle that would keep the worker alive longer than
/// its users do.
pub(super) fn spawn(worker: &Arc<Live>, ways: Ways) {
    let weak = Arc::downgrade(worker);
    let process = Arc::clone(&worker.process);
    let mut condemned = worker.condemned.subscribe();
    let stderr = worker.stderr.clone();
    let heartbeat = tokio::spawn(heartbeat(Arc::downgrade(worker)));
    tokio::spawn(async move {
        let reason = tokio::select! {
            // An exit explains everything else that happens with it.
            biased;
            _ = process.exited() => DownReason::Exited,
            condemnation = condemnation(&mut condemned) => match condemnation {
                Some(reason) => reason,
                // The last handle is gone, and with it everybody who would want to know.
                None => return,
            },
            () = ways.any_closed() => if within(EXIT_FOLLOWS_EOF, process.exited()).await.is_some() {
                DownReason::Exited
            } else {
                DownReason::ChannelClosed
            },
        };
        heartbeat.abort();
        let outcome = process.try_exited();
        if outcome.is_some() {
            // What is missing after that bound is only missing from an error's text.
            let _ = timeout(STDERR_FOLLOWS_EXIT, stderr.drained()).await;
        }
        if let Some(worker) = weak.upgrade() {
            worker.down.send_replace(Some(Down {
                reason,
                outcome,
                stderr_tail: stderr.text(),
            }));
        }
    });
}

/// `None` when the worker's last handle was dropped.
async fn condemnation(condemned: &mut watch::Receiver<Option<DownReason>>) -> Option<DownReason> {
    condemned.wait_for(Option::is_some).await.ok()?.clone()
}

/// The ways to a worker whose end is the worker's.
pub(super) struct Ways {
    pub(super) control: Connection,
    /// Open from the beginning.
    pub(super) data: Option<Connection>,
    pub(super) calls: Option<Calls>,
}

impl Ways {
    async fn any_closed(&self) {
        tokio::select! {
            () = self.control.closed() => {}
            () = of(self.data.as_ref().map(Connection::closed)) => {}
            () = of(self.calls.as_ref().map(Calls::closed)) => {}
        }
    }
}

async fn of(closed: Option<impl Future<Output = ()>>) {
    match closed {
        Some(closed) => closed.await,
        None => std::future::pending().await,
    }
}

/// The beats to ask a worker for: as many as it is looked at. Fractions of a millisecond are rounded up, so that none asks for none.
pub(super) fn beat_ms(interval: Duration) -> u32 {
    u32::try_from(interval.as_micros().div_ceil(1000))
        .unwrap_or(u32::MAX)
        .max(1)
}

/// Looks whether the control thread beats, and pings it when it has not since the last look; a worker that leaves a ping unanswered
/// for long enough is condemned.
async fn heartbeat(worker: std::sync::Weak<Live>) {
    let Some((id, settings)) = worker.upgrade().map(|worker| (worker.id, worker.spec.heartbeat)) else {
        return;
    };
    let mut beats = None;
    loop {
        sleep_until(next_beat(id, settings.interval, Instant::now())).await;
        let Some(control) = worker.upgrade().map(|worker| {
            if let Some(arena) = &worker.client.arena {
                // The worker does the same for its half when it beats, or the ping comes.
                arena.tidy();
            }
            let seen = worker.beats.as_ref().and_then(|journal| journal.beats().ok());
            let has_beaten = seen.is_some() && seen != beats;
            beats = seen;
            (!has_beaten).then(|| worker.control.clone())
        }) else {
            return;
        };
        let Some(control) = control else { continue };
        // An error is an answer as well, or the connection's end, which is noticed by whoever watches it.
        if within(settings.stuck_after, client::ping(&control))
            .await
            .is_none()
        {
            if let Some(worker) = worker.upgrade() {
                worker.condemn(DownReason::Unresponsive(settings.stuck_after));
            }
            return;
        }
    }
}

/// Beats of different workers fall together, an eighth of the workers at a time: a host that wakes up for one ping
/// sends a dozen at little more than the cost of one.
fn next_beat(worker: WorkerId, interval: Duration, now: Instant) -> Instant {
    const GROUPS: u32 = 8;
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    let epoch = *EPOCH.get_or_init(|| now);
    let group = u32::try_from(worker.0 % u64::from(GROUPS)).unwrap_or(0);
    let nanos = interval.as_nanos().max(1);
    let phase = (interval / GROUPS * group).as_nanos();
    let passed = now.saturating_duration_since(epoch).as_nanos();
    // From now to the next instant that is a whole number of intervals and the group's phase after the epoch.
    let left = nanos - (passed + nanos - phase % nanos) % nanos;
    after(
        now,
        u64::try_from(left).map_or(Duration::MAX, Duration::from_nanos),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn beats_keep_their_interval_and_fall_together_by_groups() {
        let interval = Duration::from_secs(2);
        let now = Instant::now();
        let beats: Vec<_> = (0..16).map(|id| next_beat(WorkerId(id), interval, now)).collect();
        for (at, beat) in beats.iter().enumerate() {
            assert!(now < *beat && *beat <= now + interval);
            assert_eq!(next_beat(WorkerId(at as u64), interval, *beat), *beat + interval);
            assert_eq!(*beat, beats[at % 8]);
        }
        next_beat(WorkerId(3), Duration::MAX, now);
        next_beat(WorkerId(3), Duration::ZERO, now);
    }
}
