//! The rules of a starter: what follows from what, without I/O and without a clock.
//!
//! A slot has one worker, or is about to. Beside it there may be the worker that was replaced last, which has a course of its
//! own: it finishes its calls, then its resources end, then it does. Only while there is none may the next one be
//! started beside a worker that serves, so a slot never has three.

mod course;
mod event;
mod leaving;
mod phase;
mod requests;

use std::time::Duration;

use tokio::time::Instant;

pub(super) use event::{Answer, Departure, Effect, Event, Exit, Refusal, Wait};
use phase::{AfterEnd, Next};
pub(super) use phase::{Leaving, Phase};

use crate::{
    clock::after,
    supervision::{Backoff, RestartIntensity, RestartPolicy, backoff::Jitter, intensity::RestartHistory},
};

/// What a starter is told to do about ended workers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) restart: RestartPolicy,
    pub(super) intensity: RestartIntensity,
    pub(super) backoff: Backoff,
}

/// An event that cannot happen in this phase: a defect of the loop around the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} cannot happen in {phase:?}, leaving: {leaving:?}")]
pub(super) struct IllegalEvent {
    phase: Phase,
    leaving: Option<Leaving>,
    event: Event,
}

type Effects = Result<Vec<Effect>, IllegalEvent>;

/// Where a starter stands.
#[derive(Debug)]
pub(super) struct State {
    rules: Rules,
    phase: Phase,
    /// The worker that was replaced, until nothing of it is left.
    leaving: Option<Leaving>,
    /// Somebody waits for the worker that was asked for.
    asked: bool,
    /// How long the worker that it replaces may go on with its calls.
    drain: Option<Duration>,
    history: RestartHistory,
    /// Restarts in the present series.
    series: u32,
    restarts: u64,
    jitter: Jitter,
}

impl State {
    pub(super) fn new(rules: Rules, seed: u64) -> Self {
        Self {
            rules,
            phase: Phase::New,
            leaving: None,
            asked: false,
            drain: None,
            history: RestartHistory::default(),
            series: 0,
            restarts: 0,
            jitter: Jitter::new(seed),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// The worker that was replaced: what the starter waits for beside everything else.
    pub(super) fn leaving(&self) -> Option<Leaving> {
        self.leaving
    }

    /// How often a worker was started again.
    pub(super) fn restarts(&self) -> u64 {
        self.restarts
    }

    pub(super) fn waits_for(&self) -> Wait {
        match self.phase {
            Phase::New | Phase::Idle | Phase::Finishing(_) | Phase::Ended => Wait::Request,
            Phase::Starting | Phase::Cancelling(_) => Wait::Start,
            Phase::Serving { .. } => Wait::Down,
            Phase::Replacing { .. } => Wait::StartOrDown,
            Phase::EndingResources(_) => Wait::ResourcesEnd,
            Phase::EndingWorker(_) => Wait::WorkerEnd,
            Phase::Pausing { until } => Wait::Until(until),
        }
    }

    /// Takes an event. An event that is refused changes nothing.
    pub(super) fn on(&mut self, event: Event, now: Instant) -> Effects {
        match event {
            Event::Begin => self.begin(),
            Event::Ready => self.ready(now),
            Event::StartFailed => self.start_failed(now),
            Event::StartCancelled => self.start_cancelled(now),
            Event::Down { normal } => self.down(normal, now),
            Event::ResourcesEnded => self.resources_ended(),
            Event::WorkerEnded => self.worker_ended(now),
            Event::PauseOver => self.pause_over(),
            Event::Terminate => Ok(self.terminate()),
            Event::Replace { drain } => Ok(self.replace(drain)),
            Event::Leaving(departure) => self.departs(departure),
        }
    }

    fn illegal(&self, event: Event) -> Effects {
        Err(IllegalEvent {
            phase: self.phase,
            leaving: self.leaving,
            event,
        })
    }

    fn start(&mut self) -> Vec<Effect> {
        self.phase = Phase::Starting;
        vec![Effect::Start]
    }

    fn start_replacement(&mut self) -> Vec<Effect> {
        self.phase = Phase::Starting;
        vec![Effect::StartReplacement]
    }

    fn finish(&mut self, exit: Exit) -> Vec<Effect> {
        if self.leaving.is_some() {
            self.phase = Phase::Finishing(exit);
            return Vec::new();
        }
        self.phase = Phase::Ended;
        vec![Effect::Finish(exit)]
    }

    /// The answer to whoever waits for another worker, once.
    fn answer(&mut self, answer: Answer) -> Option<Effect> {
        std::mem::take(&mut self.asked).then_some(Effect::Answer(answer))
    }

    /// The slot is empty, and this was to come then.
    fn go_on(&mut self, next: Next, now: Instant) -> Vec<Effect> {
        match next {
            Next::Restart => self.restart(now),
            Next::Rest => {
                self.phase = Phase::Idle;
                Vec::new()
            }
            Next::Replace => self.start_replacement(),
            Next::Terminate => self.finish(Exit::Terminated),
        }
    }

    /// A slot that has served for long enough ends the series of restarts.
    fn pardon(&mut self, served_for: Duration) {
        if served_for >= self.rules.intensity.period {
            self.series = 0;
        }
    }

    /// The slot is empty and wants a worker: at once, after a pause, or not any more.
    fn restart(&mut self, now: Instant) -> Vec<Effect> {
        // A start that failed counts like a crash, also the very first; with a policy that never restarts
        // there is no worker to come.
        if !self.rules.restart.restarts(false) {
            self.phase = Phase::Idle;
            return Vec::new();
        }
        if !self.history.add(now, self.rules.intensity) {
            let mut effects = vec![Effect::TellGaveUp];
            effects.extend(self.finish(Exit::GaveUp));
            return effects;
        }
        self.series = self.series.saturating_add(1);
        self.restarts += 1;
        let pause = self.rules.backoff.pause(self.series, self.jitter.next());
        if pause.is_zero() {
            return self.start();
        }
        self.phase = Phase::Pausing {
            until: after(now, pause),
        };
        vec![Effect::TellPause {
            restart: self.series,
            pause,
        }]
    }
}

#[cfg(test)]
mod tests;
