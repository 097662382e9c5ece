//! A rolling restart: every slot gets a new worker, and no caller notices.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Mutex as Lock, task::JoinSet, time::Instant};

use super::{
    cause::ReplaceCause,
    replace::{Gone, Replacer},
    status::Phase,
    version::Version,
};
use crate::{id::SlotId, supervision::ReplaceError, worker::WorkerFactory};

/// What a restart has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Restarted {
    /// Slots that have a new worker.
    pub slots: usize,
    /// Workers that were replaced and still finish their calls.
    pub draining: usize,
    /// How long it took.
    pub took: Duration,
}

/// Why a pool was not restarted. No worker that served has gone without a new one in its place.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestartError {
    /// The pool has not started, or is being ended.
    #[error("pool `{pool}` is not restarted: it is {phase}")]
    NotRunning {
        /// The pool.
        pool: String,
        /// What it does.
        phase: Phase,
    },
    /// A new worker did not become ready. The slots that were not replaced before it serve on as they did.
    #[error("pool `{pool}` is not restarted: {replaced} of {slots} slots have a new worker, {slot} has not")]
    Failed {
        /// The pool.
        pool: String,
        /// The slot.
        slot: SlotId,
        /// How many slots have a new worker; 0 when the new version has never been ready.
        replaced: usize,
        /// Slots of the pool.
        slots: usize,
        /// Why.
        #[source]
        error: ReplaceError,
    },
}

/// Restarts a pool, one restart after the other.
#[derive(Debug)]
pub(super) struct Restarter {
    replacer: Arc<Replacer>,
    version: Arc<Version>,
    at_once: usize,
    one: Lock<()>,
}

impl Restarter {
    pub(super) fn new(replacer: Arc<Replacer>, version: Arc<Version>, at_once: usize) -> Self {
        Self {
            replacer,
            version,
            at_once,
            one: Lock::default(),
        }
    }

    pub(super) fn replacer(&self) -> &Arc<Replacer> {
        &self.replacer
    }

    /// Ends what is kept for further starts; there will be none.
    pub(super) async fn close(&self) {
        self.version.close().await;
    }

    /// Replaces the worker of one slot, and once that has proved the new version those of the others.
    pub(super) async fn restart(
        &self,
        workers: Option<Arc<dyn WorkerFactory>>,
    ) -> Result<Restarted, RestartError> {
        let _one = self.one.lock().await;
        let began = Instant::now();
        let pool = self.replacer.dispatch().events().pool().to_owned();
        let phase = self.replacer.dispatch().phase();
        if matches!(phase, Phase::Starting | Phase::Stopped) || self.replacer.is_stopped() {
            return Err(RestartError::NotRunning { pool, phase });
        }
        // What is prepared from files is part of what is replaced, and goes only when a new worker has proved the new one.
        let workers = workers.or_else(|| self.version.renewed());
        let mut slots = self.slots(&BTreeSet::new()).await;
        let mut tried: BTreeSet<_> = slots.iter().copied().collect();
        let mut replacing = JoinSet::new();
        let mut leaving = Vec::new();
        let mut failed = None;
        loop {
            let at_once = if leaving.is_empty() { 1 } else { self.at_once };
            while failed.is_none()
                && replacing.len() < at_once
                && let Some(slot) = slots.pop_front()
            {
                replacing.spawn(replace(Arc::clone(&self.replacer), slot, workers.clone()));
            }
            let Some(replaced) = replacing.join_next().await else {
                // Slots that were started meanwhile may have begun before there was a new version.
                slots = self.slots(&tried).await;
                if slots.is_empty() || failed.is_some() {
                    break;
                }
                tried.extend(&slots);
                continue;
            };
            match replaced {
                Ok((_, Ok(Some(gone)))) => {
                    if leaving.is_empty() {
                        self.adopt(workers.as_ref());
                    }
                    leaving.push(gone);
                }
                // The slot is not needed any more, and goes.
                Ok((_, Err(ReplaceError::NotFound(_) | ReplaceError::Ending(_))))
                    if !self.replacer.is_stopped() => {}
                Ok((_, Ok(None))) => {}
                Ok((slot, Err(error))) => failed = failed.or(Some((slot, error))),
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // The runtime is being shut down, and the pool with it.
                    Err(_) => {
                        let phase = Phase::Stopped;
                        return Err(RestartError::NotRunning { pool, phase });
                    }
                },
            }
        }
        let of = tried.len();
        if let Some((slot, error)) = failed {
            return Err(RestartError::Failed {
                pool,
                slot,
                replaced: leaving.len(),
                slots: of,
                error,
            });
        }
        let slots = leaving.len();
        if slots == 0 {
            // There is none that could prove it.
            self.adopt(workers.as_ref());
        }
        let mut draining = 0;
        for gone in leaving {
            draining += usize::from(!gone.in_time().await);
        }
        Ok(Restarted {
            slots,
            draining,
            took: began.elapsed(),
        })
    }

    /// The slots that were not tried yet. One whose last worker still finishes its calls has to wait for that and comes last.
    async fn slots(&self, tried: &BTreeSet<SlotId>) -> VecDeque<SlotId> {
        let children = self.replacer.supervisor().which_children().await;
        let slots = children.iter().map(|child| child.status.slot);
        let mut slots: Vec<_> = slots.filter(|slot| !tried.contains(slot)).collect();
        slots.sort_by_key(|slot| self.replacer.is_busy(*slot));
        slots.into()
    }

    /// The new version is what is started from now on.
    fn adopt(&self, workers: Option<&Arc<dyn WorkerFactory>>) {
        if let Some(workers) = workers {
            self.version.set(Arc::clone(workers));
        }
    }
}

async fn replace(
    replacer: Arc<Replacer>,
    slot: SlotId,
    workers: Option<Arc<dyn WorkerFactory>>,
) -> (SlotId, Result<Option<Gone>, ReplaceError>) {
    let replaced = replacer.replace(slot, None, ReplaceCause::Restart, workers).await;
    (slot, replaced)
}
