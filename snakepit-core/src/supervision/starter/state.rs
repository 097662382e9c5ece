//! The rules of a starter: what follows from what, without I/O and without a clock.

mod event;

use std::time::Duration;

use tokio::time::Instant;

pub(super) use event::{Effect, Event, Exit, Wait};

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

/// What follows once the worker has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Restart,
    Rest,
    Terminate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    New,
    Starting,
    Serving { since: Instant },
    EndingResources(AfterEnd),
    EndingWorker(AfterEnd),
    Pausing { until: Instant },
    Idle,
    Cancelling,
    Ended,
}

/// Private to the rules; public in name only because [`Phase`] carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AfterEnd(Next);

impl AfterEnd {
    /// Whether the starter itself ends afterwards.
    pub(super) fn is_final(self) -> bool {
        self.0 == Next::Terminate
    }
}

/// An event that cannot happen in this phase: a defect of the loop around the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} cannot happen in {phase:?}")]
pub(super) struct IllegalEvent {
    phase: Phase,
    event: Event,
}

/// Where a starter stands.
#[derive(Debug)]
pub(super) struct State {
    rules: Rules,
    phase: Phase,
    history: RestartHistory,
    /// Restarts in the present series.
    series: u32,
    /// The last pause of the series.
    last_pause: Duration,
    restarts: u64,
    jitter: Jitter,
}

impl State {
    pub(super) fn new(rules: Rules, seed: u64) -> Self {
        Self {
            rules,
            phase: Phase::New,
            history: RestartHistory::default(),
            series: 0,
            last_pause: Duration::ZERO,
            restarts: 0,
            jitter: Jitter::new(seed),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// How often a worker was started again.
    pub(super) fn restarts(&self) -> u64 {
        self.restarts
    }

    pub(super) fn waits_for(&self) -> Wait {
        match self.phase {
            Phase::New | Phase::Idle | Phase::Ended => Wait::Request,
            Phase::Starting | Phase::Cancelling => Wait::Start,
            Phase::Serving { .. } => Wait::Down,
            Phase::EndingResources(_) => Wait::ResourcesEnd,
            Phase::EndingWorker(_) => Wait::WorkerEnd,
            Phase::Pausing { until } => Wait::Until(until),
        }
    }

    /// Takes an event. An event that is refused changes nothing.
    pub(super) fn on(&mut self, event: Event, now: Instant) -> Result<Vec<Effect>, IllegalEvent> {
        let phase = self.phase;
        match (phase, event) {
            (Phase::New, Event::Begin) | (Phase::Pausing { .. }, Event::PauseOver) => Ok(self.start()),

            (Phase::Starting, Event::Ready) => {
                self.phase = Phase::Serving { since: now };
                Ok(vec![Effect::TellReady, Effect::StartResources])
            }
            (Phase::Starting, Event::StartFailed) => {
                let mut effects = vec![Effect::TellStartFailed];
                effects.extend(self.restart(now));
                Ok(effects)
            }

            (Phase::Serving { since }, Event::Down { normal }) => {
                self.pardon(now.saturating_duration_since(since));
                let next = if self.rules.restart.restarts(normal) {
                    Next::Restart
                } else {
                    Next::Rest
                };
                self.phase = Phase::EndingResources(AfterEnd(next));
                Ok(vec![Effect::TellDown, Effect::EndResources])
            }
            (Phase::EndingResources(after), Event::ResourcesEnded) => {
                self.phase = Phase::EndingWorker(after);
                Ok(Vec::new())
            }
            (Phase::EndingWorker(AfterEnd(next)), Event::WorkerEnded) => Ok(match next {
                Next::Restart => self.restart(now),
                Next::Rest => {
                    self.phase = Phase::Idle;
                    Vec::new()
                }
                Next::Terminate => self.finish(Exit::Terminated),
            }),

            (Phase::New | Phase::Pausing { .. } | Phase::Idle, Event::Terminate) => {
                Ok(self.finish(Exit::Terminated))
            }
            (Phase::Starting, Event::Terminate) => {
                self.phase = Phase::Cancelling;
                Ok(vec![Effect::CancelStart])
            }
            (Phase::Serving { .. }, Event::Terminate) => {
                self.phase = Phase::EndingResources(AfterEnd(Next::Terminate));
                Ok(vec![Effect::TellRequested, Effect::EndResources])
            }
            (Phase::EndingResources(_), Event::Terminate) => {
                self.phase = Phase::EndingResources(AfterEnd(Next::Terminate));
                Ok(Vec::new())
            }
            (Phase::EndingWorker(_), Event::Terminate) => {
                self.phase = Phase::EndingWorker(AfterEnd(Next::Terminate));
                Ok(Vec::new())
            }
            (Phase::Cancelling | Phase::Ended, Event::Terminate) => Ok(Vec::new()),

            // The worker became ready before it heard of the cancel. It was never told to anybody.
            (Phase::Cancelling, Event::Ready) => {
                self.phase = Phase::EndingWorker(AfterEnd(Next::Terminate));
                Ok(Vec::new())
            }
            (Phase::Cancelling, Event::StartFailed) => {
                let mut effects = vec![Effect::TellStartFailed];
                effects.extend(self.finish(Exit::Terminated));
                Ok(effects)
            }
            (Phase::Cancelling, Event::StartCancelled) => Ok(self.finish(Exit::Terminated)),

            (
                Phase::New,
                Event::Ready
                | Event::StartFailed
                | Event::StartCancelled
                | Event::Down { .. }
                | Event::ResourcesEnded
                | Event::WorkerEnded
                | Event::PauseOver,
            )
            | (
                Phase::Starting,
                Event::Begin
                | Event::StartCancelled
                | Event::Down { .. }
                | Event::ResourcesEnded
                | Event::WorkerEnded
                | Event::PauseOver,
            )
            | (
                Phase::Serving { .. },
                Event::Begin
                | Event::Ready
                | Event::StartFailed
                | Event::StartCancelled
                | Event::ResourcesEnded
                | Event::WorkerEnded
                | Event::PauseOver,
            )
            | (
                Phase::EndingResources(_),
                Event::Begin
                | Event::Ready
                | Event::StartFailed
                | Event::StartCancelled
                | Event::Down { .. }
                | Event::WorkerEnded
                | Event::PauseOver,
            )
            | (
                Phase::EndingWorker(_),
                Event::Begin
                | Event::Ready
                | Event::StartFailed
                | Event::StartCancelled
                | Event::Down { .. }
                | Event::ResourcesEnded
                | Event::PauseOver,
            )
            | (
                Phase::Pausing { .. },
                Event::Begin
                | Event::Ready
                | Event::StartFailed
                | Event::StartCancelled
                | Event::Down { .. }
                | Event::ResourcesEnded
                | Event::WorkerEnded,
            )
            | (
                Phase::Cancelling,
                Event::Begin
                | Event::Down { .. }
                | Event::ResourcesEnded
                | Event::WorkerEnded
                | Event::PauseOver,
            )
            | (
                Phase::Idle | Phase::Ended,
                Event::Begin
                | Event::Ready
                | Event::StartFailed
                | Event::StartCancelled
                | Event::Down { .. }
                | Event::ResourcesEnded
                | Event::WorkerEnded
                | Event::PauseOver,
            ) => Err(IllegalEvent { phase, event }),
        }
    }

    fn start(&mut self) -> Vec<Effect> {
        self.phase = Phase::Starting;
        vec![Effect::Start]
    }

    fn finish(&mut self, exit: Exit) -> Vec<Effect> {
        self.phase = Phase::Ended;
        vec![Effect::Finish(exit)]
    }

    /// A worker that was ready for long enough ends the series of restarts.
    fn pardon(&mut self, ready_for: Duration) {
        if ready_for >= self.rules.intensity.period.max(self.last_pause) {
            self.series = 0;
            self.last_pause = Duration::ZERO;
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
            self.phase = Phase::Ended;
            return vec![Effect::TellGaveUp, Effect::Finish(Exit::GaveUp)];
        }
        self.series = self.series.saturating_add(1);
        self.restarts += 1;
        let pause = self.rules.backoff.pause(self.series, self.jitter.next());
        self.last_pause = pause;
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
