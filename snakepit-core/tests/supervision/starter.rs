//! One starter and its worker.

use std::time::Duration;

use snakepit_core::{
    event::EventKind,
    supervision::{RestartPolicy, Shutdown, SlotEvent, SlotState, Starter, StarterExit},
    testing::{FakeStart, FakeWorkerFactory, Record},
    worker::{DownReason, Worker},
};
use tokio::time::Instant;

use crate::common::{Bench, SLOT, assert_told_in_pairs, ms};

#[tokio::test(start_paused = true)]
async fn a_crashed_worker_is_replaced_at_once() {
    let bench = Bench::new(FakeWorkerFactory::new());
    let starter = bench.starters.start_slot(SLOT);
    bench.observer.wait_ready(1).await;
    let began = Instant::now();
    bench.fakes.worker(SLOT).unwrap().crash();
    bench.observer.wait_ready(2).await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(starter.status().state, SlotState::Serving);
    assert_eq!(starter.status().restarts, 1);
    assert_eq!(
        starter.status().last_failure.as_deref(),
        Some("killed by SIGKILL")
    );
    assert_eq!(bench.fakes.journal().most_live_in_a_slot(), 1);
    assert_told_in_pairs(&bench.observer.events());
}

#[tokio::test(start_paused = true)]
async fn the_next_worker_starts_only_when_nothing_of_the_last_is_left() {
    let bench = Bench::new(FakeWorkerFactory::new().with_end_taking(ms(700)));
    let _starter = bench.starters.start_slot(SLOT);
    bench.observer.wait_ready(1).await;
    let began = Instant::now();
    bench
        .fakes
        .worker(SLOT)
        .unwrap()
        .condemn(DownReason::ChannelClosed);
    let down = |event: &SlotEvent| matches!(event, SlotEvent::Down { .. });
    bench.observer.wait_for(1, down).await;
    assert_eq!(began.elapsed(), Duration::ZERO, "the pool is told at once");
    bench.observer.wait_ready(2).await;
    assert_eq!(began.elapsed(), ms(700));
    assert_eq!(bench.fakes.journal().most_live_in_a_slot(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_ends_with_code_0_is_restarted_too() {
    let bench = Bench::new(FakeWorkerFactory::new());
    let _starter = bench.starters.start_slot(SLOT);
    bench.observer.wait_ready(1).await;
    bench
        .fakes
        .worker(SLOT)
        .unwrap()
        .exit(snakepit_core::process::ExitOutcome::Exited(0));
    bench.observer.wait_ready(2).await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_the_host_asked_to_end_is_not_restarted() {
    let bench = Bench::new(FakeWorkerFactory::new());
    let starter = bench.starters.start_slot(SLOT);
    bench.observer.wait_ready(1).await;
    bench.fakes.worker(SLOT).unwrap().condemn(DownReason::Requested);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(starter.status().state, SlotState::Idle);
    assert_eq!(bench.fakes.journal().launches(SLOT), 1);
    assert_eq!(
        starter.terminate(Shutdown::default()).await,
        StarterExit::Terminated
    );
}

#[tokio::test(start_paused = true)]
async fn a_permanent_worker_is_restarted_after_a_normal_end() {
    let bench = Bench::new(FakeWorkerFactory::new()).starters(|it| it.with_restart(RestartPolicy::Permanent));
    let _starter = bench.starters.start_slot(SLOT);
    bench.observer.wait_ready(1).await;
    bench.fakes.worker(SLOT).unwrap().condemn(DownReason::Requested);
    bench.observer.wait_ready(2).await;
}

#[tokio::test(start_paused = true)]
async fn failed_starts_follow_the_backoff_and_then_the_starter_gives_up() {
    let fakes = FakeWorkerFactory::new().with_otherwise(FakeStart::fails("no module named x"));
    let mut bench = Bench::new(fakes);
    let began = Instant::now();
    let starter = bench.starters.start_slot(SLOT);
    let StarterExit::GaveUp { intensity, cause } = starter.terminated().await else {
        panic!("it did not give up");
    };
    assert_eq!(intensity.restarts, 3);
    assert!(cause.contains("no module named x"), "{cause}");
    assert_eq!(
        bench.fakes.journal().launches(SLOT),
        4,
        "one start and three restarts"
    );
    // 0, then 100 ms and 200 ms with a fifth of jitter either way.
    assert!(
        (ms(240)..=ms(361)).contains(&began.elapsed()),
        "{:?}",
        began.elapsed()
    );
    let emitted = bench.emitted();
    let delays: Vec<_> = emitted
        .iter()
        .filter_map(|kind| match kind {
            EventKind::RestartDelayed { restart, .. } => Some(*restart),
            _ => None,
        })
        .collect();
    assert_eq!(delays, [2, 3]);
    assert!(matches!(emitted.last(), Some(EventKind::StarterGaveUp { .. })));
    assert_eq!(bench.fakes.journal().live(SLOT), 0);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_served_long_enough_is_restarted_at_once_again() {
    let bench = Bench::new(FakeWorkerFactory::new());
    let _starter = bench.starters.start_slot(SLOT);
    for crashes in 1..=10 {
        bench.observer.wait_ready(crashes).await;
        tokio::time::sleep(Duration::from_secs(6)).await;
        let began = Instant::now();
        bench.fakes.worker(SLOT).unwrap().crash();
        bench.observer.wait_ready(crashes + 1).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn termination_is_prompt_during_a_start_that_hangs() {
    let fakes = FakeWorkerFactory::new()
        .with_otherwise(FakeStart::Hangs)
        .with_abandon_taking(ms(30));
    let bench = Bench::new(fakes);
    let starter = bench.starters.start_slot(SLOT);
    tokio::time::sleep(ms(500)).await;
    assert_eq!(starter.status().state, SlotState::Starting);
    assert_eq!(bench.fakes.journal().live(SLOT), 1);
    let began = Instant::now();
    assert_eq!(
        starter.terminate(Shutdown::default()).await,
        StarterExit::Terminated
    );
    assert!(began.elapsed() <= ms(31), "{:?}", began.elapsed());
    assert_eq!(
        bench.fakes.journal().live(SLOT),
        0,
        "reported before nothing was left"
    );
}

#[tokio::test(start_paused = true)]
async fn termination_is_prompt_during_a_pause() {
    let slow = FakeStart::Fails(Duration::from_secs(6), "slowly".into());
    let bench = Bench::new(FakeWorkerFactory::new().with_otherwise(slow));
    let starter = bench.starters.start_slot(SLOT);
    let pausing = |state| matches!(state, SlotState::Pausing { left } if left > Duration::from_secs(5));
    while !pausing(starter.status().state) {
        tokio::time::sleep(ms(10)).await;
    }
    let began = Instant::now();
    assert_eq!(
        starter.terminate(Shutdown::default()).await,
        StarterExit::Terminated
    );
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(starter.status().state, SlotState::Terminated);
}

#[tokio::test(start_paused = true)]
async fn termination_is_prompt_while_waiting_for_a_place_to_start() {
    let bench = Bench::new(FakeWorkerFactory::new().with_otherwise(FakeStart::Hangs))
        .starters(|it| it.with_parallel_starts(1));
    let first = bench.starters.start_slot(SLOT);
    let second = bench.starters.start_slot(snakepit_core::SlotId(1));
    tokio::time::sleep(ms(10)).await;
    assert_eq!(bench.fakes.journal().live_in_all(), 1);
    second.terminate(Shutdown::BRUTAL).await;
    first.terminate(Shutdown::BRUTAL).await;
    assert_eq!(bench.fakes.journal().live_in_all(), 0);
}

#[tokio::test(start_paused = true)]
async fn parallel_starts_are_bounded() {
    let fakes = FakeWorkerFactory::new().with_otherwise(FakeStart::Ready(ms(100)));
    let bench = Bench::new(fakes).starters(|it| it.with_parallel_starts(4));
    let began = Instant::now();
    let starters: Vec<_> = (0..20)
        .map(|slot| bench.starters.start_slot(snakepit_core::SlotId(slot)))
        .collect();
    bench.observer.wait_ready(20).await;
    assert_eq!(began.elapsed(), ms(500), "five waves of four");
    drop(starters);
}

#[tokio::test(start_paused = true)]
async fn the_shorter_of_two_terminations_wins() {
    let bench = Bench::new(FakeWorkerFactory::new().with_end_taking(Duration::from_secs(3600)));
    let starter = bench.starters.start_slot(SLOT);
    bench.observer.wait_ready(1).await;
    let worker = bench.fakes.worker(SLOT).unwrap();
    let began = Instant::now();
    let hurry = async {
        tokio::time::sleep(ms(100)).await;
        starter.terminate(Shutdown::BRUTAL).await
    };
    let (patient, hurried) = tokio::join!(starter.terminate(Shutdown::default()), hurry);
    assert_eq!(
        (patient, hurried),
        (StarterExit::Terminated, StarterExit::Terminated)
    );
    assert_eq!(began.elapsed(), ms(100));
    assert_eq!(
        worker.ends_asked().last(),
        Some(&(Duration::ZERO, Duration::ZERO))
    );
}

#[tokio::test(start_paused = true)]
async fn a_dropped_handle_ends_its_slot() {
    let bench = Bench::new(FakeWorkerFactory::new());
    drop(bench.starters.start_slot(SLOT));
    tokio::time::sleep(ms(1)).await;
    assert_eq!(bench.fakes.journal().live(SLOT), 0);
    let starter = bench.starters.start_slot(SLOT);
    bench.observer.wait_ready(1).await;
    drop(starter);
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(bench.fakes.journal().live(SLOT), 0);
    assert!(matches!(
        bench.fakes.journal().records().last(),
        Some(Record::Gone(..))
    ));
}

#[tokio::test(start_paused = true)]
async fn every_change_is_emitted_in_order() {
    let fakes = FakeWorkerFactory::new().with_script([
        FakeStart::ready(),
        FakeStart::fails("once"),
        FakeStart::ready(),
    ]);
    let mut bench = Bench::new(fakes);
    let starter = bench.starters.start_slot(SLOT);
    bench.observer.wait_ready(1).await;
    bench.fakes.worker(SLOT).unwrap().crash();
    bench.observer.wait_ready(2).await;
    starter.terminate(Shutdown::default()).await;
    let names: Vec<_> = bench
        .emitted()
        .into_iter()
        .map(|kind| match kind {
            EventKind::WorkerReady { .. } => "ready",
            EventKind::WorkerStartFailed { .. } => "start failed",
            EventKind::WorkerDown { down, .. } if down.reason.is_normal() => "down as asked",
            EventKind::WorkerDown { .. } => "down",
            EventKind::WorkerEnded { .. } => "ended",
            EventKind::RestartDelayed { restart: 2, .. } => "second restart delayed",
            _ => "other",
        })
        .collect();
    let expected = [
        "ready",
        "down",
        "ended",
        "start failed",
        "second restart delayed",
        "ready",
        "down as asked",
        "ended",
    ];
    assert_eq!(names, expected);
}
