//! Tables of the rules, and random histories of them.

use proptest::prelude::*;

use super::*;

fn rules() -> Rules {
    Rules {
        restart: RestartPolicy::Transient,
        intensity: RestartIntensity::default(),
        backoff: Backoff {
            jitter: 0.0,
            ..Backoff::default()
        },
    }
}

const CRASH: Event = Event::Down { normal: false };

/// Feeds events one millisecond apart; the effects of the last one.
fn after(events: &[Event]) -> (State, Vec<Effect>) {
    let mut state = State::new(rules(), 1);
    let mut now = Instant::now();
    let mut effects = Vec::new();
    for &event in events {
        effects = state.on(event, now).unwrap();
        now += Duration::from_millis(1);
    }
    (state, effects)
}

#[test]
fn each_event_has_these_effects() {
    use Event::{
        Begin, PauseOver, Ready, ResourcesEnded, StartCancelled, StartFailed, Terminate, WorkerEnded,
    };
    let pause = |restart, ms| Effect::TellPause {
        restart,
        pause: Duration::from_millis(ms),
    };
    let terminated = Effect::Finish(Exit::Terminated);
    let table: &[(&[Event], &[Effect])] = &[
        (&[Begin], &[Effect::Start]),
        (&[Begin, Ready], &[Effect::TellReady, Effect::StartResources]),
        (&[Begin, Ready, CRASH], &[Effect::TellDown, Effect::EndResources]),
        (&[Begin, Ready, CRASH, ResourcesEnded], &[]),
        (
            &[Begin, Ready, CRASH, ResourcesEnded, WorkerEnded],
            &[Effect::Start],
        ),
        (
            &[
                Begin,
                Ready,
                Event::Down { normal: true },
                ResourcesEnded,
                WorkerEnded,
            ],
            &[],
        ),
        (&[Begin, StartFailed], &[Effect::TellStartFailed, Effect::Start]),
        (
            &[Begin, StartFailed, StartFailed],
            &[Effect::TellStartFailed, pause(2, 100)],
        ),
        (&[Begin, StartFailed, StartFailed, PauseOver], &[Effect::Start]),
        (
            &[Begin, StartFailed, StartFailed, PauseOver, StartFailed],
            &[Effect::TellStartFailed, pause(3, 200)],
        ),
        (
            &[
                Begin,
                StartFailed,
                StartFailed,
                PauseOver,
                StartFailed,
                PauseOver,
                StartFailed,
            ],
            &[
                Effect::TellStartFailed,
                Effect::TellGaveUp,
                Effect::Finish(Exit::GaveUp),
            ],
        ),
        (&[Terminate], &[terminated]),
        (&[Begin, Terminate], &[Effect::CancelStart]),
        (&[Begin, Terminate, StartCancelled], &[terminated]),
        (
            &[Begin, Terminate, StartFailed],
            &[Effect::TellStartFailed, terminated],
        ),
        // A worker that nobody was told of is ended without being told down.
        (&[Begin, Terminate, Ready], &[]),
        (&[Begin, Terminate, Ready, WorkerEnded], &[terminated]),
        (
            &[Begin, Ready, Terminate],
            &[Effect::TellRequested, Effect::EndResources],
        ),
        (&[Begin, Ready, CRASH, Terminate], &[]),
        (
            &[Begin, Ready, CRASH, Terminate, ResourcesEnded, WorkerEnded],
            &[terminated],
        ),
        (
            &[Begin, Ready, CRASH, ResourcesEnded, Terminate, WorkerEnded],
            &[terminated],
        ),
        (&[Begin, StartFailed, StartFailed, Terminate], &[terminated]),
    ];
    for (events, expected) in table {
        assert_eq!(after(events).1, *expected, "{events:?}");
    }
}

#[test]
fn readiness_for_long_enough_ends_the_series() {
    let short = Duration::from_millis(4_999);
    for (ready_for, pauses) in [(short, true), (Duration::from_secs(5), false)] {
        let (mut state, _) = after(&[Event::Begin, Event::StartFailed, Event::Ready]);
        let now = Instant::now() + Duration::from_millis(2) + ready_for;
        state.on(CRASH, now).unwrap();
        state.on(Event::ResourcesEnded, now).unwrap();
        state.on(Event::WorkerEnded, now).unwrap();
        assert_eq!(
            matches!(state.phase(), Phase::Pausing { .. }),
            pauses,
            "{ready_for:?}"
        );
    }
}

/// What really exists, kept beside the rules from their effects alone.
#[derive(Debug, Default)]
struct World {
    launching: bool,
    worker: bool,
    resources: bool,
    told: bool,
    finished: bool,
}

impl World {
    fn happens(&mut self, event: Event) {
        match event {
            Event::Ready => (self.launching, self.worker) = (false, true),
            Event::StartFailed | Event::StartCancelled => self.launching = false,
            Event::ResourcesEnded => self.resources = false,
            Event::WorkerEnded => self.worker = false,
            Event::Begin | Event::Down { .. } | Event::PauseOver | Event::Terminate => {}
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Start => {
                assert!(
                    !self.launching && !self.worker && !self.resources,
                    "a second worker: {self:?}"
                );
                self.launching = true;
            }
            Effect::CancelStart => assert!(self.launching),
            Effect::TellReady => {
                assert!(self.worker && !self.told);
                self.told = true;
            }
            Effect::TellDown | Effect::TellRequested => {
                assert!(self.worker && self.told, "{self:?}");
                self.told = false;
            }
            Effect::StartResources => {
                assert!(self.worker && !self.resources);
                self.resources = true;
            }
            Effect::EndResources => assert!(self.worker && self.resources && !self.told, "{self:?}"),
            Effect::TellStartFailed | Effect::TellPause { .. } | Effect::TellGaveUp => {}
            Effect::Finish(_) => {
                let left = self.launching || self.worker || self.resources || self.told;
                assert!(!left && !self.finished, "{self:?}");
                self.finished = true;
            }
        }
    }

    fn check(&self, wait: Wait) {
        match wait {
            Wait::Start => assert!(self.launching && !self.worker),
            Wait::Down => assert!(self.worker && self.told),
            Wait::ResourcesEnd => assert!(self.worker && !self.told),
            Wait::WorkerEnd => assert!(self.worker && !self.resources && !self.told, "{self:?}"),
            Wait::Until(_) => assert!(!self.worker && !self.launching && !self.finished),
            Wait::Request => assert!(!self.worker && !self.launching),
        }
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Begin),
        Just(Event::Ready),
        Just(Event::StartFailed),
        Just(Event::StartCancelled),
        any::<bool>().prop_map(|normal| Event::Down { normal }),
        Just(Event::ResourcesEnded),
        Just(Event::WorkerEnded),
        Just(Event::PauseOver),
        Just(Event::Terminate),
    ]
}

/// What a wait may bring.
fn natural(wait: Wait, chance: u8) -> Option<Event> {
    Some(match wait {
        Wait::Request => return None,
        Wait::Start if chance < 128 => Event::Ready,
        Wait::Start => Event::StartFailed,
        Wait::Down => Event::Down { normal: chance < 20 },
        Wait::ResourcesEnd => Event::ResourcesEnded,
        Wait::WorkerEnd => Event::WorkerEnded,
        Wait::Until(_) => Event::PauseOver,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Natural events, with odd ones strewn in that the rules must take or refuse without harm.
    #[test]
    fn no_history_breaks_the_rules(
        steps in proptest::collection::vec((any::<u8>(), proptest::option::weighted(0.2, event()), 0..10_000_u64), 1..120),
    ) {
        let mut state = State::new(rules(), 3);
        let mut world = World::default();
        let mut now = Instant::now();
        let mut terminating = false;
        let begin = [(0, Some(Event::Begin), 0)];
        for (chance, odd, ms) in begin.into_iter().chain(steps) {
            now += Duration::from_millis(ms);
            let wait = state.waits_for();
            let Some(event) = odd.or_else(|| natural(wait, chance)) else { continue };
            // The rules cannot know that a wait brought something it cannot bring: that is the loop's part.
            let possible = match event {
                Event::StartCancelled => wait == Wait::Start && terminating,
                Event::Begin | Event::Terminate => true,
                other => std::mem::discriminant(&other) == natural(wait, 0).map_or_else(
                    || std::mem::discriminant(&Event::Begin), |event| std::mem::discriminant(&event))
                    || natural(wait, 255) == Some(other),
            };
            let before = state.phase();
            match state.on(event, now) {
                Ok(effects) => {
                    prop_assert!(possible, "{event:?} was taken in {before:?}");
                    world.happens(event);
                    terminating |= event == Event::Terminate;
                    effects.into_iter().for_each(|effect| world.perform(effect));
                }
                Err(_) => {
                    prop_assert!(!possible || event == Event::Begin, "{event:?} was refused in {before:?}");
                    prop_assert_eq!(state.phase(), before);
                }
            }
            world.check(state.waits_for());
            prop_assert_eq!(world.finished, state.phase() == Phase::Ended);
        }
        // From anywhere the end is at most four events away, and none of them is a pause.
        let effects = state.on(Event::Terminate, now).unwrap();
        effects.into_iter().for_each(|effect| world.perform(effect));
        for _ in 0..4 {
            let wait = state.waits_for();
            prop_assert!(!matches!(wait, Wait::Until(_) | Wait::Down), "{wait:?} after terminate");
            let Some(event) = natural(wait, 0) else { break };
            world.happens(event);
            let effects = state.on(event, now).unwrap();
            effects.into_iter().for_each(|effect| world.perform(effect));
        }
        prop_assert!(world.finished);
    }
}
