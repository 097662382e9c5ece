//! A starter that is killed leaves the same as one that was terminated.

use std::sync::Arc;

use snakepit_core::{
    SlotId,
    event::Events,
    supervision::{
        ChildSpec, DynamicSupervisor, SlotEvent, SlotObserver, SlotStarterFactory, Starter, StarterExit,
        StarterFactory, Supervisor, SupervisorLimits,
    },
    testing::{FakeResourceFactory, FakeStart, FakeWorkerFactory, Record},
};

use crate::common::{Bench, SLOT, assert_told_in_pairs, ms};

#[tokio::test(start_paused = true)]
async fn a_killed_starter_ends_resources_then_worker_and_then_reports() {
    let fakes = FakeWorkerFactory::new().with_end_taking(ms(300));
    let resource = FakeResourceFactory::new("extra", fakes.journal().clone()).with_end_taking(ms(50));
    let bench = Bench::new(fakes).starters(|it| it.with_resource(Arc::new(resource)));
    let starter = bench.starters.start_slot(SLOT);
    bench.observer.wait_ready(1).await;
    tokio::time::sleep(ms(1)).await;
    starter.kill();
    assert_eq!(starter.terminated().await, StarterExit::Killed);
    let records = bench.fakes.journal().records();
    assert!(
        matches!(
            records[..],
            [
                Record::Launched(..),
                Record::Ready(..),
                Record::ResourceStarted(..),
                Record::ResourceEnded(..),
                Record::EndAsked(..),
                Record::Gone(..)
            ]
        ),
        "{records:?}"
    );
    assert_told_in_pairs(&bench.observer.events());
    let downs = bench
        .observer
        .count(|event| matches!(event, SlotEvent::Down { .. }));
    assert_eq!(downs, 1);
}

#[tokio::test(start_paused = true)]
async fn a_starter_killed_during_a_start_leaves_nothing() {
    let fakes = FakeWorkerFactory::new()
        .with_otherwise(FakeStart::Hangs)
        .with_abandon_taking(ms(40));
    let bench = Bench::new(fakes);
    let starter = bench.starters.start_slot(SLOT);
    tokio::time::sleep(ms(5)).await;
    starter.kill();
    assert_eq!(starter.terminated().await, StarterExit::Killed);
    assert_eq!(bench.fakes.journal().live(SLOT), 0);
}

#[tokio::test(start_paused = true)]
async fn a_starter_killed_before_it_began_reports() {
    let bench = Bench::new(FakeWorkerFactory::new());
    let starter = bench.starters.start_slot(SLOT);
    starter.kill();
    assert_eq!(starter.terminated().await, StarterExit::Killed);
    assert_eq!(bench.fakes.journal().live(SLOT), 0);
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_worker_factory_becomes_a_starter_restart() {
    let bench = Bench::new(FakeWorkerFactory::new().with_script([FakeStart::Panics]));
    let supervisor = DynamicSupervisor::start(
        SupervisorLimits::default(),
        Arc::clone(&bench.observer) as _,
        bench.events.clone(),
    );
    let spec = ChildSpec::new(SLOT, Arc::new(bench.starters.clone()));
    supervisor.start_child(spec).await.unwrap();
    bench.observer.wait_ready(1).await;
    assert_eq!(supervisor.which_children().await[0].starter_restarts, 1);
    supervisor.shutdown().await;
    assert_eq!(bench.fakes.journal().live(SLOT), 0);
}

/// Panics at the first ready worker.
#[derive(Debug, Default)]
struct PanickingObserver {
    told: std::sync::atomic::AtomicU32,
}

impl SlotObserver for PanickingObserver {
    fn slot_event(&self, event: SlotEvent) {
        let told = self.told.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        assert!(told > 1, "the observer panics at {event:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_starter_that_panics_ends_its_worker_and_is_restarted() {
    let fakes = FakeWorkerFactory::new().with_end_taking(ms(20));
    let observer = Arc::new(PanickingObserver::default());
    let events = Events::new("test");
    let starters = SlotStarterFactory::new(
        Arc::new(fakes.clone()),
        Arc::clone(&observer) as _,
        events.clone(),
    );
    let supervisor = DynamicSupervisor::start(SupervisorLimits::default(), observer, events);
    let spec = ChildSpec::new(SLOT, Arc::new(starters));
    supervisor.start_child(spec).await.unwrap();
    tokio::time::sleep(ms(100)).await;
    // The first worker's Ready panicked, and its Down once more; the second worker serves.
    assert_eq!(fakes.journal().launches(SLOT), 2);
    assert_eq!(fakes.journal().most_live_in_a_slot(), 1);
    assert_eq!(supervisor.which_children().await[0].starter_restarts, 1);
    supervisor.shutdown().await;
    assert_eq!(fakes.journal().live(SLOT), 0);
}

/// Makes no starter, ever.
#[derive(Debug)]
struct PanickingStarters;

impl StarterFactory for PanickingStarters {
    fn start(&self, slot: SlotId) -> Arc<dyn Starter> {
        panic!("no starter for {slot}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_starter_factory_that_panics_only_has_its_own_slot_quarantined() {
    let bench = Bench::new(FakeWorkerFactory::new());
    let supervisor = DynamicSupervisor::start(
        SupervisorLimits::default(),
        Arc::clone(&bench.observer) as _,
        bench.events.clone(),
    );
    supervisor
        .start_child(ChildSpec::new(SLOT, Arc::new(bench.starters.clone())))
        .await
        .unwrap();
    let broken = ChildSpec::new(SlotId(1), Arc::new(PanickingStarters));
    supervisor.start_child(broken).await.unwrap();
    let quarantined = |event: &SlotEvent| matches!(event, SlotEvent::Quarantined { slot: SlotId(1), .. });
    bench.observer.wait_for(1, quarantined).await;
    assert!(bench.observer.ready_worker(SLOT).is_some());
    supervisor.shutdown().await;
    assert_eq!(bench.fakes.journal().live_in_all(), 0);
}
