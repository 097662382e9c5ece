//! The metrics collector of a slot.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use super::{MetricsSample, Sampler, sampler::Subscription};
use crate::{
    event::{EventKind, Events},
    id::SlotId,
    supervision::{Resource, ResourceError, ResourceFactory},
    worker::Worker,
};

/// Measures memory and CPU of each worker's process tree, emits [`EventKind::Metrics`] and shows the latest
/// sample in the slot's status.
///
/// A worker without a process of ours has nothing to measure; its collector stays silent.
#[derive(Clone, Debug)]
pub struct MetricsCollector {
    events: Events,
    sampler: Sampler,
}

impl MetricsCollector {
    /// Collectors fed by the host's sampler, every 5 s.
    pub fn new(events: Events) -> Self {
        Self {
            events,
            sampler: Sampler::host(),
        }
    }

    /// Collectors fed by another sampler.
    #[must_use]
    pub fn with_sampler(self, sampler: Sampler) -> Self {
        Self { sampler, ..self }
    }
}

#[async_trait]
impl ResourceFactory for MetricsCollector {
    fn name(&self) -> Arc<str> {
        "metrics".into()
    }

    async fn start(
        &self,
        slot: SlotId,
        worker: &Arc<dyn Worker>,
    ) -> Result<Arc<dyn Resource>, ResourceError> {
        let latest = Arc::new(Mutex::new(None));
        let subscription = worker
            .pid()
            .map(|pid| {
                let latest = Arc::clone(&latest);
                let events = self.events.clone();
                let worker = worker.id();
                self.sampler.subscribe(pid, move |sample: MetricsSample| {
                    *latest.lock().unwrap_or_else(PoisonError::into_inner) = Some(sample);
                    events.emit(EventKind::Metrics {
                        slot,
                        worker,
                        rss_bytes: sample.rss_bytes,
                        cpu: sample.cpu,
                        processes: sample.processes,
                    });
                })
            })
            .transpose()?;
        Ok(Arc::new(SlotMetrics {
            latest,
            subscription: Mutex::new(subscription),
        }))
    }
}

/// The metrics of one worker.
#[derive(Debug)]
struct SlotMetrics {
    latest: Arc<Mutex<Option<MetricsSample>>>,
    subscription: Mutex<Option<Subscription>>,
}

#[async_trait]
impl Resource for SlotMetrics {
    async fn end(&self) {
        let subscription = self
            .subscription
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(subscription);
    }

    fn metrics(&self) -> Option<MetricsSample> {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
