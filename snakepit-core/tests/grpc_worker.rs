//! The life of a worker that serves the protocol: the order of its start, what undoes it, its heartbeat, its end.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "grpc_worker/fake.rs"]
mod fake;
#[path = "grpc_worker/host_calls.rs"]
mod host_calls;
#[path = "grpc_worker/inputs.rs"]
mod inputs;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use fake::{Fault, Stage};
use snakepit_core::{
    SlotId,
    ledger::RowState,
    worker::{ChannelSpec, DownReason, Heartbeat, StartPhase, StartTurn, StartTurns, WorkerFactory as _},
};
use snakepit_proto::v1::CallRequest;
use tokio::time::{Instant, sleep, timeout};

const SLOT: SlotId = SlotId(0);
/// Nothing here takes longer, on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(20);

async fn until(mut done: impl FnMut() -> bool) {
    let waited = async {
        while !done() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LIMIT, waited).await.expect("it never came to that");
}

#[tokio::test]
async fn a_start_and_an_end_go_through_their_steps_in_order() {
    let stage = Stage::with(&[]);
    let worker = stage.factory(|_| {}).start(SLOT, StartTurn::now()).await.unwrap();
    assert_eq!(stage.done(), ["reserve", "launch", "activate", "gate"]);
    assert_eq!(stage.rows().await[0].state, RowState::Active);
    let report = worker.end(Duration::ZERO, Duration::ZERO).await;
    assert!(report.is_complete());
    assert_eq!(stage.done()[4..], ["ending", "end", "release"]);
    assert!(stage.rows().await.is_empty());
}

#[tokio::test]
async fn a_start_is_on_record_before_its_turn_and_its_deadline_waits_with_it() {
    for (holds, before) in [
        (true, &["reserve", "launch", "activate"][..]),
        (false, &["reserve"]),
    ] {
        let stage = Stage::holding(holds);
        let turns = StartTurns::new(1);
        let other = turns.turn().come().await;
        let factory = stage.factory(|spec| spec.start_deadline = Duration::from_secs(5));
        let turn = turns.turn();
        let starting = tokio::spawn(async move { factory.start(SLOT, turn).await });
        until(|| stage.done().len() >= before.len()).await;
        // Longer than the start deadline.
        sleep(Duration::from_millis(5500)).await;
        assert_eq!(stage.done(), before, "holds: {holds}");
        drop(other);
        let worker = timeout(LIMIT, starting).await.unwrap().unwrap().unwrap();
        assert_eq!(stage.done(), ["reserve", "launch", "activate", "gate"]);
        assert!(
            timeout(Duration::ZERO, turns.turn().come()).await.is_ok(),
            "the permit was given back"
        );
        worker.end(Duration::ZERO, Duration::ZERO).await;
    }
}

#[tokio::test]
async fn a_start_that_is_given_up_before_its_turn_leaves_nothing() {
    for (holds, done) in [
        (
            true,
            &["reserve", "launch", "activate", "ending", "end", "release"][..],
        ),
        (false, &["reserve", "release"]),
    ] {
        let stage = Stage::holding(holds);
        let turns = StartTurns::new(1);
        let _other = turns.turn().come().await;
        let factory = stage.factory(|_| {});
        let mut starting = factory.start(SLOT, turns.turn());
        let recorded = if holds { 3 } else { 1 };
        tokio::select! {
            _ = &mut starting => panic!("it is not its turn"),
            () = until(|| stage.done().len() == recorded) => {}
        }
        drop(starting);
        timeout(LIMIT, factory.settle(SLOT)).await.unwrap();
        assert_eq!(stage.done(), done, "holds: {holds}");
        assert!(stage.rows().await.is_empty());
    }
}

#[tokio::test]
async fn a_failure_at_any_step_undoes_all_earlier_ones() {
    use StartPhase as Phase;
    let undone = ["ending", "end", "release"];
    let steps = [
        (Fault::Reserve, Phase::Reserve, 1, &undone[3..]),
        (Fault::Launch, Phase::Launch, 2, &undone[2..]),
        (Fault::Activate, Phase::Record, 3, &undone[..]),
        (Fault::Gate, Phase::Gate, 4, &undone[..]),
        (Fault::Handshake, Phase::Handshake, 4, &undone[..]),
        (Fault::Import, Phase::Import, 4, &undone[..]),
    ];
    for (fault, phase, until, undone) in steps {
        let stage = Stage::with(&[fault]);
        let error = stage
            .factory(|_| {})
            .start(SLOT, StartTurn::now())
            .await
            .unwrap_err();
        assert_eq!(error.phase, phase, "{error}");
        let expected = [&["reserve", "launch", "activate", "gate"][..until], undone].concat();
        assert_eq!(stage.done(), expected, "{fault:?}");
        assert!(stage.rows().await.is_empty(), "{fault:?}");
    }
}

#[tokio::test]
async fn a_row_stays_when_nobody_could_confirm_that_nothing_is_left() {
    let stage = Stage::with(&[Fault::Unconfirmed]);
    let worker = stage.factory(|_| {}).start(SLOT, StartTurn::now()).await.unwrap();
    let report = worker.end(Duration::ZERO, Duration::ZERO).await;
    assert!(!report.is_complete());
    assert_eq!(stage.rows().await[0].state, RowState::Ending);

    let stage = Stage::with(&[Fault::Unconfirmed, Fault::Gate]);
    stage
        .factory(|_| {})
        .start(SLOT, StartTurn::now())
        .await
        .unwrap_err();
    assert_eq!(stage.rows().await[0].state, RowState::Ending);
}

#[tokio::test]
async fn a_ledger_that_fails_at_the_end_keeps_nobody_from_ending() {
    for fault in [Fault::Ending, Fault::Release] {
        let stage = Stage::with(&[fault]);
        let worker = stage.factory(|_| {}).start(SLOT, StartTurn::now()).await.unwrap();
        let report = worker.end(Duration::ZERO, Duration::ZERO).await;
        assert!(report.is_complete());
        assert_eq!(stage.done()[4..], ["ending", "end", "release"], "{fault:?}");
        assert_eq!(stage.rows().await.len(), 1, "{fault:?}");
    }
}

#[tokio::test]
async fn a_worker_that_became_ready_as_its_caller_left_is_ended_like_any_other() {
    let stage = Stage::with(&[]);
    let factory = stage.factory(|_| {});
    let mut start = factory.start(SLOT, StartTurn::now());
    // Begun, and not looked at again.
    assert!(timeout(Duration::ZERO, &mut start).await.is_err());
    until(|| stage.ready.load(Ordering::Acquire)).await;
    sleep(Duration::from_millis(100)).await;
    drop(start);
    timeout(LIMIT, factory.settle(SLOT)).await.unwrap();
    assert_eq!(stage.done()[4..], ["ending", "end", "release"]);
    assert!(stage.rows().await.is_empty());
}

#[tokio::test]
async fn a_launch_whose_start_was_given_up_is_seen_to_its_end() {
    let stage = Stage::with_slow_launch();
    let factory = stage.factory(|_| {});
    let start = factory.start(SLOT, StartTurn::now());
    assert!(timeout(Duration::from_millis(20), start).await.is_err());
    timeout(LIMIT, factory.settle(SLOT)).await.unwrap();
    // A process that is being created has a row until it is gone.
    assert_eq!(stage.done(), ["reserve", "launch", "ending", "end", "release"]);
    assert!(stage.rows().await.is_empty());

    let stage = Stage::with_slow_launch();
    let factory = stage.factory(|spec| spec.start_deadline = Duration::from_millis(20));
    let error = factory.start(SLOT, StartTurn::now()).await.unwrap_err();
    assert_eq!(error.phase, StartPhase::Launch);
    assert_eq!(stage.done(), ["reserve", "launch", "ending", "end", "release"]);
}

#[tokio::test]
async fn a_host_that_stood_still_does_not_blame_a_worker_that_starts() {
    let stage = Stage::with_slow_launch();
    let factory = stage.factory(|spec| spec.start_deadline = Duration::from_secs(3));
    let mut start = factory.start(SLOT, StartTurn::now());
    assert!(timeout(Duration::from_millis(20), &mut start).await.is_err());
    // The one thread of this runtime does nothing else meanwhile.
    std::thread::sleep(Duration::from_millis(3400));
    let worker = start.await.unwrap();
    worker.end(Duration::ZERO, Duration::ZERO).await;
}

#[tokio::test]
async fn an_ending_that_is_joined_in_no_time_waits_for_nothing() {
    let stage = Stage::with(&[]);
    let worker = stage.factory(|_| {}).start(SLOT, StartTurn::now()).await.unwrap();
    let patient = tokio::spawn({
        let worker = Arc::clone(&worker);
        async move { worker.end(Duration::MAX, Duration::MAX).await }
    });
    until(|| stage.done().contains(&"asked to leave")).await;
    let begun = Instant::now();
    worker.end(Duration::ZERO, Duration::ZERO).await;
    assert!(
        begun.elapsed() < Duration::from_millis(500),
        "{:?}",
        begun.elapsed()
    );
    assert!(patient.await.unwrap().is_complete());
}

#[test]
fn an_ending_whose_runtime_is_gone_is_told_as_not_confirmed() {
    let stage = Stage::with(&[]);
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let first = runtime();
    let worker = first.block_on(async {
        let worker = stage.factory(|_| {}).start(SLOT, StartTurn::now()).await.unwrap();
        let ending = worker.end(LIMIT, LIMIT);
        assert!(timeout(Duration::from_millis(1), ending).await.is_err());
        worker
    });
    drop(first);
    runtime().block_on(async {
        let report = timeout(LIMIT, worker.end(Duration::ZERO, Duration::ZERO)).await;
        assert!(!report.expect("it says so").is_complete());
        assert_eq!(stage.rows().await.len(), 1);
    });
}

#[test]
fn a_stream_whose_runtime_is_gone_does_not_look_complete() {
    let stage = Stage::with(&[]);
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let (first, second) = (runtime(), runtime());
    let worker = first.block_on(async { stage.factory(|_| {}).start(SLOT, StartTurn::now()).await.unwrap() });
    let call = worker.client().call_stream(CallRequest::default(), 1);
    // The connection lives in the first runtime, the caller in the second.
    let caller = second.spawn(call);
    let mut stream = first.block_on(async {
        let driven = std::thread::spawn(move || (second.block_on(caller).unwrap().unwrap(), second));
        until(|| driven.is_finished()).await;
        let (stream, second) = driven.join().unwrap();
        std::thread::spawn(move || drop(second)).join().unwrap();
        stream
    });
    first.block_on(async {
        let end = timeout(LIMIT, stream.items.recv()).await.unwrap();
        assert!(matches!(end, Some(Err(_))), "{end:?}");
        worker.end(Duration::ZERO, Duration::ZERO).await;
    });
}

fn fast() -> Heartbeat {
    Heartbeat {
        interval: Duration::from_millis(20),
        stuck_after: Duration::from_millis(800),
    }
}

#[tokio::test]
async fn a_host_that_stood_still_does_not_blame_its_workers() {
    let stage = Stage::with(&[]);
    let factory = stage.factory(|spec| spec.heartbeat = fast());
    let worker = factory.start(SLOT, StartTurn::now()).await.unwrap();
    for still in [1000, 150, 1200, 30, 1100] {
        let pings = *stage.pings.lock().unwrap();
        // The one thread of this runtime does nothing else meanwhile.
        std::thread::sleep(Duration::from_millis(still));
        let down = timeout(Duration::from_millis(100), worker.down()).await;
        assert!(down.is_err(), "{down:?}");
        until(|| *stage.pings.lock().unwrap() > pings).await;
    }
    worker.end(Duration::ZERO, Duration::ZERO).await;
}

#[tokio::test]
async fn a_worker_is_pinged_only_when_it_does_not_beat() {
    let stage = Stage::with(&[Fault::Beats]);
    let factory = stage.factory(|spec| {
        spec.heartbeat = fast();
        spec.channel = ChannelSpec::Inherited;
        spec.arena = None;
    });
    let worker = factory.start(SLOT, StartTurn::now()).await.unwrap();
    let asked = stage.handshake.lock().unwrap().as_ref().unwrap().beat_ms;
    assert_eq!(asked, 20);
    sleep(Duration::from_secs(1)).await;
    // It beats 20 times for each look, but on a machine that is busy its thread may get no turn for that long.
    let pings = *stage.pings.lock().unwrap();
    assert!(pings < 10, "{pings} pings of 50");
    for _ in 0..2 {
        let before = *stage.pings.lock().unwrap();
        stage.still.store(true, Ordering::Release);
        until(|| *stage.pings.lock().unwrap() > before + 10).await;
        stage.still.store(false, Ordering::Release);
        // What it answers is as good as a beat.
        assert!(timeout(Duration::from_millis(50), worker.down()).await.is_err());
    }
    worker.end(Duration::ZERO, Duration::ZERO).await;
}

#[tokio::test]
async fn a_worker_that_listens_is_not_asked_to_beat() {
    let stage = Stage::with(&[Fault::Beats]);
    let factory = stage.factory(|spec| spec.heartbeat = fast());
    let worker = factory.start(SLOT, StartTurn::now()).await.unwrap();
    let asked = stage.handshake.lock().unwrap().as_ref().unwrap().beat_ms;
    assert_eq!(asked, 0);
    until(|| *stage.pings.lock().unwrap() > 3).await;
    worker.end(Duration::ZERO, Duration::ZERO).await;
}

#[tokio::test]
async fn a_worker_that_stops_answering_is_stuck_whatever_it_answered_before() {
    for faults in [
        &[Fault::Mute][..],
        &[Fault::MuteAfterErrors],
        &[Fault::Mute, Fault::Beats],
    ] {
        let stage = Stage::with(faults);
        let beats = faults.contains(&Fault::Beats);
        let factory = stage.factory(|spec| {
            spec.heartbeat = fast();
            if beats {
                spec.channel = ChannelSpec::Inherited;
                spec.arena = None;
            }
        });
        stage.still.store(true, Ordering::Release);
        let worker = factory.start(SLOT, StartTurn::now()).await.unwrap();
        let begun = Instant::now();
        let down = timeout(LIMIT, worker.down()).await.expect("it is stuck");
        assert_eq!(down.reason, DownReason::Unresponsive(fast().stuck_after));
        assert!(begun.elapsed() >= fast().stuck_after);
        worker.end(Duration::ZERO, Duration::ZERO).await;
    }
}
