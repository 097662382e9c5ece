//! What fakes did, in order.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use tokio::time::Instant;

use super::lock;
use crate::id::{SlotId, WorkerId};

/// One thing a fake did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Record {
    /// A start began: from here on the worker counts as live.
    Launched(SlotId, WorkerId),
    /// The worker became ready.
    Ready(SlotId, WorkerId),
    /// The start failed and left nothing behind.
    StartFailed(SlotId, WorkerId),
    /// The start's future was dropped; the worker is live until [`Record::Gone`].
    Abandoned(SlotId, WorkerId),
    /// The worker's end was asked for.
    EndAsked(SlotId, WorkerId),
    /// Nothing of the worker is left.
    Gone(SlotId, WorkerId),
    /// A resource started beside this worker.
    ResourceStarted(SlotId, WorkerId, Arc<str>),
    /// A resource did not start beside this worker.
    ResourceFailed(SlotId, WorkerId, Arc<str>),
    /// A resource beside this worker ended.
    ResourceEnded(SlotId, WorkerId, Arc<str>),
}

impl Record {
    /// The slot it happened in.
    pub const fn slot(&self) -> SlotId {
        match self {
            Self::Launched(slot, _)
            | Self::Ready(slot, _)
            | Self::StartFailed(slot, _)
            | Self::Abandoned(slot, _)
            | Self::EndAsked(slot, _)
            | Self::Gone(slot, _)
            | Self::ResourceStarted(slot, ..)
            | Self::ResourceFailed(slot, ..)
            | Self::ResourceEnded(slot, ..) => *slot,
        }
    }
}

/// What fakes did, in order. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    off: bool,
    records: Vec<(Instant, Record)>,
    live: BTreeMap<SlotId, u32>,
    most_live: BTreeMap<SlotId, u32>,
}

impl Journal {
    /// An empty journal.
    pub fn new() -> Self {
        Self::default()
    }

    /// A journal that keeps nothing, for measurements.
    pub fn off() -> Self {
        let journal = Self::default();
        lock(&journal.inner).off = true;
        journal
    }

    /// Writes a record.
    pub fn write(&self, record: Record) {
        let mut inner = lock(&self.inner);
        if inner.off {
            return;
        }
        let slot = record.slot();
        match record {
            Record::Launched(..) => {
                let live = inner.live.entry(slot).or_default();
                *live += 1;
                let live = *live;
                let most = inner.most_live.entry(slot).or_default();
                *most = live.max(*most);
            }
            Record::StartFailed(..) | Record::Gone(..) => {
                let live = inner.live.entry(slot).or_default();
                *live = live.saturating_sub(1);
            }
            Record::Ready(..)
            | Record::Abandoned(..)
            | Record::EndAsked(..)
            | Record::ResourceStarted(..)
            | Record::ResourceFailed(..)
            | Record::ResourceEnded(..) => {}
        }
        inner.records.push((Instant::now(), record));
    }

    /// All records, oldest first.
    pub fn records(&self) -> Vec<Record> {
        lock(&self.inner)
            .records
            .iter()
            .map(|(_, record)| record.clone())
            .collect()
    }

    /// All records with the time they were written.
    pub fn timed_records(&self) -> Vec<(Instant, Record)> {
        lock(&self.inner).records.clone()
    }

    /// Workers of the slot that are live now: launched, and something of them is left.
    pub fn live(&self, slot: SlotId) -> u32 {
        lock(&self.inner).live.get(&slot).copied().unwrap_or(0)
    }

    /// Workers that are live now, in all slots.
    pub fn live_in_all(&self) -> u32 {
        lock(&self.inner).live.values().sum()
    }

    /// The most workers of any one slot that were ever live at the same time.
    pub fn most_live_in_a_slot(&self) -> u32 {
        lock(&self.inner).most_live.values().copied().max().unwrap_or(0)
    }

    /// How many starts began in the slot.
    pub fn launches(&self, slot: SlotId) -> usize {
        lock(&self.inner)
            .records
            .iter()
            .filter(|(_, record)| matches!(record, Record::Launched(at, _) if *at == slot))
            .count()
    }
}
