//! What the tests share.

use std::{sync::Arc, time::Duration};

use snakepit_core::{
    SlotId,
    event::{Event, EventKind, Events},
    supervision::{SlotEvent, SlotStarterFactory},
    testing::{FakeWorkerFactory, RecordingObserver},
};
use tokio::sync::broadcast;

pub(crate) const SLOT: SlotId = SlotId(0);

/// Starters over fakes, with everything a test looks at.
pub(crate) struct Bench {
    pub(crate) fakes: FakeWorkerFactory,
    pub(crate) observer: Arc<RecordingObserver>,
    pub(crate) events: Events,
    received: broadcast::Receiver<Event>,
    pub(crate) starters: SlotStarterFactory,
}

impl Bench {
    pub(crate) fn new(fakes: FakeWorkerFactory) -> Self {
        let observer = RecordingObserver::new();
        let events = Events::new("test");
        let received = events.subscribe();
        let starters = SlotStarterFactory::new(
            Arc::new(fakes.clone()),
            Arc::clone(&observer) as _,
            events.clone(),
        );
        Self {
            fakes,
            observer,
            events,
            received,
            starters,
        }
    }

    /// Changes the starters.
    pub(crate) fn starters(mut self, change: impl FnOnce(SlotStarterFactory) -> SlotStarterFactory) -> Self {
        self.starters = change(self.starters);
        self
    }

    /// The events since the last call.
    pub(crate) fn emitted(&mut self) -> Vec<EventKind> {
        let mut kinds = Vec::new();
        while let Ok(event) = self.received.try_recv() {
            kinds.push(event.kind);
        }
        kinds
    }
}

pub(crate) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Ready and Down alternate for each slot, and name the same worker.
pub(crate) fn assert_told_in_pairs(events: &[SlotEvent]) {
    assert_eq!(replaced(events), 0, "two workers ready in a slot");
}

/// Each worker that is ready is told down, or another one ready in its place; how many were replaced.
pub(crate) fn replaced(events: &[SlotEvent]) -> usize {
    let mut ready = std::collections::BTreeMap::new();
    let mut replaced = 0;
    for event in events {
        match event {
            SlotEvent::Ready { slot, worker } => {
                replaced += usize::from(ready.insert(*slot, worker.id()).is_some());
            }
            SlotEvent::Down { slot, worker, .. } => {
                assert_eq!(
                    ready.remove(slot),
                    Some(*worker),
                    "{slot} was told down but was not ready"
                );
            }
            SlotEvent::Terminated { slot } => {
                assert!(
                    !ready.contains_key(slot),
                    "{slot} terminated with a worker that is ready"
                );
            }
            _ => {}
        }
    }
    replaced
}
