//! Resources beside a worker.

use std::{sync::Arc, time::Duration};

use snakepit_core::{
    event::EventKind,
    supervision::{ResourceState, Shutdown, SlotState, Starter},
    testing::{FakeResourceFactory, FakeStart, FakeWorkerFactory, Record},
};
use tokio::time::Instant;

use crate::common::{Bench, SLOT, ms};

#[tokio::test(start_paused = true)]
async fn resources_start_after_the_worker_and_end_before_it() {
    let fakes = FakeWorkerFactory::new();
    let resource = FakeResourceFactory::new("extra", fakes.journal().clone()).with_end_taking(ms(80));
    let bench = Bench::new(fakes).starters(|it| it.with_resource(Arc::new(resource)));
    let starter = bench.starters.start_slot(SLOT);
    bench.observer.wait_ready(1).await;
    tokio::time::sleep(ms(1)).await;
    bench.fakes.worker(SLOT).unwrap().crash();
    bench.observer.wait_ready(2).await;
    tokio::time::sleep(ms(1)).await;
    starter.terminate(Shutdown::default()).await;
    let records = bench.fakes.journal().records();
    let names: Vec<_> = records
        .iter()
        .map(|record| match record {
            Record::Launched(..) => "launched",
            Record::Ready(..) => "ready",
            Record::ResourceStarted(..) => "resource started",
            Record::ResourceEnded(..) => "resource ended",
            Record::EndAsked(..) => "end",
            Record::Gone(..) => "gone",
            _ => "other",
        })
        .collect();
    let life = [
        "launched",
        "ready",
        "resource started",
        "resource ended",
        "end",
        "gone",
    ];
    assert_eq!(names, [life, life].concat());
}

#[tokio::test(start_paused = true)]
async fn the_worker_serves_on_without_a_resource_that_fails() {
    let fakes = FakeWorkerFactory::new();
    let script = [FakeStart::fails("no database")];
    let never = Arc::new(FakeResourceFactory::new("never", fakes.journal().clone()).with_script(script));
    let dies = Arc::new(FakeResourceFactory::new("dies", fakes.journal().clone()));
    let mut bench =
        Bench::new(fakes).starters(|it| it.with_resource(never).with_resource(Arc::clone(&dies) as _));
    let starter = bench.starters.start_slot(SLOT);
    bench.observer.wait_ready(1).await;
    tokio::time::sleep(ms(1)).await;
    dies.made()[0].fail("connection lost");
    tokio::time::sleep(ms(1)).await;
    let status = starter.status();
    assert_eq!(status.state, SlotState::Serving);
    let states: Vec<_> = status.resources.iter().map(|it| (&*it.name, it.state)).collect();
    assert_eq!(
        states,
        [("never", ResourceState::Failed), ("dies", ResourceState::Failed)]
    );
    let failures: Vec<_> = bench
        .emitted()
        .into_iter()
        .filter_map(|kind| match kind {
            EventKind::ResourceFailed { message, .. } => Some(message),
            _ => None,
        })
        .collect();
    assert_eq!(failures, ["no database", "connection lost"]);
    // The next worker gets new ones.
    bench.fakes.worker(SLOT).unwrap().crash();
    bench.observer.wait_ready(2).await;
    tokio::time::sleep(ms(1)).await;
    let states = starter.status().resources.into_iter().map(|it| it.state);
    assert_eq!(states.collect::<Vec<_>>(), [ResourceState::Running; 2]);
}

#[tokio::test(start_paused = true)]
async fn resources_that_hang_hold_nothing_up_for_long() {
    let fakes = FakeWorkerFactory::new();
    let journal = fakes.journal().clone();
    let starts_never =
        FakeResourceFactory::new("starts never", journal.clone()).with_script([FakeStart::Hangs]);
    let ends_never =
        FakeResourceFactory::new("ends never", journal).with_end_taking(Duration::from_secs(3600));
    let bench = Bench::new(fakes).starters(|it| {
        it.with_resource(Arc::new(starts_never))
            .with_resource(Arc::new(ends_never))
    });
    let starter = bench.starters.start_slot(SLOT);
    bench.observer.wait_ready(1).await;
    tokio::time::sleep(ms(1)).await;
    let began = Instant::now();
    starter.terminate(Shutdown::default()).await;
    assert_eq!(began.elapsed(), Duration::from_secs(2));
    assert_eq!(bench.fakes.journal().live(SLOT), 0);
}

#[tokio::test(start_paused = true)]
async fn a_resource_that_panics_does_not_take_its_slot_along() {
    let fakes = FakeWorkerFactory::new();
    let panics = FakeResourceFactory::new("panics", fakes.journal().clone()).with_script([FakeStart::Panics]);
    let bench = Bench::new(fakes).starters(|it| it.with_resource(Arc::new(panics)));
    let starter = bench.starters.start_slot(SLOT);
    bench.observer.wait_ready(1).await;
    tokio::time::sleep(ms(1)).await;
    assert_eq!(starter.status().state, SlotState::Serving);
    starter.terminate(Shutdown::default()).await;
}
