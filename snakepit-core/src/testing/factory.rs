//! A factory of fake workers.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::{FakeBehaviour, FakeWorker, Journal, Record, lock, worker::Nature};
use crate::{
    id::{SlotId, WorkerId},
    process::ExitOutcome,
    worker::{StartError, StartErrorKind, StartPhase, StartTurn, Worker, WorkerFactory},
};

/// The first pid of a fake worker: above the kernel's highest (`PID_MAX_LIMIT`, 4,194,304), so that it names no
/// process.
const FIRST_PID: u32 = 5_000_001;

/// How a start goes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FakeStart {
    /// Ready after this time.
    Ready(Duration),
    /// Fails after this time; the process has said these words.
    Fails(Duration, String),
    /// Never becomes ready and never fails.
    Hangs,
    /// Panics: a defect in the factory itself.
    Panics,
}

impl FakeStart {
    /// Ready at once.
    pub const fn ready() -> Self {
        Self::Ready(Duration::ZERO)
    }

    /// Fails at once, saying this.
    pub fn fails(said: &str) -> Self {
        Self::Fails(Duration::ZERO, said.to_owned())
    }
}

/// Makes [`FakeWorker`]s. Clones share everything.
#[derive(Clone, Debug)]
pub struct FakeWorkerFactory {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    journal: Journal,
    plan: Mutex<Plan>,
    workers: Mutex<BTreeMap<SlotId, Weak<FakeWorker>>>,
    /// Also those that others have followed.
    all_workers: Mutex<Vec<Weak<FakeWorker>>>,
    /// Abandoned starts that are not gone yet, over all slots.
    abandoned: Mutex<BTreeMap<SlotId, u32>>,
    settled: Notify,
    next_pid: AtomicU32,
}

#[derive(Clone, Debug)]
struct Plan {
    script: VecDeque<FakeStart>,
    slot_scripts: BTreeMap<SlotId, VecDeque<FakeStart>>,
    otherwise: FakeStart,
    behaviour: FakeBehaviour,
    nature: Nature,
    abandon_takes: Duration,
}

impl Default for FakeWorkerFactory {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeWorkerFactory {
    /// Every start is ready at once, and its worker echoes.
    pub fn new() -> Self {
        Self::with_journal(Journal::new())
    }

    /// The same, writing to this journal.
    pub fn with_journal(journal: Journal) -> Self {
        let plan = Plan {
            script: VecDeque::new(),
            slot_scripts: BTreeMap::new(),
            otherwise: FakeStart::ready(),
            behaviour: FakeBehaviour::Echo,
            nature: Nature::default(),
            abandon_takes: Duration::ZERO,
        };
        let shared = Shared {
            journal,
            plan: Mutex::new(plan),
            workers: Mutex::default(),
            all_workers: Mutex::default(),
            abandoned: Mutex::default(),
            settled: Notify::new(),
            next_pid: AtomicU32::new(FIRST_PID),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    fn plan(self, change: impl FnOnce(&mut Plan)) -> Self {
        change(&mut lock(&self.shared.plan));
        self
    }

    /// The next starts of any slot go like this, in order.
    #[must_use]
    pub fn with_script(self, script: impl IntoIterator<Item = FakeStart>) -> Self {
        self.plan(|plan| plan.script.extend(script))
    }

    /// The next starts of this slot go like this; they come before the script for any slot.
    #[must_use]
    pub fn with_slot_script(self, slot: SlotId, script: impl IntoIterator<Item = FakeStart>) -> Self {
        self.plan(|plan| plan.slot_scripts.entry(slot).or_default().extend(script))
    }

    /// Starts without script go like this. Default: ready at once.
    #[must_use]
    pub fn with_otherwise(self, otherwise: FakeStart) -> Self {
        self.plan(|plan| plan.otherwise = otherwise)
    }

    /// Calls that a worker runs at the same time. Default 1.
    #[must_use]
    pub fn with_concurrency(self, concurrency: usize) -> Self {
        self.plan(|plan| plan.nature.concurrency = concurrency)
    }

    /// The function that tells whether a worker is healthy: calls of it are what its behaviour makes of them. Default: none.
    #[must_use]
    pub fn with_health_check(self, function: &str) -> Self {
        self.plan(|plan| plan.nature.health_check = Some(function.into()))
    }

    /// What workers do with calls. Default: echo.
    #[must_use]
    pub fn with_behaviour(self, behaviour: FakeBehaviour) -> Self {
        self.plan(|plan| plan.behaviour = behaviour)
    }

    /// How long a worker takes to end. Default: no time.
    #[must_use]
    pub fn with_end_taking(self, takes: Duration) -> Self {
        self.plan(|plan| plan.nature.end_takes = takes)
    }

    /// How long an abandoned start takes to leave nothing behind. Default: no time.
    #[must_use]
    pub fn with_abandon_taking(self, takes: Duration) -> Self {
        self.plan(|plan| plan.abandon_takes = takes)
    }

    /// How starts without script go from now on.
    pub fn set_otherwise(&self, otherwise: FakeStart) {
        lock(&self.shared.plan).otherwise = otherwise;
    }

    /// What workers started from now on do with calls.
    pub fn set_behaviour(&self, behaviour: FakeBehaviour) {
        lock(&self.shared.plan).behaviour = behaviour;
    }

    /// What happened.
    pub fn journal(&self) -> &Journal {
        &self.shared.journal
    }

    /// The slot's worker, if one has become ready and is still held by somebody.
    pub fn worker(&self, slot: SlotId) -> Option<Arc<FakeWorker>> {
        lock(&self.shared.workers).get(&slot).and_then(Weak::upgrade)
    }

    /// The workers that have become ready and are still held by somebody, oldest first: also those that were replaced and
    /// finish their calls.
    pub fn workers(&self) -> Vec<Arc<FakeWorker>> {
        let all = lock(&self.shared.all_workers);
        all.iter().filter_map(Weak::upgrade).collect()
    }
}

/// A start under way. Dropped before it is done, it was abandoned and ends in the background.
struct Attempt {
    slot: SlotId,
    worker: WorkerId,
    abandon_takes: Duration,
    shared: Arc<Shared>,
    done: bool,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let (slot, worker) = (self.slot, self.worker);
        if self.done {
            return;
        }
        let journal = self.shared.journal.clone();
        journal.write(Record::Abandoned(slot, worker));
        // Without a runtime nothing can go on in the background: the host itself is at its end.
        let runtime = tokio::runtime::Handle::try_current();
        let Some(runtime) = runtime.ok().filter(|_| !self.abandon_takes.is_zero()) else {
            journal.write(Record::Gone(slot, worker));
            return;
        };
        *lock(&self.shared.abandoned).entry(slot).or_default() += 1;
        let shared = Arc::clone(&self.shared);
        let takes = self.abandon_takes;
        runtime.spawn(async move {
            tokio::time::sleep(takes).await;
            journal.write(Record::Gone(slot, worker));
            if let Some(left) = lock(&shared.abandoned).get_mut(&slot) {
                *left -= 1;
            }
            shared.settled.notify_waiters();
        });
    }
}

#[async_trait]
impl WorkerFactory for FakeWorkerFactory {
    async fn start(&self, slot: SlotId, turn: StartTurn) -> Result<Arc<dyn Worker>, StartError> {
        let _permit = turn.come().await;
        let worker = WorkerId::next();
        let (start, plan) = {
            let mut plan = lock(&self.shared.plan);
            let scripted = plan.slot_scripts.get_mut(&slot).and_then(VecDeque::pop_front);
            let scripted = scripted.or_else(|| plan.script.pop_front());
            let start = scripted.unwrap_or_else(|| plan.otherwise.clone());
            (
                start,
                (plan.behaviour.clone(), plan.nature.clone(), plan.abandon_takes),
            )
        };
        let (behaviour, nature, abandon_takes) = plan;
        self.shared.journal.write(Record::Launched(slot, worker));
        let mut attempt = Attempt {
            slot,
            worker,
            abandon_takes,
            shared: Arc::clone(&self.shared),
            done: false,
        };
        match start {
            FakeStart::Ready(after) => {
                pause(after).await;
                attempt.done = true;
                self.shared.journal.write(Record::Ready(slot, worker));
                let pid = self.shared.next_pid.fetch_add(1, Ordering::Relaxed);
                let journal = self.shared.journal.clone();
                let ready = FakeWorker::made(slot, worker, behaviour, nature, Some(pid), journal);
                lock(&self.shared.workers).insert(slot, Arc::downgrade(&ready));
                let mut all = lock(&self.shared.all_workers);
                all.retain(|worker| worker.strong_count() > 0);
                all.push(Arc::downgrade(&ready));
                drop(all);
                Ok(ready)
            }
            FakeStart::Fails(after, said) => {
                pause(after).await;
                attempt.done = true;
                self.shared.journal.write(Record::StartFailed(slot, worker));
                Err(StartError {
                    worker,
                    pid: None,
                    phase: StartPhase::Import,
                    kind: StartErrorKind::Exited,
                    outcome: Some(ExitOutcome::Exited(1)),
                    stderr_tail: said,
                })
            }
            FakeStart::Hangs => std::future::pending().await,
            FakeStart::Panics => panic!("the script says that this start panics"),
        }
    }

    async fn settle(&self, slot: SlotId) {
        loop {
            let changed = self.shared.settled.notified();
            if lock(&self.shared.abandoned).get(&slot).copied().unwrap_or(0) == 0 {
                return;
            }
            changed.await;
        }
    }
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}
