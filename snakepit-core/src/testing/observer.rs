//! An observer that remembers.

use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::lock;
use crate::{
    id::SlotId,
    supervision::{SlotEvent, SlotObserver},
    worker::Worker,
};

/// Remembers what slots told, in order.
#[derive(Debug, Default)]
pub struct RecordingObserver {
    events: Mutex<Vec<SlotEvent>>,
    told: Notify,
}

impl RecordingObserver {
    /// Nothing told yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Everything told, oldest first.
    pub fn events(&self) -> Vec<SlotEvent> {
        lock(&self.events).clone()
    }

    /// How many events fit.
    pub fn count(&self, fits: impl Fn(&SlotEvent) -> bool) -> usize {
        lock(&self.events).iter().filter(|event| fits(event)).count()
    }

    /// Waits until at least `count` events fit.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn wait_for(&self, count: usize, fits: impl Fn(&SlotEvent) -> bool) {
        loop {
            let told = self.told.notified();
            if self.count(&fits) >= count {
                return;
            }
            told.await;
        }
    }

    /// Waits until so many workers have become ready.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn wait_ready(&self, count: usize) {
        self.wait_for(count, |event| matches!(event, SlotEvent::Ready { .. }))
            .await;
    }

    /// The slot's worker, if the last thing told of the slot's worker was that it is ready.
    pub fn ready_worker(&self, slot: SlotId) -> Option<Arc<dyn Worker>> {
        let mut ready = None;
        for event in lock(&self.events).iter() {
            match event {
                SlotEvent::Ready { slot: at, worker } if *at == slot => ready = Some(Arc::clone(worker)),
                SlotEvent::Down { slot: at, .. } if *at == slot => ready = None,
                _ => {}
            }
        }
        ready
    }
}

impl SlotObserver for RecordingObserver {
    fn slot_event(&self, event: SlotEvent) {
        lock(&self.events).push(event);
        self.told.notify_waiters();
    }
}
