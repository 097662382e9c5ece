//! Which workers sessions have been on, and who waits for a certain worker.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use crate::{
    id::{SessionId, SlotId, WorkerId},
    pool::{
        queue::{Queue, Queued},
        session::{LostBy, SessionLost, SessionMode},
    },
};

/// The session that a call belongs to, and where it may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pool) struct Aim {
    pub(in crate::pool) session: SessionId,
    pub(in crate::pool) at: At,
}

/// Where a call of a session may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pool) enum At {
    /// Where the session's mode says.
    Mode(SessionMode),
    /// On this worker, which is told that the session ends.
    End(Home),
}

/// A worker, and where to find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pool) struct Home {
    pub(in crate::pool) slot: SlotId,
    pub(in crate::pool) worker: WorkerId,
}

/// What is known of a session that a worker was lent to, or that waits for its first one.
#[derive(Debug, Default)]
pub(super) struct Bond {
    /// The worker it is bound to.
    pub(super) home: Option<Home>,
    /// The workers it has been on and that still serve.
    pub(super) been: Vec<Home>,
    /// Callers that had to wait before it was bound.
    pub(super) early: usize,
    /// Calls that have a worker.
    pub(super) calls: usize,
    /// Its end waits for its calls.
    pub(super) ends: bool,
    /// How it lost a worker last.
    pub(super) lost: Option<Arc<SessionLost>>,
}

/// What is tied to a worker.
#[derive(Debug, Default)]
pub(super) struct Tied {
    /// The sessions that have been on it.
    pub(super) sessions: BTreeSet<SessionId>,
    /// Callers that wait for this worker.
    pub(super) waiting: Queue,
}

/// The sessions of a pool. Empty, it costs a call nothing.
#[derive(Debug, Default)]
pub(super) struct Bonds {
    pub(super) sessions: HashMap<SessionId, Bond>,
    pub(super) workers: HashMap<WorkerId, Tied>,
}

impl Bonds {
    /// A call of a session has a worker; true when the session is bound by that.
    pub(super) fn join(&mut self, session: SessionId, at: Home) -> bool {
        let bond = self.sessions.entry(session).or_default();
        bond.calls += 1;
        if !bond.been.contains(&at) {
            bond.been.push(at);
            self.workers
                .entry(at.worker)
                .or_default()
                .sessions
                .insert(session);
        }
        let binds = bond.home.is_none();
        bond.home.get_or_insert(at);
        binds
    }

    /// A call of a session is over; true when its end waited for that.
    pub(super) fn leave(&mut self, session: SessionId) -> bool {
        self.sessions.get_mut(&session).is_some_and(|bond| {
            bond.calls = bond.calls.saturating_sub(1);
            bond.ends
        })
    }

    /// A worker serves no more: its sessions have lost it. Returns the callers that waited for it, each with what it is to be told.
    pub(super) fn lose(&mut self, worker: Home, by: &LostBy) -> Vec<(Queued, Arc<SessionLost>)> {
        let Some(mut tied) = self.workers.remove(&worker.worker) else {
            return Vec::new();
        };
        let lost = |session| {
            Arc::new(SessionLost {
                session,
                worker: worker.worker,
                slot: worker.slot,
                by: by.clone(),
            })
        };
        for &session in &tied.sessions {
            let Some(bond) = self.sessions.get_mut(&session) else {
                continue;
            };
            bond.been.retain(|home| *home != worker);
            if bond.home == Some(worker) {
                bond.home = None;
            }
            bond.lost = Some(lost(session));
        }
        let told = |waiter: Queued| {
            let session = waiter.turn.aim?.session;
            let known = self.sessions.get(&session).and_then(|bond| bond.lost.clone());
            Some((waiter, known.unwrap_or_else(|| lost(session))))
        };
        tied.waiting.drain().filter_map(told).collect()
    }

    /// Forgets a session that is over.
    pub(super) fn forget(&mut self, session: SessionId) {
        let Some(bond) = self.sessions.remove(&session) else {
            return;
        };
        for home in bond.been {
            if let Some(tied) = self.workers.get_mut(&home.worker) {
                tied.sessions.remove(&session);
                if tied.sessions.is_empty() && tied.waiting.front().is_none() {
                    self.workers.remove(&home.worker);
                }
            }
        }
    }

    /// Sessions that have been on a worker.
    pub(super) fn on(&self, worker: WorkerId) -> usize {
        self.workers.get(&worker).map_or(0, |tied| tied.sessions.len())
    }

    /// Sessions that have a worker.
    pub(super) fn bound(&self) -> usize {
        self.sessions.values().filter(|bond| bond.home.is_some()).count()
    }

    /// Callers that wait for a certain worker.
    pub(super) fn waiting(&self) -> usize {
        self.workers.values().map(|tied| tied.waiting.present()).sum()
    }
}
