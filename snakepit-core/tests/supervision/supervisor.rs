//! A supervisor and its starters.

use std::{sync::Arc, time::Duration};

use snakepit_core::{
    SlotId,
    event::EventKind,
    supervision::{
        ChildSpec, DynamicSupervisor, RestartPolicy, SlotEvent, SlotState, Supervisor, SupervisorError,
        SupervisorLimits, Tree,
    },
    testing::{FakeStart, FakeWorkerFactory},
};
use tokio::time::Instant;

use crate::common::{Bench, SLOT, assert_told_in_pairs, ms};

fn supervise(bench: &Bench) -> DynamicSupervisor {
    DynamicSupervisor::start(
        SupervisorLimits::default(),
        Arc::clone(&bench.observer) as _,
        bench.events.clone(),
    )
}

fn spec(bench: &Bench, slot: u32) -> ChildSpec {
    ChildSpec::new(SlotId(slot), Arc::new(bench.starters.clone()))
}

#[tokio::test(start_paused = true)]
async fn children_are_started_listed_counted_and_ended() {
    let bench = Bench::new(FakeWorkerFactory::new());
    let supervisor = supervise(&bench);
    for slot in [2, 0, 1] {
        supervisor.start_child(spec(&bench, slot)).await.unwrap();
    }
    bench.observer.wait_ready(3).await;
    let again = supervisor.start_child(spec(&bench, 1)).await;
    assert_eq!(again, Err(SupervisorError::AlreadyStarted(SlotId(1))));
    let children = supervisor.which_children().await;
    let slots: Vec<_> = children.iter().map(|child| child.status.slot.0).collect();
    assert_eq!(slots, [0, 1, 2]);
    let counts = supervisor.count_children().await;
    assert_eq!(
        (counts.specs, counts.active, counts.supervisors, counts.workers),
        (3, 3, 3, 0)
    );
    println!("{}", Tree::new("test", children));

    supervisor.terminate_child(SlotId(1)).await.unwrap();
    assert_eq!(bench.fakes.journal().live(SlotId(1)), 0);
    let gone = supervisor.terminate_child(SlotId(1)).await;
    assert_eq!(gone, Err(SupervisorError::NotFound(SlotId(1))));
    assert_eq!(supervisor.count_children().await.specs, 2);
    supervisor.start_child(spec(&bench, 1)).await.unwrap();

    supervisor.shutdown().await;
    supervisor.shutdown().await;
    assert_eq!(bench.fakes.journal().live_in_all(), 0);
    assert_eq!(
        supervisor.start_child(spec(&bench, 7)).await,
        Err(SupervisorError::Ending)
    );
    assert!(supervisor.which_children().await.is_empty());
    let terminated = bench
        .observer
        .count(|event| matches!(event, SlotEvent::Terminated { .. }));
    assert_eq!(terminated, 4);
    assert_told_in_pairs(&bench.observer.events());
}

#[tokio::test(start_paused = true)]
async fn a_broken_slot_is_quarantined_and_the_others_serve_on() {
    let broken = FakeStart::fails("cannot import numpy");
    let fakes = FakeWorkerFactory::new().with_slot_script(SLOT, vec![broken; 1000]);
    let mut bench = Bench::new(fakes);
    let supervisor = supervise(&bench);
    for slot in 0..4 {
        supervisor.start_child(spec(&bench, slot)).await.unwrap();
    }
    let quarantined = |event: &SlotEvent| matches!(event, SlotEvent::Quarantined { slot: SLOT, .. });
    bench.observer.wait_for(1, quarantined).await;
    // Four lives of the starter, four starts each.
    assert_eq!(bench.fakes.journal().launches(SLOT), 16);
    let children = supervisor.which_children().await;
    assert!(
        matches!(children[0].status.state, SlotState::Quarantined { left } if left > Duration::from_secs(29))
    );
    let cause = children[0].status.last_failure.as_deref().unwrap_or_default();
    assert!(cause.contains("cannot import numpy"), "{cause}");
    assert!(
        children[1..]
            .iter()
            .all(|child| child.status.state == SlotState::Serving)
    );
    let counts = supervisor.count_children().await;
    assert_eq!((counts.specs, counts.active), (4, 3));

    // On probation it has one life, and then rests twice as long, up to the limit.
    bench.observer.wait_for(6, quarantined).await;
    let pauses: Vec<_> = bench
        .emitted()
        .into_iter()
        .filter_map(|kind| match kind {
            EventKind::SlotQuarantined { pause, .. } => Some(pause.as_secs()),
            _ => None,
        })
        .collect();
    assert_eq!(pauses, [30, 60, 120, 240, 300, 300]);
    assert_eq!(bench.fakes.journal().launches(SLOT), 16 + 5 * 4);

    let began = Instant::now();
    supervisor.terminate_child(SLOT).await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO, "a rest does not delay the end");
    supervisor.shutdown().await;
    assert_eq!(bench.fakes.journal().live_in_all(), 0);
    assert_eq!(bench.fakes.journal().most_live_in_a_slot(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_was_repaired_comes_back_from_quarantine() {
    let bench = Bench::new(FakeWorkerFactory::new().with_otherwise(FakeStart::fails("not yet")));
    let supervisor = supervise(&bench);
    supervisor.start_child(spec(&bench, 0)).await.unwrap();
    let quarantined = |event: &SlotEvent| matches!(event, SlotEvent::Quarantined { .. });
    bench.observer.wait_for(1, quarantined).await;
    bench.fakes.set_otherwise(FakeStart::ready());
    bench.observer.wait_ready(1).await;
    // Longer than its rest: off probation, so it has all its lives again.
    tokio::time::sleep(Duration::from_secs(31)).await;
    bench.fakes.set_otherwise(FakeStart::fails("broken again"));
    let before = bench.fakes.journal().launches(SLOT);
    bench.fakes.worker(SLOT).unwrap().crash();
    bench.observer.wait_for(2, quarantined).await;
    assert_eq!(bench.fakes.journal().launches(SLOT) - before, 3 + 3 * 4);
    supervisor.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_temporary_starter_is_forgotten_when_it_gives_up() {
    let bench = Bench::new(FakeWorkerFactory::new().with_otherwise(FakeStart::fails("never")));
    let supervisor = supervise(&bench);
    let temporary = spec(&bench, 0).with_restart(RestartPolicy::Temporary);
    supervisor.start_child(temporary).await.unwrap();
    bench
        .observer
        .wait_for(1, |event| matches!(event, SlotEvent::Terminated { .. }))
        .await;
    assert_eq!(supervisor.count_children().await.specs, 0);
    assert_eq!(bench.fakes.journal().launches(SLOT), 4);
}

#[tokio::test(start_paused = true)]
async fn children_are_ended_side_by_side() {
    let bench = Bench::new(FakeWorkerFactory::new().with_end_taking(ms(400)));
    let supervisor = supervise(&bench);
    for slot in 0..50 {
        supervisor.start_child(spec(&bench, slot)).await.unwrap();
    }
    bench.observer.wait_ready(50).await;
    let began = Instant::now();
    supervisor.shutdown().await;
    assert_eq!(began.elapsed(), ms(400));
    assert_eq!(bench.fakes.journal().live_in_all(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_end_goes_on_when_nobody_waits_for_it() {
    let bench = Bench::new(FakeWorkerFactory::new().with_end_taking(ms(400)));
    let supervisor = supervise(&bench);
    supervisor.start_child(spec(&bench, 0)).await.unwrap();
    bench.observer.wait_ready(1).await;
    let impatient = tokio::time::timeout(ms(1), supervisor.terminate_child(SLOT)).await;
    assert!(impatient.is_err());
    supervisor.terminate_child(SLOT).await.unwrap();
    assert_eq!(bench.fakes.journal().live(SLOT), 0);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_ends_all_children() {
    let bench = Bench::new(FakeWorkerFactory::new());
    let supervisor = supervise(&bench);
    supervisor.start_child(spec(&bench, 0)).await.unwrap();
    bench.observer.wait_ready(1).await;
    drop(supervisor);
    bench
        .observer
        .wait_for(1, |event| matches!(event, SlotEvent::Terminated { .. }))
        .await;
    assert_eq!(bench.fakes.journal().live(SLOT), 0);
}
