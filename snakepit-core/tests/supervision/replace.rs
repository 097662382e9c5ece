//! A worker is replaced: its successor first, then its calls, its resources, itself.

use std::{sync::Arc, time::Duration};

use snakepit_core::{
    SlotId,
    event::{EventKind, Events},
    supervision::{
        ChildSpec, DynamicSupervisor, ReplaceError, Replaced, Replacement, Shutdown, SlotEvent, SlotObserver,
        SlotStarter, SlotStarterFactory, SlotState, Starter, StarterExit, Supervisor, SupervisorLimits,
    },
    testing::{FakeResourceFactory, FakeStart, FakeWorkerFactory, Record, RecordingObserver},
    worker::{BoxFuture, DownReason, Worker},
};
use tokio::{sync::watch, time::Instant};

use crate::common::{Bench, SLOT, ms, replaced};

/// An observer whose workers have a call on them until it says otherwise.
#[derive(Debug)]
struct Lender {
    told: Arc<RecordingObserver>,
    calls: watch::Sender<bool>,
}

impl SlotObserver for Lender {
    fn slot_event(&self, event: SlotEvent) {
        self.told.slot_event(event);
    }

    fn drained(&self, _: SlotId, _: snakepit_core::WorkerId) -> BoxFuture<()> {
        let mut calls = self.calls.subscribe();
        Box::pin(async move {
            // The sender lives as long as the starter.
            let _ = calls.wait_for(|calls| !calls).await;
        })
    }
}

/// A starter over fakes whose workers are busy.
struct Busy {
    fakes: FakeWorkerFactory,
    lender: Arc<Lender>,
    starter: Arc<SlotStarter>,
}

impl Busy {
    async fn new(fakes: FakeWorkerFactory) -> Self {
        let lender = Arc::new(Lender {
            told: RecordingObserver::new(),
            calls: watch::Sender::new(true),
        });
        let resource = FakeResourceFactory::new("extra", fakes.journal().clone());
        let starters = SlotStarterFactory::new(
            Arc::new(fakes.clone()),
            Arc::clone(&lender) as _,
            Events::new("test"),
        );
        let starter = starters.with_resource(Arc::new(resource)).start_slot(SLOT);
        lender.told.wait_ready(1).await;
        Self {
            fakes,
            lender,
            starter: Arc::new(starter),
        }
    }

    /// Asks for another worker, and does not wait for it.
    fn ask(&self, replacement: Replacement) -> tokio::task::JoinHandle<Result<Replaced, ReplaceError>> {
        let starter = Arc::clone(&self.starter);
        tokio::spawn(async move { starter.replace(replacement).await })
    }
}

fn names(records: &[Record]) -> Vec<&'static str> {
    let name = |record: &Record| match record {
        Record::Launched(..) => "launched",
        Record::Ready(..) => "ready",
        Record::StartFailed(..) => "start failed",
        Record::ResourceStarted(..) => "resource started",
        Record::ResourceEnded(..) => "resource ended",
        Record::EndAsked(..) => "end asked",
        Record::Gone(..) => "gone",
        _ => "other",
    };
    records.iter().map(name).collect()
}

#[tokio::test(start_paused = true)]
async fn the_successor_is_ready_before_the_worker_goes_in_this_order() {
    let fakes = FakeWorkerFactory::new().with_otherwise(FakeStart::Ready(ms(300)));
    let resource = FakeResourceFactory::new("extra", fakes.journal().clone());
    let mut bench = Bench::new(fakes).starters(|it| it.with_resource(Arc::new(resource)));
    let starter = bench.starters.start_slot(SLOT);
    bench.observer.wait_ready(1).await;
    tokio::time::sleep(ms(1)).await;
    let old = bench.fakes.worker(SLOT).unwrap();
    bench.emitted();
    let mut replaced_by = starter.replace(Replacement::default()).await.unwrap();
    assert_eq!((replaced_by.before, replaced_by.took), (Some(old.id()), ms(300)));
    replaced_by.departure.gone().await;
    let names = names(&bench.fakes.journal().records());
    let expected = [
        "launched",
        "ready",
        "resource started",
        "launched",
        "ready",
        "resource started",
        "resource ended",
        "end asked",
        "gone",
    ];
    assert_eq!(names, expected);
    assert_eq!(
        old.ends_asked(),
        [(Shutdown::default().drain, Shutdown::default().grace)]
    );
    assert_eq!(replaced(&bench.observer.events()), 1);
    let status = starter.status();
    assert_eq!((status.worker, status.restarts), (Some(replaced_by.worker), 0));
    assert_eq!((status.state, status.leaving), (SlotState::Serving, None));
    let emitted: Vec<_> = bench
        .emitted()
        .into_iter()
        .filter_map(|kind| match kind {
            EventKind::WorkerReady { worker, .. } => Some(("ready", worker)),
            EventKind::WorkerReplaced { worker, by, .. } => {
                assert_eq!(by, replaced_by.worker);
                Some(("replaced", worker))
            }
            EventKind::WorkerDown { worker, down, .. } => {
                assert_eq!(down.reason, DownReason::Requested);
                Some(("down", worker))
            }
            EventKind::WorkerEnded { worker, .. } => Some(("ended", worker)),
            _ => None,
        })
        .collect();
    let expected = [
        ("ready", replaced_by.worker),
        ("replaced", old.id()),
        ("down", old.id()),
        ("ended", old.id()),
    ];
    assert_eq!(emitted, expected);
}

#[tokio::test(start_paused = true)]
async fn a_worker_with_calls_stays_until_they_are_over_and_shows_in_the_status() {
    let busy = Busy::new(FakeWorkerFactory::new()).await;
    let old = busy.fakes.worker(SLOT).unwrap();
    let mut next = busy.starter.replace(Replacement::default()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(old.is_up() && old.ends_asked().is_empty());
    let leaving = busy.starter.status().leaving.expect("it is there");
    assert_eq!((leaving.worker, leaving.pid), (old.id(), old.pid()));
    assert_eq!(leaving.since, Duration::from_secs(3600));
    // The resources of both are there as well.
    assert!(!names(&busy.fakes.journal().records()).contains(&"resource ended"));
    // A third worker would be too many.
    let third = busy.starter.replace(Replacement::default()).await;
    assert!(matches!(third, Err(ReplaceError::Draining(SLOT))), "{third:?}");
    busy.lender.calls.send_replace(false);
    next.departure.gone().await;
    assert_eq!(busy.fakes.journal().live(SLOT), 1);
    assert_eq!(busy.fakes.journal().most_live_in_a_slot(), 2);
    busy.starter.replace(Replacement::default()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_bound_on_the_drain_ends_a_worker_whose_calls_are_not_over() {
    let busy = Busy::new(FakeWorkerFactory::new()).await;
    let old = busy.fakes.worker(SLOT).unwrap();
    let began = Instant::now();
    let shutdown = Shutdown {
        drain: ms(100),
        grace: ms(200),
    };
    let replacement = Replacement::default()
        .with_drain(Some(Duration::from_secs(7)))
        .with_shutdown(shutdown);
    let mut next = busy.starter.replace(replacement).await.unwrap();
    next.departure.gone().await;
    assert_eq!(began.elapsed(), Duration::from_secs(7));
    assert_eq!(old.ends_asked(), [(ms(100), ms(200))]);
}

#[tokio::test(start_paused = true)]
async fn a_successor_that_does_not_start_changes_nothing_but_is_told() {
    let mut bench = Bench::new(FakeWorkerFactory::new());
    let starter = bench.starters.start_slot(SLOT);
    bench.observer.wait_ready(1).await;
    let old = bench.fakes.worker(SLOT).unwrap();
    let broken = FakeWorkerFactory::with_journal(bench.fakes.journal().clone())
        .with_otherwise(FakeStart::fails("SyntaxError: half a word"));
    bench.emitted();
    let replacement = Replacement::default().with_workers(Arc::new(broken));
    let error = starter.replace(replacement).await.unwrap_err();
    let ReplaceError::Failed { error, .. } = error else {
        panic!("{error}")
    };
    assert!(error.stderr_tail.contains("half a word"), "{error}");
    assert!(old.is_up());
    let status = starter.status();
    assert_eq!(
        (status.state, status.worker),
        (SlotState::Serving, Some(old.id()))
    );
    assert_eq!(status.restarts, 0);
    let emitted = bench.emitted();
    assert!(
        matches!(emitted[..], [EventKind::ReplacementFailed { .. }]),
        "{emitted:?}"
    );
    let told = |event: &SlotEvent| matches!(event, SlotEvent::ReplacementFailed { .. });
    assert_eq!(bench.observer.count(told), 1);
    // What broke was the successor's kind: a crash is followed by one of the kind that serves.
    old.crash();
    bench.observer.wait_ready(2).await;
}

#[tokio::test(start_paused = true)]
async fn a_successor_of_another_kind_is_followed_by_its_own_kind() {
    let bench = Bench::new(FakeWorkerFactory::new());
    let starter = bench.starters.start_slot(SLOT);
    bench.observer.wait_ready(1).await;
    let other = FakeWorkerFactory::new();
    let replacement = Replacement::default().with_workers(Arc::new(other.clone()));
    starter.replace(replacement).await.unwrap();
    other.worker(SLOT).unwrap().crash();
    bench.observer.wait_ready(3).await;
    assert_eq!(other.journal().launches(SLOT), 2);
    assert_eq!(bench.fakes.journal().launches(SLOT), 1);
}

#[tokio::test(start_paused = true)]
async fn a_successor_that_hangs_costs_nothing_but_time_and_a_second_request_is_refused() {
    let busy = Busy::new(FakeWorkerFactory::new()).await;
    let old = busy.fakes.worker(SLOT).unwrap();
    // As a start that runs into its deadline.
    busy.fakes
        .set_otherwise(FakeStart::Fails(Duration::from_secs(30), "too late".into()));
    let began = Instant::now();
    let first = busy.ask(Replacement::default());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(busy.starter.status().state, SlotState::Replacing);
    let second = busy.starter.replace(Replacement::default()).await;
    assert!(matches!(second, Err(ReplaceError::UnderWay(SLOT))), "{second:?}");
    let failed = first.await.unwrap();
    assert!(matches!(failed, Err(ReplaceError::Failed { .. })), "{failed:?}");
    assert_eq!(began.elapsed(), Duration::from_secs(30));
    assert!(old.is_up());
    assert_eq!(busy.starter.status().state, SlotState::Serving);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_dies_while_its_successor_starts_is_followed_by_that_one() {
    let mut bench = Bench::new(FakeWorkerFactory::new().with_end_taking(Duration::from_secs(2)));
    let starter = Arc::new(bench.starters.start_slot(SLOT));
    bench.observer.wait_ready(1).await;
    bench
        .fakes
        .set_otherwise(FakeStart::Ready(Duration::from_secs(1)));
    let asked = tokio::spawn({
        let starter = Arc::clone(&starter);
        async move { starter.replace(Replacement::default()).await }
    });
    tokio::time::sleep(ms(500)).await;
    let old = bench.fakes.worker(SLOT).unwrap();
    old.crash();
    tokio::time::sleep(ms(1)).await;
    let down = |event: &SlotEvent| matches!(event, SlotEvent::Down { .. });
    assert_eq!(bench.observer.count(down), 1, "the observer hears of it at once");
    assert_eq!(starter.status().state, SlotState::Starting);
    let mut next = asked.await.unwrap().unwrap();
    assert_eq!(next.before, Some(old.id()));
    assert_eq!(starter.status().restarts, 0);
    next.departure.gone().await;
    assert_eq!(bench.fakes.journal().launches(SLOT), 2);
    assert_eq!(bench.fakes.journal().live(SLOT), 1);
    assert_eq!(replaced(&bench.observer.events()), 0);
    let replaced = |kind: &EventKind| matches!(kind, EventKind::WorkerDown { .. });
    assert_eq!(bench.emitted().iter().filter(|kind| replaced(kind)).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_replaced_worker_that_dies_with_its_calls_leaves_the_successor_alone() {
    let busy = Busy::new(FakeWorkerFactory::new()).await;
    let old = busy.fakes.worker(SLOT).unwrap();
    let mut next = busy.starter.replace(Replacement::default()).await.unwrap();
    old.crash();
    next.departure.gone().await;
    assert_eq!(busy.starter.status().worker, Some(next.worker));
    assert_eq!(busy.starter.status().state, SlotState::Serving);
    assert_eq!(busy.fakes.journal().launches(SLOT), 2);
}

#[tokio::test(start_paused = true)]
async fn a_successor_that_dies_is_restarted_beside_the_worker_that_finishes_its_calls() {
    let busy = Busy::new(FakeWorkerFactory::new()).await;
    let mut next = busy.starter.replace(Replacement::default()).await.unwrap();
    busy.fakes.worker(SLOT).unwrap().crash();
    busy.lender.told.wait_ready(3).await;
    assert_eq!(busy.fakes.journal().live(SLOT), 2);
    busy.lender.calls.send_replace(false);
    next.departure.gone().await;
    assert_eq!(busy.fakes.journal().live(SLOT), 1);
    assert_eq!(busy.fakes.journal().most_live_in_a_slot(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_slot_without_a_worker_gets_the_one_asked_for_at_once() {
    let slow = FakeStart::Fails(Duration::from_secs(6), "slowly".into());
    let bench = Bench::new(FakeWorkerFactory::new().with_otherwise(slow));
    let starter = bench.starters.start_slot(SLOT);
    tokio::time::sleep(ms(1)).await;
    assert_eq!(starter.status().state, SlotState::Starting);
    // The start under way may be of what is to be replaced: it is given up.
    bench.fakes.set_otherwise(FakeStart::Ready(ms(10)));
    let began = Instant::now();
    let next = starter.replace(Replacement::default()).await.unwrap();
    assert_eq!((next.before, began.elapsed()), (None, ms(10)));
    assert_eq!(bench.fakes.journal().most_live_in_a_slot(), 1);

    bench.fakes.set_otherwise(FakeStart::fails("broken"));
    bench.fakes.worker(SLOT).unwrap().crash();
    while !matches!(starter.status().state, SlotState::Pausing { .. }) {
        tokio::time::sleep(ms(1)).await;
    }
    bench.fakes.set_otherwise(FakeStart::ready());
    let began = Instant::now();
    starter.replace(Replacement::default()).await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO, "it does not wait for the pause");

    bench.fakes.worker(SLOT).unwrap().condemn(DownReason::Requested);
    while starter.status().state != SlotState::Idle {
        tokio::time::sleep(ms(1)).await;
    }
    starter.replace(Replacement::default()).await.unwrap();
    assert_eq!(bench.fakes.journal().most_live_in_a_slot(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_quarantined_slot_is_tried_again_at_once() {
    let bench = Bench::new(FakeWorkerFactory::new().with_otherwise(FakeStart::fails("not yet")));
    let supervisor = DynamicSupervisor::start(
        SupervisorLimits::default(),
        Arc::clone(&bench.observer) as _,
        bench.events.clone(),
    );
    supervisor
        .start_child(ChildSpec::new(SLOT, Arc::new(bench.starters.clone())))
        .await
        .unwrap();
    let quarantined = |event: &SlotEvent| matches!(event, SlotEvent::Quarantined { .. });
    bench.observer.wait_for(1, quarantined).await;
    let failed = supervisor.replace_child(SLOT, Replacement::default()).await;
    assert!(matches!(failed, Err(ReplaceError::Failed { .. })), "{failed:?}");
    bench.observer.wait_for(2, quarantined).await;
    bench.fakes.set_otherwise(FakeStart::ready());
    let began = Instant::now();
    supervisor
        .replace_child(SLOT, Replacement::default())
        .await
        .unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
    let nowhere = supervisor.replace_child(SlotId(7), Replacement::default()).await;
    assert!(
        matches!(nowhere, Err(ReplaceError::NotFound(SlotId(7)))),
        "{nowhere:?}"
    );
    supervisor.shutdown().await;
    let over = supervisor.replace_child(SLOT, Replacement::default()).await;
    assert!(matches!(over, Err(ReplaceError::Ending(SLOT))), "{over:?}");
    assert_eq!(bench.fakes.journal().live(SLOT), 0);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_slot_waits_neither_for_a_successor_nor_for_calls() {
    // While the successor starts.
    let busy = Busy::new(FakeWorkerFactory::new().with_abandon_taking(ms(30))).await;
    busy.fakes.set_otherwise(FakeStart::Hangs);
    let asked = busy.ask(Replacement::default());
    tokio::time::sleep(ms(5)).await;
    assert_eq!(busy.fakes.journal().live(SLOT), 2);
    let began = Instant::now();
    assert_eq!(
        busy.starter.terminate(Shutdown::default()).await,
        StarterExit::Terminated
    );
    assert!(began.elapsed() <= ms(31), "{:?}", began.elapsed());
    assert_eq!(busy.fakes.journal().live(SLOT), 0);
    let refused = asked.await.unwrap();
    assert!(matches!(refused, Err(ReplaceError::Ending(SLOT))), "{refused:?}");
    let late = busy.starter.replace(Replacement::default()).await;
    assert!(matches!(late, Err(ReplaceError::Ending(SLOT))), "{late:?}");

    // While the worker that was replaced finishes its calls.
    let busy = Busy::new(FakeWorkerFactory::new()).await;
    let mut next = busy.starter.replace(Replacement::default()).await.unwrap();
    let began = Instant::now();
    busy.starter.terminate(Shutdown::default()).await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(busy.fakes.journal().live(SLOT), 0);
    next.departure.gone().await;
    assert_eq!(busy.starter.status().leaving, None);
}

#[tokio::test(start_paused = true)]
async fn a_killed_starter_ends_both_workers_and_answers_whoever_waits() {
    let busy = Busy::new(FakeWorkerFactory::new()).await;
    let mut next = busy.starter.replace(Replacement::default()).await.unwrap();
    busy.starter.kill();
    assert_eq!(busy.starter.terminated().await, StarterExit::Killed);
    assert_eq!(busy.fakes.journal().live(SLOT), 0);
    next.departure.gone().await;

    let busy = Busy::new(FakeWorkerFactory::new().with_abandon_taking(ms(30))).await;
    busy.fakes.set_otherwise(FakeStart::Hangs);
    let asked = busy.ask(Replacement::default());
    tokio::time::sleep(ms(5)).await;
    busy.starter.kill();
    let refused = asked.await.unwrap();
    assert!(matches!(refused, Err(ReplaceError::Ending(SLOT))), "{refused:?}");
    assert_eq!(busy.starter.terminated().await, StarterExit::Killed);
    assert_eq!(busy.fakes.journal().live(SLOT), 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_caller_leaves_goes_on() {
    let bench = Bench::new(FakeWorkerFactory::new());
    let starter = bench.starters.start_slot(SLOT);
    bench.observer.wait_ready(1).await;
    bench.fakes.set_otherwise(FakeStart::Ready(ms(50)));
    let asked = tokio::time::timeout(ms(1), starter.replace(Replacement::default())).await;
    assert!(asked.is_err());
    bench.observer.wait_ready(2).await;
}
