//! Whatever happens in whatever order: never two live workers in a slot but while one replaces the other, never a lost slot,
//! nothing left.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use proptest::prelude::*;
use snakepit_core::{
    SlotId,
    process::ExitOutcome,
    supervision::{
        ChildSpec, DynamicSupervisor, Replacement, SlotStarter, SlotStarterFactory, Starter, StarterFactory,
        Supervisor, SupervisorLimits,
    },
    testing::{FakeResourceFactory, FakeStart, FakeWorkerFactory, Record},
    worker::{DownReason, Worker},
};

use crate::common::{Bench, ms, replaced};

const SLOTS: u32 = 3;

#[derive(Clone, Debug)]
enum Step {
    Start(u32),
    Crash(u32),
    Exit0(u32),
    Condemn(u32),
    KillStarter(u32),
    Terminate(u32),
    TerminateUnheard(u32),
    Replace(u32),
    ReplaceUnheard(u32),
    NextStarts(FakeStart),
    Pass(u64),
}

fn fake_start() -> impl Strategy<Value = FakeStart> {
    prop_oneof![
        3 => (0..300_u64).prop_map(|after| FakeStart::Ready(ms(after))),
        2 => (0..300_u64).prop_map(|after| FakeStart::Fails(ms(after), "no".into())),
        1 => Just(FakeStart::Hangs),
        1 => Just(FakeStart::Panics),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let slot = 0..SLOTS;
    prop_oneof![
        3 => slot.clone().prop_map(Step::Start),
        3 => slot.clone().prop_map(Step::Crash),
        1 => slot.clone().prop_map(Step::Exit0),
        2 => slot.clone().prop_map(Step::Condemn),
        2 => slot.clone().prop_map(Step::KillStarter),
        1 => slot.clone().prop_map(Step::Terminate),
        1 => slot.clone().prop_map(Step::TerminateUnheard),
        3 => slot.clone().prop_map(Step::Replace),
        1 => slot.prop_map(Step::ReplaceUnheard),
        2 => fake_start().prop_map(Step::NextStarts),
        4 => prop_oneof![Just(0), 1..50_u64, 50..2_000_u64, 2_000..60_000_u64].prop_map(Step::Pass),
    ]
}

/// Remembers its starters, so that a test can kill them.
#[derive(Debug)]
struct Killable {
    starters: SlotStarterFactory,
    made: Mutex<BTreeMap<SlotId, Weak<SlotStarter>>>,
}

impl Killable {
    fn kill(&self, slot: u32) {
        let made = self.made.lock().expect("no test panics while it is locked");
        let starter = made.get(&SlotId(slot)).and_then(Weak::upgrade);
        // The handle may be the last one, and its drop asks for the end: not under the lock.
        drop(made);
        if let Some(starter) = starter {
            starter.kill();
        }
    }
}

impl StarterFactory for Killable {
    fn start(&self, slot: SlotId) -> Arc<dyn Starter> {
        let starter = Arc::new(self.starters.start_slot(slot));
        let mut made = self.made.lock().expect("no test panics while it is locked");
        made.insert(slot, Arc::downgrade(&starter));
        starter
    }
}

async fn play(steps: Vec<Step>, end_takes: Duration) {
    let fakes = FakeWorkerFactory::new()
        .with_end_taking(end_takes)
        .with_abandon_taking(ms(15));
    let journal = fakes.journal().clone();
    let resource = FakeResourceFactory::new("extra", journal.clone()).with_end_taking(ms(5));
    let bench = Bench::new(fakes).starters(|it| it.with_resource(Arc::new(resource)));
    let killable = Arc::new(Killable {
        starters: bench.starters.clone(),
        made: Mutex::default(),
    });
    let supervisor = DynamicSupervisor::start(
        SupervisorLimits::default(),
        Arc::clone(&bench.observer) as _,
        bench.events.clone(),
    );
    let mut expected = std::collections::BTreeSet::new();
    for step in steps {
        match step {
            Step::Start(slot) => {
                let spec = ChildSpec::new(SlotId(slot), Arc::clone(&killable) as _);
                let fresh = expected.insert(slot);
                assert_eq!(supervisor.start_child(spec).await.is_ok(), fresh, "slot {slot}");
            }
            Step::Crash(slot) => with_worker(&bench, slot, |worker| worker.crash()),
            Step::Exit0(slot) => with_worker(&bench, slot, |worker| worker.exit(ExitOutcome::Exited(0))),
            Step::Condemn(slot) => {
                with_worker(&bench, slot, |worker| worker.condemn(DownReason::ChannelClosed))
            }
            Step::KillStarter(slot) => killable.kill(slot),
            Step::Terminate(slot) => {
                let known = expected.remove(&slot);
                assert_eq!(
                    supervisor.terminate_child(SlotId(slot)).await.is_ok(),
                    known,
                    "slot {slot}"
                );
                assert_eq!(journal.live(SlotId(slot)), 0, "a terminated slot has no child");
            }
            Step::TerminateUnheard(slot) => {
                // The caller leaves; a second request waits for the end that goes on.
                let mut asked = Box::pin(supervisor.terminate_child(SlotId(slot)));
                let _ = tokio::time::timeout(Duration::ZERO, &mut asked).await;
                drop(asked);
                let _ = supervisor.terminate_child(SlotId(slot)).await;
                expected.remove(&slot);
                assert_eq!(journal.live(SlotId(slot)), 0, "a terminated slot has no child");
            }
            Step::Replace(slot) => {
                // A start that hangs would be waited for; whoever asks leaves then.
                let asked = supervisor.replace_child(SlotId(slot), Replacement::default());
                if let Ok(Ok(mut replaced)) = tokio::time::timeout(Duration::from_secs(1), asked).await {
                    replaced.departure.gone().await;
                    assert!(journal.live(SlotId(slot)) <= 1, "the worker before is gone");
                }
            }
            Step::ReplaceUnheard(slot) => {
                let asked = supervisor.replace_child(SlotId(slot), Replacement::default());
                let _ = tokio::time::timeout(Duration::ZERO, asked).await;
            }
            Step::NextStarts(start) => bench.fakes.set_otherwise(start),
            Step::Pass(time) => tokio::time::sleep(ms(time)).await,
        }
        assert!(journal.most_live_in_a_slot() <= 2, "three live workers in a slot");
    }
    let found: Vec<_> = supervisor
        .which_children()
        .await
        .iter()
        .map(|child| child.status.slot.0)
        .collect();
    assert_eq!(
        found,
        expected.iter().copied().collect::<Vec<_>>(),
        "a slot was lost"
    );

    // Whatever was broken: once starts work again, every slot serves again.
    bench.fakes.set_otherwise(FakeStart::ready());
    for slot in 0..SLOTS {
        // A start that hangs would do so for ever; a real one has a deadline.
        killable.kill(slot);
    }
    tokio::time::sleep(Duration::from_secs(3600)).await;
    for &slot in &expected {
        assert!(
            bench.observer.ready_worker(SlotId(slot)).is_some(),
            "slot {slot} does not serve"
        );
        assert_eq!(journal.live(SlotId(slot)), 1, "slot {slot} has a worker too many");
    }
    supervisor.shutdown().await;
    assert_eq!(journal.live_in_all(), 0);
    assert!(journal.most_live_in_a_slot() <= 2);
    replaced(&bench.observer.events());
    assert_resources_end_first(&journal.records());
}

fn with_worker(bench: &Bench, slot: u32, act: impl FnOnce(&snakepit_core::testing::FakeWorker)) {
    if let Some(worker) = bench.fakes.worker(SlotId(slot)) {
        act(&worker);
    }
}

/// A worker's end is asked for only while none of its resources is left.
fn assert_resources_end_first(records: &[Record]) {
    let mut running = BTreeMap::new();
    for record in records {
        match record {
            Record::ResourceStarted(_, worker, _) => *running.entry(*worker).or_insert(0) += 1,
            Record::ResourceEnded(_, worker, _) => *running.entry(*worker).or_insert(0) -= 1,
            Record::EndAsked(slot, worker) => {
                let left = running.get(worker).copied().unwrap_or(0);
                assert_eq!(left, 0, "{worker} of {slot} ended before its resources");
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_events_breaks_a_slot(
        steps in proptest::collection::vec(step(), 1..60),
        end_takes in prop_oneof![Just(0_u64), Just(40)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(play(steps, ms(end_takes)));
    }
}
