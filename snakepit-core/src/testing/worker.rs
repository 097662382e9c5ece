//! A worker without process.

use std::{
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{sync::watch, time::Instant};

use super::{FakeBehaviour, FakeClient, Journal, Record, filled, lock};
use crate::{
    clock::after,
    id::{SlotId, WorkerId},
    process::{EndReport, EndStep, ExitOutcome},
    worker::{Down, DownReason, Worker, WorkerClient},
};

/// A worker without process. It serves calls as its [`FakeBehaviour`] says and crashes on command.
///
/// Dropping it without [`Worker::end`] ends it, as a real worker's last defence does.
#[derive(Debug)]
pub struct FakeWorker {
    id: WorkerId,
    slot: SlotId,
    pid: Option<u32>,
    client: FakeClient,
    nature: Nature,
    down: watch::Sender<Option<Down>>,
    gone: watch::Sender<Option<EndReport>>,
    asked: Mutex<Vec<(Duration, Duration)>>,
    ending_since: OnceLock<Instant>,
    journal: Journal,
}

/// What the workers of a factory have in common.
#[derive(Clone, Debug)]
pub(super) struct Nature {
    pub(super) concurrency: usize,
    pub(super) health_check: Option<Arc<str>>,
    pub(super) end_takes: Duration,
}

impl Default for Nature {
    fn default() -> Self {
        Self {
            concurrency: 1,
            health_check: None,
            end_takes: Duration::ZERO,
        }
    }
}

impl FakeWorker {
    /// A worker that is ready. It does not count as launched in the journal; a factory's does.
    pub fn new(slot: SlotId, behaviour: FakeBehaviour) -> Arc<Self> {
        Self::made(
            slot,
            WorkerId::next(),
            behaviour,
            Nature::default(),
            None,
            Journal::new(),
        )
    }

    /// A worker that is ready and runs several calls at the same time.
    pub fn concurrent(slot: SlotId, behaviour: FakeBehaviour, concurrency: usize) -> Arc<Self> {
        let nature = Nature {
            concurrency,
            ..Nature::default()
        };
        Self::made(slot, WorkerId::next(), behaviour, nature, None, Journal::new())
    }

    pub(super) fn made(
        slot: SlotId,
        id: WorkerId,
        behaviour: FakeBehaviour,
        nature: Nature,
        pid: Option<u32>,
        journal: Journal,
    ) -> Arc<Self> {
        let down = watch::Sender::new(None);
        Arc::new(Self {
            id,
            slot,
            pid,
            client: FakeClient::new(id, behaviour, down.subscribe()),
            nature,
            down,
            gone: watch::Sender::new(None),
            asked: Mutex::default(),
            ending_since: OnceLock::new(),
            journal,
        })
    }

    /// Its slot.
    pub fn slot(&self) -> SlotId {
        self.slot
    }

    /// Its client, with what a test wants to know of it.
    pub fn fake_client(&self) -> &FakeClient {
        &self.client
    }

    /// Dies as by SIGKILL.
    pub fn crash(&self) {
        self.exit(ExitOutcome::Signaled {
            signal: libc::SIGKILL,
            core_dumped: false,
        });
    }

    /// Its process ends in this way.
    pub fn exit(&self, outcome: ExitOutcome) {
        self.go_down(Down {
            reason: DownReason::Exited,
            outcome: Some(outcome),
            stderr_tail: String::new(),
        });
    }

    /// Whether it can serve.
    pub fn is_up(&self) -> bool {
        self.down.borrow().is_none()
    }

    /// The drain and grace of each [`Worker::end`], in order.
    pub fn ends_asked(&self) -> Vec<(Duration, Duration)> {
        lock(&self.asked).clone()
    }

    /// Goes down once; later reasons are ignored.
    fn go_down(&self, why: Down) {
        self.down.send_if_modified(|down| {
            let first = down.is_none();
            if first {
                *down = Some(why);
            }
            first
        });
    }

    /// Leaves nothing behind, once.
    fn leave(&self, report: EndReport) {
        self.gone.send_if_modified(|gone| {
            let first = gone.is_none();
            if first {
                *gone = Some(report);
                self.journal.write(Record::Gone(self.slot, self.id));
            }
            first
        });
    }
}

#[async_trait]
impl Worker for FakeWorker {
    fn id(&self) -> WorkerId {
        self.id
    }

    fn pid(&self) -> Option<u32> {
        self.pid
    }

    fn client(&self) -> Arc<dyn WorkerClient> {
        Arc::new(self.client.clone())
    }

    fn concurrency(&self) -> usize {
        self.nature.concurrency
    }

    fn health_check(&self) -> Option<Arc<str>> {
        self.nature.health_check.clone()
    }

    fn ends_sessions(&self) -> bool {
        true
    }

    fn condemn(&self, reason: DownReason) {
        self.go_down(Down {
            reason,
            outcome: None,
            stderr_tail: String::new(),
        });
    }

    async fn down(&self) -> Down {
        filled(self.down.subscribe()).await
    }

    async fn end(&self, drain: Duration, grace: Duration) -> EndReport {
        let began = *self.ending_since.get_or_init(Instant::now);
        let was_up = self.is_up();
        let first = {
            let mut asked = lock(&self.asked);
            asked.push((drain, grace));
            asked.len() == 1
        };
        if first {
            self.journal.write(Record::EndAsked(self.slot, self.id));
        }
        self.condemn(DownReason::Requested);
        let mut gone = self.gone.subscribe();
        // A fake takes its time to end, yet never longer than a real one may.
        let takes = self.nature.end_takes.min(drain.saturating_add(grace));
        let wait = async {
            if !takes.is_zero() {
                tokio::time::sleep_until(after(began, takes)).await;
            }
        };
        tokio::select! {
            biased;
            _ = gone.wait_for(Option::is_some) => {}
            () = wait => {}
        }
        let report = EndReport {
            outcome: ExitOutcome::Exited(0),
            step: if was_up {
                EndStep::Term
            } else {
                EndStep::AlreadyGone
            },
            took: began.elapsed(),
            swept: 0,
            remaining: Vec::new(),
        };
        self.leave(report.clone());
        let agreed = self.gone.borrow().clone();
        agreed.unwrap_or(report)
    }
}

impl Drop for FakeWorker {
    fn drop(&mut self) {
        self.leave(EndReport {
            outcome: ExitOutcome::Unknown,
            step: EndStep::Kill,
            took: Duration::ZERO,
            swept: 0,
            remaining: Vec::new(),
        });
    }
}
