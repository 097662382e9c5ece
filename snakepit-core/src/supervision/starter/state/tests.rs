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
        (
            &[Begin, Ready],
            &[Effect::Admit, Effect::TellReady, Effect::StartResources],
        ),
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
        (&[Begin, Terminate, Ready], &[Effect::Admit]),
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

const REPLACE: Event = Event::Replace { drain: None };
const DRAINED: Event = Event::Leaving(Departure::Drained);
const LEFT_RESOURCES: Event = Event::Leaving(Departure::ResourcesEnded);
const LEFT: Event = Event::Leaving(Departure::WorkerEnded);

#[test]
fn a_worker_is_replaced_by_these_steps_whatever_happens_meanwhile() {
    use Event::{Begin, Ready, ResourcesEnded, StartCancelled, StartFailed, Terminate, WorkerEnded};
    let ending = Effect::Answer(Answer::Ending);
    let failed = Effect::Answer(Answer::Failed);
    let terminated = Effect::Finish(Exit::Terminated);
    let refused = |refusal| [Effect::Refuse(refusal)];
    let taken_up = [Effect::Accept, Effect::StartReplacement];
    let in_place = [
        Effect::Admit,
        Effect::TellReady,
        Effect::StartResources,
        Effect::Answer(Answer::Ready),
    ];
    let table: &[(&[Event], &[Effect])] = &[
        // Beside the worker that serves; then in its place, while it finishes its calls.
        (&[Begin, Ready, REPLACE], &taken_up),
        (
            &[Begin, Ready, REPLACE, Ready],
            &[
                Effect::Retire,
                Effect::Admit,
                Effect::TellReady,
                Effect::StartResources,
                Effect::Answer(Answer::Ready),
            ],
        ),
        (
            &[Begin, Ready, REPLACE, Ready, DRAINED],
            &[Effect::TellLeft, Effect::EndLeavingResources],
        ),
        (&[Begin, Ready, REPLACE, Ready, DRAINED, LEFT_RESOURCES], &[]),
        (
            &[Begin, Ready, REPLACE, Ready, DRAINED, LEFT_RESOURCES, LEFT],
            &[],
        ),
        (
            &[
                Begin,
                Ready,
                REPLACE,
                Ready,
                DRAINED,
                LEFT_RESOURCES,
                LEFT,
                REPLACE,
            ],
            &taken_up,
        ),
        // It does not start: the one that serves is not touched, and no restart is counted.
        (
            &[Begin, Ready, REPLACE, StartFailed],
            &[Effect::TellReplacementFailed, failed],
        ),
        (&[Begin, Ready, REPLACE, StartFailed, REPLACE], &taken_up),
        // The one that serves goes down first: the start under way is the slot's.
        (
            &[Begin, Ready, REPLACE, CRASH],
            &[Effect::TellDown, Effect::Retire, Effect::EndLeavingResources],
        ),
        (&[Begin, Ready, REPLACE, CRASH, Ready], &in_place),
        (
            &[Begin, Ready, REPLACE, CRASH, LEFT_RESOURCES, LEFT, Ready],
            &in_place,
        ),
        (
            &[Begin, Ready, REPLACE, CRASH, StartFailed],
            &[Effect::TellStartFailed, failed, Effect::Start],
        ),
        // The new one goes down while the old one finishes its calls.
        (
            &[Begin, Ready, REPLACE, Ready, CRASH],
            &[Effect::TellDown, Effect::EndResources],
        ),
        (
            &[Begin, Ready, REPLACE, Ready, CRASH, ResourcesEnded, WorkerEnded],
            &[Effect::Start],
        ),
        // A second request.
        (&[Begin, Ready, REPLACE, REPLACE], &refused(Refusal::UnderWay)),
        (
            &[Begin, Ready, REPLACE, Ready, REPLACE],
            &refused(Refusal::Draining),
        ),
        (
            &[Begin, Ready, REPLACE, Ready, DRAINED, LEFT_RESOURCES, REPLACE],
            &refused(Refusal::Draining),
        ),
        // In other phases.
        (&[REPLACE], &refused(Refusal::UnderWay)),
        (&[Begin, REPLACE], &[Effect::Accept, Effect::CancelStart]),
        (&[Begin, REPLACE, REPLACE], &refused(Refusal::UnderWay)),
        (&[Begin, REPLACE, StartCancelled], &[Effect::StartReplacement]),
        (&[Begin, REPLACE, StartCancelled, Ready], &in_place),
        (
            &[Begin, REPLACE, StartCancelled, REPLACE],
            &refused(Refusal::UnderWay),
        ),
        (
            &[Begin, REPLACE, StartFailed],
            &[Effect::TellStartFailed, Effect::StartReplacement],
        ),
        (&[Begin, REPLACE, Ready], &[Effect::Admit]),
        (&[Begin, REPLACE, Ready, WorkerEnded], &[Effect::StartReplacement]),
        (&[Begin, Ready, CRASH, REPLACE], &[Effect::Accept]),
        (
            &[Begin, Ready, CRASH, REPLACE, REPLACE],
            &refused(Refusal::UnderWay),
        ),
        (
            &[Begin, Ready, CRASH, REPLACE, ResourcesEnded, WorkerEnded],
            &[Effect::StartReplacement],
        ),
        (
            &[Begin, Ready, CRASH, ResourcesEnded, REPLACE, WorkerEnded],
            &[Effect::StartReplacement],
        ),
        (&[Begin, StartFailed, StartFailed, REPLACE], &taken_up),
        (
            &[Begin, StartFailed, StartFailed, REPLACE, StartFailed],
            &[
                Effect::TellStartFailed,
                failed,
                Effect::TellPause {
                    restart: 3,
                    pause: Duration::from_millis(200),
                },
            ],
        ),
        // The end, in each phase of it.
        (
            &[Begin, Ready, REPLACE, Terminate],
            &[
                ending,
                Effect::TellRequested,
                Effect::Retire,
                Effect::EndLeavingResources,
                Effect::CancelStart,
            ],
        ),
        (
            &[Begin, Ready, REPLACE, Terminate, REPLACE],
            &refused(Refusal::Ending),
        ),
        (&[Begin, Ready, REPLACE, Terminate, StartCancelled], &[]),
        (
            &[
                Begin,
                Ready,
                REPLACE,
                Terminate,
                StartCancelled,
                LEFT_RESOURCES,
                LEFT,
            ],
            &[terminated],
        ),
        (
            &[
                Begin,
                Ready,
                REPLACE,
                Terminate,
                LEFT_RESOURCES,
                LEFT,
                Ready,
                WorkerEnded,
            ],
            &[terminated],
        ),
        (&[Begin, REPLACE, Terminate], &[ending]),
        (&[Begin, REPLACE, Terminate, StartCancelled], &[terminated]),
        (&[Begin, Ready, CRASH, REPLACE, Terminate], &[ending]),
        (
            &[Begin, Ready, REPLACE, Ready, Terminate],
            &[
                Effect::TellLeft,
                Effect::EndLeavingResources,
                Effect::TellRequested,
                Effect::EndResources,
            ],
        ),
        (
            &[
                Begin,
                Ready,
                REPLACE,
                Ready,
                Terminate,
                ResourcesEnded,
                WorkerEnded,
            ],
            &[],
        ),
        (
            &[
                Begin,
                Ready,
                REPLACE,
                Ready,
                Terminate,
                ResourcesEnded,
                WorkerEnded,
                REPLACE,
            ],
            &refused(Refusal::Ending),
        ),
        (
            &[
                Begin,
                Ready,
                REPLACE,
                Ready,
                Terminate,
                ResourcesEnded,
                WorkerEnded,
                LEFT_RESOURCES,
                LEFT,
            ],
            &[terminated],
        ),
        (&[Terminate, REPLACE], &refused(Refusal::Ending)),
    ];
    for (events, expected) in table {
        assert_eq!(after(events).1, *expected, "{events:?}");
    }
}

#[test]
fn the_drain_of_a_replaced_worker_is_bounded_only_where_that_was_asked_for() {
    for drain in [None, Some(Duration::from_secs(7))] {
        let (mut state, _) = after(&[Event::Begin, Event::Ready, Event::Replace { drain }]);
        let now = Instant::now();
        state.on(Event::Ready, now).unwrap();
        let until = drain.map(|drain| now + drain);
        assert_eq!(state.leaving(), Some(Leaving::Draining { until }));
    }
}

#[test]
fn a_starter_gives_up_only_when_the_worker_that_was_replaced_is_gone() {
    let mut events = vec![Event::Begin, Event::Ready, REPLACE, Event::Ready];
    for _ in 0..4 {
        events.extend([
            CRASH,
            Event::ResourcesEnded,
            Event::WorkerEnded,
            Event::PauseOver,
            Event::Ready,
        ]);
    }
    // The last restart is one too many.
    events.truncate(events.len() - 2);
    let mut state = State::new(
        Rules {
            backoff: Backoff {
                initial: Duration::from_millis(1),
                ..rules().backoff
            },
            ..rules()
        },
        1,
    );
    let now = Instant::now();
    let mut last = Vec::new();
    for event in events {
        // The first restart is at once, without a pause.
        if !(event == Event::PauseOver && state.phase() == Phase::Starting) {
            last = state.on(event, now).unwrap();
        }
    }
    assert_eq!(last, [Effect::TellGaveUp]);
    assert_eq!(state.phase(), Phase::Finishing(Exit::GaveUp));
    state.on(DRAINED, now).unwrap();
    state.on(LEFT_RESOURCES, now).unwrap();
    assert_eq!(state.on(LEFT, now).unwrap(), [Effect::Finish(Exit::GaveUp)]);
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

/// A pool whose workers are ended by some call every few seconds keeps its slots: a long pause asks for no long life.
#[test]
fn a_series_ends_with_the_period_also_after_a_long_pause() {
    let (mut state, _) = after(&[Event::Begin]);
    let mut now = Instant::now();
    for _ in 0..12 {
        // Seldom enough for the intensity.
        now += Duration::from_secs(10);
        state.on(Event::StartFailed, now).unwrap();
        if let Phase::Pausing { until } = state.phase() {
            now = until;
            state.on(Event::PauseOver, now).unwrap();
        }
    }
    state.on(Event::Ready, now).unwrap();
    now += Duration::from_secs(5);
    state.on(CRASH, now).unwrap();
    state.on(Event::ResourcesEnded, now).unwrap();
    state.on(Event::WorkerEnded, now).unwrap();
    assert_eq!(state.phase(), Phase::Starting);
}

/// Workers that are recycled more often than that have a series end all the same.
#[test]
fn planned_replacements_are_no_break_in_what_ends_a_series() {
    let (mut state, _) = after(&[Event::Begin, Event::StartFailed, Event::StartFailed]);
    let Phase::Pausing { until } = state.phase() else {
        panic!("the second restart of a series waits: {state:?}")
    };
    let mut now = until;
    state.on(Event::PauseOver, now).unwrap();
    state.on(Event::Ready, now).unwrap();
    for _ in 0..3 {
        now += Duration::from_secs(2);
        let replaced = [
            REPLACE,
            Event::Ready,
            Event::Leaving(Departure::Drained),
            Event::Leaving(Departure::ResourcesEnded),
            Event::Leaving(Departure::WorkerEnded),
        ];
        for event in replaced {
            state.on(event, now).unwrap();
        }
    }
    for event in [CRASH, Event::ResourcesEnded, Event::WorkerEnded] {
        state.on(event, now).unwrap();
    }
    assert_eq!(state.phase(), Phase::Starting);
}

/// What really exists, kept beside the rules from their effects alone.
#[derive(Debug, Default)]
struct World {
    launching: bool,
    arrived: bool,
    worker: bool,
    resources: bool,
    told: bool,
    leaving: bool,
    leaving_resources: bool,
    /// A request that was taken up and not answered.
    waiting: bool,
    finished: bool,
}

impl World {
    fn live(&self) -> usize {
        usize::from(self.launching || self.arrived) + usize::from(self.worker) + usize::from(self.leaving)
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Ready => (self.launching, self.arrived) = (false, true),
            Event::StartFailed | Event::StartCancelled => self.launching = false,
            Event::ResourcesEnded => self.resources = false,
            Event::WorkerEnded => self.worker = false,
            Event::Leaving(Departure::ResourcesEnded) => self.leaving_resources = false,
            Event::Leaving(Departure::WorkerEnded) => self.leaving = false,
            Event::Begin
            | Event::Down { .. }
            | Event::PauseOver
            | Event::Terminate
            | Event::Replace { .. }
            | Event::Leaving(Departure::Drained) => {}
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Start | Effect::StartReplacement => {
                assert!(!self.launching && !self.arrived, "two starts: {self:?}");
                let beside = effect == Effect::StartReplacement && self.told && !self.leaving;
                assert!(!self.worker || beside, "a second worker: {self:?}");
                self.launching = true;
                assert!(self.live() <= 2, "a third worker: {self:?}");
            }
            Effect::CancelStart => assert!(self.launching),
            Effect::Admit => {
                assert!(self.arrived && !self.worker && !self.resources, "{self:?}");
                (self.arrived, self.worker) = (false, true);
            }
            Effect::Retire => {
                assert!(
                    self.worker && !self.leaving && !self.leaving_resources,
                    "{self:?}"
                );
                (self.worker, self.leaving) = (false, true);
                (self.resources, self.leaving_resources) = (false, self.resources);
                self.told = false;
            }
            Effect::TellReady => {
                assert!(self.worker && !self.told);
                self.told = true;
            }
            Effect::TellDown | Effect::TellRequested => {
                assert!(self.worker && self.told, "{self:?}");
                self.told = false;
            }
            Effect::TellLeft => assert!(self.leaving, "{self:?}"),
            Effect::StartResources => {
                assert!(self.worker && !self.resources);
                self.resources = true;
            }
            Effect::EndResources => assert!(self.worker && self.resources && !self.told, "{self:?}"),
            Effect::EndLeavingResources => assert!(self.leaving && self.leaving_resources, "{self:?}"),
            Effect::Accept => {
                assert!(!self.waiting && !self.leaving, "{self:?}");
                self.waiting = true;
            }
            Effect::Answer(answer) => {
                assert!(self.waiting, "{self:?}");
                assert!(answer != Answer::Ready || self.told, "{self:?}");
                self.waiting = false;
            }
            Effect::TellReplacementFailed => assert!(self.told, "nobody serves on: {self:?}"),
            Effect::TellStartFailed | Effect::TellPause { .. } | Effect::TellGaveUp | Effect::Refuse(_) => {}
            Effect::Finish(_) => {
                let left =
                    self.live() > 0 || self.resources || self.leaving_resources || self.told || self.waiting;
                assert!(!left && !self.finished, "{self:?}");
                self.finished = true;
            }
        }
    }

    fn check(&self, wait: Wait, leaving: Option<Leaving>) {
        match wait {
            Wait::Start => assert!(self.launching && !self.worker),
            Wait::Down => assert!(self.worker && self.told && !self.launching),
            Wait::StartOrDown => assert!(self.worker && self.told && self.launching && !self.leaving),
            Wait::ResourcesEnd => assert!(self.worker && !self.told),
            Wait::WorkerEnd => assert!(self.worker && !self.resources && !self.told, "{self:?}"),
            Wait::Until(_) => assert!(!self.worker && !self.launching && !self.finished),
            Wait::Request => assert!(!self.worker && !self.launching),
        }
        match leaving {
            None => assert!(!self.leaving, "{self:?}"),
            Some(Leaving::Draining { .. } | Leaving::EndingResources) => assert!(self.leaving, "{self:?}"),
            Some(Leaving::EndingWorker) => assert!(self.leaving && !self.leaving_resources, "{self:?}"),
        }
        assert!(!self.arrived, "{self:?}");
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        1 => Just(Event::Begin),
        1 => Just(Event::Ready),
        1 => Just(Event::StartFailed),
        1 => Just(Event::StartCancelled),
        1 => any::<bool>().prop_map(|normal| Event::Down { normal }),
        1 => Just(Event::ResourcesEnded),
        1 => Just(Event::WorkerEnded),
        1 => Just(Event::PauseOver),
        1 => Just(Event::Terminate),
        5 => Just(REPLACE),
        1 => Just(DRAINED),
        1 => Just(LEFT_RESOURCES),
        1 => Just(LEFT),
    ]
}

/// What waiting may bring.
fn natural(wait: Wait, leaving: Option<Leaving>) -> Vec<Event> {
    let mut events = match wait {
        Wait::Request => Vec::new(),
        Wait::Start => vec![Event::Ready, Event::StartFailed],
        Wait::Down => vec![CRASH, Event::Down { normal: true }],
        Wait::StartOrDown => vec![
            Event::Ready,
            Event::StartFailed,
            CRASH,
            Event::Down { normal: true },
        ],
        Wait::ResourcesEnd => vec![Event::ResourcesEnded],
        Wait::WorkerEnd => vec![Event::WorkerEnded],
        Wait::Until(_) => vec![Event::PauseOver],
    };
    events.extend(leaving.map(|leaving| match leaving {
        Leaving::Draining { .. } => DRAINED,
        Leaving::EndingResources => LEFT_RESOURCES,
        Leaving::EndingWorker => LEFT,
    }));
    events
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Natural events, with odd ones strewn in that the rules must take or refuse without harm.
    #[test]
    fn no_history_breaks_the_rules(
        steps in proptest::collection::vec(
            (any::<prop::sample::Index>(), proptest::option::weighted(0.3, event()), 0..10_000_u64), 1..150),
    ) {
        let mut state = State::new(rules(), 3);
        let mut world = World::default();
        let mut now = Instant::now();
        let begin = [(None, Some(Event::Begin), 0)];
        let steps = steps.into_iter().map(|(at, odd, ms)| (Some(at), odd, ms));
        for (at, odd, ms) in begin.into_iter().chain(steps) {
            now += Duration::from_millis(ms);
            let natural = natural(state.waits_for(), state.leaving());
            let chosen = at.filter(|_| !natural.is_empty()).map(|at| *at.get(&natural));
            let Some(event) = odd.or(chosen) else { continue };
            // The rules cannot know that a wait brought something it cannot bring: that is the loop's part.
            let possible = match event {
                Event::StartCancelled => matches!(state.phase(), Phase::Cancelling(_)),
                Event::Begin | Event::Terminate | Event::Replace { .. } => true,
                other => natural.contains(&other),
            };
            let before = (state.phase(), state.leaving());
            match state.on(event, now) {
                Ok(effects) => {
                    prop_assert!(possible, "{event:?} was taken in {before:?}");
                    world.happens(event);
                    effects.into_iter().for_each(|effect| world.perform(effect));
                }
                Err(_) => {
                    prop_assert!(!possible || event == Event::Begin, "{event:?} was refused in {before:?}");
                    prop_assert_eq!((state.phase(), state.leaving()), before);
                }
            }
            world.check(state.waits_for(), state.leaving());
            prop_assert_eq!(world.finished, state.phase() == Phase::Ended);
        }
        // From anywhere the end is a few events away, and none of them is a pause or a call's end.
        let effects = state.on(Event::Terminate, now).unwrap();
        effects.into_iter().for_each(|effect| world.perform(effect));
        prop_assert!(!world.waiting);
        for _ in 0..6 {
            let wait = state.waits_for();
            let idle = matches!(wait, Wait::Until(_) | Wait::Down | Wait::StartOrDown);
            prop_assert!(!idle, "{wait:?} after terminate");
            let drains = matches!(state.leaving(), Some(Leaving::Draining { .. }));
            prop_assert!(!drains, "it drains after terminate");
            let Some(&event) = natural(wait, state.leaving()).first() else { break };
            world.happens(event);
            let effects = state.on(event, now).unwrap();
            effects.into_iter().for_each(|effect| world.perform(effect));
        }
        prop_assert!(world.finished);
    }
}
