//! Real threads and real time: what a paused clock on one thread cannot show.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use snakepit_core::{
    SlotId,
    supervision::{Backoff, ChildSpec, DynamicSupervisor, RestartIntensity, Supervisor, SupervisorLimits},
    testing::{FakeStart, FakeWorkerFactory},
};

use crate::common::{Bench, assert_told_in_pairs, ms};

const SLOTS: u32 = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn crashes_and_ends_on_many_threads_leave_nothing() {
    let generous = RestartIntensity {
        restarts: 100_000,
        period: ms(1),
    };
    let backoff = Backoff {
        initial: Duration::ZERO,
        ..Backoff::default()
    };
    let fakes = FakeWorkerFactory::new()
        .with_otherwise(FakeStart::Ready(ms(1)))
        .with_abandon_taking(ms(2));
    let bench = Bench::new(fakes).starters(|it| it.with_intensity(generous).with_backoff(backoff));
    let supervisor = DynamicSupervisor::start(
        SupervisorLimits::default(),
        Arc::clone(&bench.observer) as _,
        bench.events.clone(),
    );
    let until = SystemTime::now() + Duration::from_millis(1500);
    let tasks: Vec<_> = (0..SLOTS)
        .map(|slot| {
            let supervisor = supervisor.clone();
            let fakes = bench.fakes.clone();
            let spec = ChildSpec::new(SlotId(slot), Arc::new(bench.starters.clone()));
            tokio::spawn(async move {
                let mut rounds = 0_u32;
                while SystemTime::now() < until {
                    rounds += 1;
                    supervisor
                        .start_child(spec.clone())
                        .await
                        .expect("the slot is free");
                    for _ in 0..rounds % 7 {
                        tokio::time::sleep(Duration::from_micros(u64::from(rounds * 37 % 3000))).await;
                        if let Some(worker) = fakes.worker(SlotId(slot)) {
                            worker.crash();
                        }
                    }
                    supervisor.terminate_child(SlotId(slot)).await.expect("it runs");
                    assert_eq!(
                        fakes.journal().live(SlotId(slot)),
                        0,
                        "a terminated slot has no child"
                    );
                }
                rounds
            })
        })
        .collect();
    for task in tasks {
        assert!(task.await.unwrap() > 10);
    }
    supervisor.shutdown().await;
    assert_eq!(bench.fakes.journal().live_in_all(), 0);
    assert_eq!(bench.fakes.journal().most_live_in_a_slot(), 1);
    assert_told_in_pairs(&bench.observer.events());
}

#[test]
fn a_runtime_that_ends_takes_its_slots_along() {
    let fakes = FakeWorkerFactory::new();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .unwrap();
    let supervisor = runtime.block_on(async {
        let bench = Bench::new(fakes.clone());
        let supervisor = DynamicSupervisor::start(
            SupervisorLimits::default(),
            Arc::clone(&bench.observer) as _,
            bench.events.clone(),
        );
        for slot in 0..SLOTS {
            let spec = ChildSpec::new(SlotId(slot), Arc::new(bench.starters.clone()));
            supervisor.start_child(spec).await.unwrap();
        }
        bench.observer.wait_ready(SLOTS as usize).await;
        supervisor
    });
    drop(runtime);
    assert_eq!(fakes.journal().live_in_all(), 0);
    drop(supervisor);
}
