//! The sampler over real processes.

use std::{
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use snakepit_core::{
    SlotId, WorkerId,
    event::{EventKind, Events},
    process::EndReport,
    supervision::{
        MetricsCollector, MetricsSample, ResourceFactory, Sampler, Shutdown, SlotStarterFactory, Starter,
    },
    testing::{FakeBehaviour, FakeWorker, RecordingObserver},
    worker::{Down, DownReason, StartError, StartTurn, Worker, WorkerClient, WorkerFactory},
};

/// A fake worker that says it has this process.
#[derive(Debug)]
struct WithPid(u32, Arc<FakeWorker>);

#[async_trait]
impl Worker for WithPid {
    fn id(&self) -> WorkerId {
        self.1.id()
    }
    fn pid(&self) -> Option<u32> {
        Some(self.0)
    }
    fn client(&self) -> Arc<dyn WorkerClient> {
        self.1.client()
    }
    fn condemn(&self, reason: DownReason) {
        self.1.condemn(reason);
    }
    async fn down(&self) -> Down {
        self.1.down().await
    }
    async fn end(&self, drain: Duration, grace: Duration) -> EndReport {
        self.1.end(drain, grace).await
    }
}

/// Its workers say they have this process.
#[derive(Debug)]
struct Factory(u32);

#[async_trait]
impl WorkerFactory for Factory {
    async fn start(&self, slot: SlotId, _turn: StartTurn) -> Result<Arc<dyn Worker>, StartError> {
        Ok(with_pid(self.0, slot))
    }
}

fn with_pid(pid: u32, slot: SlotId) -> Arc<dyn Worker> {
    Arc::new(WithPid(pid, FakeWorker::new(slot, FakeBehaviour::Echo)))
}

/// Ends its process, also when a test fails.
struct Running(Child);

impl Running {
    fn shell(script: &str) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::piped());
        Self(command.spawn().expect("there is a shell"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Closes the children's standard input as well: they are gone with it.
        drop(self.0.stdin.take());
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_slots_status_shows_what_its_process_tree_uses() {
    // A shell that computes, above a child that waits.
    let process = Running::shell("exec 3<&0; cat <&3 & while :; do :; done");
    let events = Events::new("test");
    let mut emitted = events.subscribe();
    let sampler = Sampler::new(Duration::from_millis(300));
    let collector = MetricsCollector::new(events.clone()).with_sampler(sampler.clone());
    let observer = RecordingObserver::new();
    let starters = SlotStarterFactory::new(Arc::new(Factory(process.0.id())), observer, events)
        .with_resource(Arc::new(collector));
    let starter = starters.start_slot(SlotId(0));
    let busy = |sample: &MetricsSample| sample.cpu > 0.05;
    let sample = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            if let Some(sample) = starter.status().metrics.filter(busy) {
                return sample;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
    assert!(sample.cpu < 1.5, "{sample:?}");
    assert!(sample.rss_bytes > 100_000, "{sample:?}");
    assert_eq!(sample.processes, 2, "{sample:?}");
    starter.terminate(Shutdown::default()).await;
    let mut told = 0;
    while let Ok(event) = emitted.try_recv() {
        told += u32::from(matches!(event.kind, EventKind::Metrics { .. }));
    }
    assert!(told >= 2, "{told}");
    // Nobody subscribes: the thread ends without another scan.
    let scans = sampler.cost().scans;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(sampler.cost().scans <= scans + 1);
}

#[tokio::test]
async fn a_hundred_idle_workers_cost_less_than_a_hundredth_of_a_core() {
    let processes: Vec<_> = (0..100).map(|_| Running::shell("read line")).collect();
    let events = Events::new("test");
    let sampler = Sampler::new(Duration::from_millis(200));
    let collector = MetricsCollector::new(events).with_sampler(sampler.clone());
    let mut resources = Vec::new();
    for (slot, process) in (0..).zip(&processes) {
        let worker = with_pid(process.0.id(), SlotId(slot));
        resources.push(collector.start(SlotId(slot), &worker).await.unwrap());
    }
    tokio::time::timeout(Duration::from_secs(60), async {
        while sampler.cost().scans < 10 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .unwrap();
    assert!(resources.iter().all(|resource| resource.metrics().is_some()));
    let cost = sampler.cost();
    let each = cost.cpu / u32::try_from(cost.scans).unwrap();
    println!(
        "{} processes, {each:?} of CPU a scan, {:.3} % of a core at 5 s",
        cost.processes,
        each.as_secs_f64() / 5.0 * 100.0
    );
    let share = each.as_secs_f64() / Sampler::DEFAULT_INTERVAL.as_secs_f64();
    assert!(share < 0.01, "{share}");
    for resource in resources {
        resource.end().await;
    }
}
