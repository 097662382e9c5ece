//! Tables of the rules, and random histories of them.

use proptest::prelude::*;

use super::*;

const SLOT: SlotId = SlotId(0);
const GAVE_UP: Event = Event::Exited {
    slot: SLOT,
    normal: false,
};

fn start(policy: RestartPolicy) -> Event {
    Event::StartChild(SLOT, policy)
}

#[test]
fn a_starter_that_gives_up_is_restarted_then_rests() {
    let mut state = State::new(Rules::default());
    let mut now = Instant::now();
    state.on(start(RestartPolicy::Permanent), now).unwrap();
    for _ in 0..3 {
        assert_eq!(state.on(GAVE_UP, now), Ok(vec![Effect::Restart(SLOT)]));
    }
    for seconds in [30, 60, 120, 240, 300, 300] {
        let pause = Duration::from_secs(seconds);
        assert_eq!(
            state.on(GAVE_UP, now),
            Ok(vec![Effect::TellQuarantined(SLOT, pause)])
        );
        assert_eq!(
            state.on(Event::Tick, now),
            Ok(vec![]),
            "a tick that comes early changes nothing"
        );
        now += pause;
        assert_eq!(state.next_tick(), Some(now));
        assert_eq!(state.on(Event::Tick, now), Ok(vec![Effect::Restart(SLOT)]));
        assert_eq!(state.next_tick(), None);
    }
    // Lived as long as its last rest: off probation.
    now += Duration::from_secs(300);
    assert_eq!(state.on(GAVE_UP, now), Ok(vec![Effect::Restart(SLOT)]));
}

#[test]
fn the_policy_decides_about_an_ended_starter() {
    let table = [
        (RestartPolicy::Permanent, true, Effect::Restart(SLOT)),
        (RestartPolicy::Transient, true, Effect::Forget(SLOT)),
        (RestartPolicy::Transient, false, Effect::Restart(SLOT)),
        (RestartPolicy::Temporary, false, Effect::Forget(SLOT)),
    ];
    for (policy, normal, expected) in table {
        let mut state = State::new(Rules::default());
        let now = Instant::now();
        state.on(start(policy), now).unwrap();
        let effects = state.on(Event::Exited { slot: SLOT, normal }, now);
        assert_eq!(effects, Ok(vec![expected]), "{policy:?}, normal: {normal}");
    }
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let mut state = State::new(Rules::default());
    let now = Instant::now();
    let start = start(RestartPolicy::Permanent);
    assert_eq!(state.on(Event::TerminateChild(SLOT), now), Err(Refusal::NotFound));
    state.on(start, now).unwrap();
    assert_eq!(state.on(start, now), Err(Refusal::AlreadyStarted));
    assert_eq!(state.on(Event::Shutdown, now), Ok(vec![Effect::Terminate(SLOT)]));
    assert_eq!(state.on(start, now), Err(Refusal::Ending));
    assert_eq!(state.on(Event::Shutdown, now), Ok(vec![]));
    let end = state.on(GAVE_UP, now);
    assert_eq!(end, Ok(vec![Effect::Forget(SLOT), Effect::Finish]));
}

fn event() -> impl Strategy<Value = Event> {
    let slot = (0..4_u32).prop_map(SlotId);
    prop_oneof![
        slot.clone()
            .prop_map(|slot| Event::StartChild(slot, RestartPolicy::Permanent)),
        slot.clone()
            .prop_map(|slot| Event::StartChild(slot, RestartPolicy::Temporary)),
        slot.clone().prop_map(Event::TerminateChild),
        (slot.clone(), Just(false)).prop_map(|(slot, normal)| Event::Exited { slot, normal }),
        (slot, any::<bool>()).prop_map(|(slot, normal)| Event::Exited { slot, normal }),
        Just(Event::Tick),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_history_loses_a_slot(
        events in proptest::collection::vec((event(), 0..40_000_u64), 1..120),
    ) {
        let mut state = State::new(Rules::default());
        let mut now = Instant::now();
        // Slots with a live starter, and slots that were accepted and not forgotten.
        let mut live = BTreeSet::new();
        let mut known = BTreeSet::new();
        let mut finished = false;
        let closing = [(Event::Shutdown, 0)].into_iter();
        // At the end every starter that is left ends as asked.
        let ends = (0..4).map(|slot| (Event::Exited { slot: SlotId(slot), normal: true }, 0));
        for (event, ms) in events.into_iter().chain(closing).chain(ends) {
            now += Duration::from_millis(ms);
            if let Event::Exited { slot, .. } = event {
                // Only a starter that lives can end.
                if !live.remove(&slot) { continue }
            }
            let known_before = known.clone();
            let Ok(effects) = state.on(event, now) else {
                let exists = matches!(event, Event::StartChild(slot, _) if known.contains(&slot));
                let absent = matches!(event, Event::TerminateChild(slot) if !known.contains(&slot));
                prop_assert!(exists || absent, "{event:?} was refused");
                continue;
            };
            if let Event::StartChild(slot, _) = event {
                known.insert(slot);
            }
            for effect in effects {
                prop_assert!(!finished, "something follows the end");
                match effect {
                    Effect::Start(slot) | Effect::Restart(slot) => {
                        prop_assert!(live.insert(slot), "two starters in {slot}");
                        prop_assert!(known.contains(&slot));
                    }
                    Effect::Terminate(slot) => prop_assert!(live.contains(&slot)),
                    Effect::TellQuarantined(slot, _) => prop_assert!(!live.contains(&slot)),
                    Effect::Forget(slot) => {
                        prop_assert!(!live.contains(&slot), "{slot} forgotten with a live starter");
                        prop_assert!(known.remove(&slot));
                    }
                    Effect::Finish => {
                        prop_assert!(live.is_empty() && known.is_empty());
                        finished = true;
                    }
                }
            }
            // A slot is running, resting or being ended: there is always something to wait for.
            for &slot in &known {
                let phase = state.child(slot).map(|(phase, _)| phase);
                match phase {
                    Some(Phase::Running { .. } | Phase::Terminating) => prop_assert!(live.contains(&slot)),
                    Some(Phase::Resting { until }) => {
                        prop_assert!(state.next_tick().is_some_and(|tick| tick <= until));
                    }
                    None => prop_assert!(false, "{slot} was lost; before: {known_before:?}"),
                }
            }
        }
        prop_assert!(finished);
    }
}
