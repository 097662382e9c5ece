//! A resource that writes to the journal.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::watch;

use super::{FakeStart, Journal, Record, filled, lock};
use crate::{
    id::{SlotId, WorkerId},
    supervision::{MetricsSample, Resource, ResourceError, ResourceFactory},
    worker::Worker,
};

/// Makes [`FakeResource`]s that write to a journal.
#[derive(Debug)]
pub struct FakeResourceFactory {
    name: Arc<str>,
    journal: Journal,
    script: Mutex<VecDeque<FakeStart>>,
    end_takes: Duration,
    made: Mutex<Vec<Arc<FakeResource>>>,
}

impl FakeResourceFactory {
    /// Resources of this name; all of them start at once.
    pub fn new(name: &str, journal: Journal) -> Self {
        Self {
            name: name.into(),
            journal,
            script: Mutex::default(),
            end_takes: Duration::ZERO,
            made: Mutex::default(),
        }
    }

    /// The next starts go like this.
    #[must_use]
    pub fn with_script(self, script: impl IntoIterator<Item = FakeStart>) -> Self {
        lock(&self.script).extend(script);
        self
    }

    /// How long a resource takes to end. Default: no time.
    #[must_use]
    pub fn with_end_taking(self, end_takes: Duration) -> Self {
        Self { end_takes, ..self }
    }

    /// All resources that were started, oldest first.
    pub fn made(&self) -> Vec<Arc<FakeResource>> {
        lock(&self.made).clone()
    }
}

/// A resource that writes its start and end to a journal, fails on command and measures what it is told.
#[derive(Debug)]
pub struct FakeResource {
    slot: SlotId,
    worker: WorkerId,
    name: Arc<str>,
    journal: Journal,
    end_takes: Duration,
    failure: watch::Sender<Option<String>>,
    metrics: Mutex<Option<MetricsSample>>,
}

impl FakeResource {
    /// Fails with this cause.
    pub fn fail(&self, cause: &str) {
        self.failure.send_replace(Some(cause.to_owned()));
    }

    /// The worker it is beside.
    pub fn worker(&self) -> WorkerId {
        self.worker
    }

    /// Has measured this from now on: so many bytes of resident memory, in one process that is idle.
    pub fn measure(&self, rss_bytes: u64) {
        *lock(&self.metrics) = Some(MetricsSample {
            rss_bytes,
            cpu: 0.0,
            processes: 1,
        });
    }
}

#[async_trait]
impl Resource for FakeResource {
    async fn failed(&self) -> String {
        filled(self.failure.subscribe()).await
    }

    async fn end(&self) {
        if !self.end_takes.is_zero() {
            tokio::time::sleep(self.end_takes).await;
        }
        self.journal.write(Record::ResourceEnded(
            self.slot,
            self.worker,
            Arc::clone(&self.name),
        ));
    }

    fn metrics(&self) -> Option<MetricsSample> {
        *lock(&self.metrics)
    }
}

#[async_trait]
impl ResourceFactory for FakeResourceFactory {
    fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    async fn start(
        &self,
        slot: SlotId,
        worker: &Arc<dyn Worker>,
    ) -> Result<Arc<dyn Resource>, ResourceError> {
        let worker = worker.id();
        let start = lock(&self.script).pop_front().unwrap_or(FakeStart::ready());
        let (FakeStart::Ready(after) | FakeStart::Fails(after, _)) = &start else {
            assert!(
                start != FakeStart::Panics,
                "the script says that this start panics"
            );
            return std::future::pending().await;
        };
        if !after.is_zero() {
            tokio::time::sleep(*after).await;
        }
        if let FakeStart::Fails(_, said) = start {
            self.journal
                .write(Record::ResourceFailed(slot, worker, Arc::clone(&self.name)));
            return Err(ResourceError(said));
        }
        let resource = Arc::new(FakeResource {
            slot,
            worker,
            name: Arc::clone(&self.name),
            journal: self.journal.clone(),
            end_takes: self.end_takes,
            failure: watch::Sender::new(None),
            metrics: Mutex::default(),
        });
        lock(&self.made).push(Arc::clone(&resource));
        self.journal
            .write(Record::ResourceStarted(slot, worker, Arc::clone(&self.name)));
        Ok(resource)
    }
}
