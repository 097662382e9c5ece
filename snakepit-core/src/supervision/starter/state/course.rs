//! The course of the slot's worker: started, serving, ended, and what follows.

use tokio::time::Instant;

use super::{AfterEnd, Answer, Effect, Effects, Event, Leaving, Next, Phase, State};
use crate::clock::after;

impl State {
    pub(super) fn begin(&mut self) -> Effects {
        match self.phase {
            Phase::New => Ok(self.start()),
            Phase::Starting
            | Phase::Serving { .. }
            | Phase::Replacing { .. }
            | Phase::EndingResources(_)
            | Phase::EndingWorker(_)
            | Phase::Pausing { .. }
            | Phase::Idle
            | Phase::Cancelling(_)
            | Phase::Finishing(_)
            | Phase::Ended => self.illegal(Event::Begin),
        }
    }

    pub(super) fn ready(&mut self, now: Instant) -> Effects {
        match self.phase {
            Phase::Starting => {
                self.phase = Phase::Serving { since: now };
                let mut effects = vec![Effect::Admit, Effect::TellReady, Effect::StartResources];
                effects.extend(self.answer(Answer::Ready));
                Ok(effects)
            }
            Phase::Replacing { since } => {
                self.phase = Phase::Serving { since };
                self.leaving = Some(Leaving::Draining {
                    until: self.drain.map(|drain| after(now, drain)),
                });
                let mut effects = vec![
                    Effect::Retire,
                    Effect::Admit,
                    Effect::TellReady,
                    Effect::StartResources,
                ];
                effects.extend(self.answer(Answer::Ready));
                Ok(effects)
            }
            // It became ready before it heard of the cancel. It was never told to anybody.
            Phase::Cancelling(after) => {
                self.phase = Phase::EndingWorker(after);
                Ok(vec![Effect::Admit])
            }
            Phase::New
            | Phase::Serving { .. }
            | Phase::EndingResources(_)
            | Phase::EndingWorker(_)
            | Phase::Pausing { .. }
            | Phase::Idle
            | Phase::Finishing(_)
            | Phase::Ended => self.illegal(Event::Ready),
        }
    }

    pub(super) fn start_failed(&mut self, now: Instant) -> Effects {
        match self.phase {
            Phase::Starting => {
                let mut effects = vec![Effect::TellStartFailed];
                effects.extend(self.answer(Answer::Failed));
                effects.extend(self.restart(now));
                Ok(effects)
            }
            // Nothing but the request is lost, and nothing is restarted.
            Phase::Replacing { since } => {
                self.phase = Phase::Serving { since };
                let mut effects = vec![Effect::TellReplacementFailed];
                effects.extend(self.answer(Answer::Failed));
                Ok(effects)
            }
            Phase::Cancelling(AfterEnd(next)) => {
                let mut effects = vec![Effect::TellStartFailed];
                effects.extend(self.go_on(next, now));
                Ok(effects)
            }
            Phase::New
            | Phase::Serving { .. }
            | Phase::EndingResources(_)
            | Phase::EndingWorker(_)
            | Phase::Pausing { .. }
            | Phase::Idle
            | Phase::Finishing(_)
            | Phase::Ended => self.illegal(Event::StartFailed),
        }
    }

    pub(super) fn start_cancelled(&mut self, now: Instant) -> Effects {
        match self.phase {
            Phase::Cancelling(AfterEnd(next)) => Ok(self.go_on(next, now)),
            Phase::New
            | Phase::Starting
            | Phase::Serving { .. }
            | Phase::Replacing { .. }
            | Phase::EndingResources(_)
            | Phase::EndingWorker(_)
            | Phase::Pausing { .. }
            | Phase::Idle
            | Phase::Finishing(_)
            | Phase::Ended => self.illegal(Event::StartCancelled),
        }
    }

    pub(super) fn down(&mut self, normal: bool, now: Instant) -> Effects {
        match self.phase {
            Phase::Serving { since } => {
                self.pardon(now.saturating_duration_since(since));
                let next = if self.rules.restart.restarts(normal) {
                    Next::Restart
                } else {
                    Next::Rest
                };
                self.phase = Phase::EndingResources(AfterEnd(next));
                Ok(vec![Effect::TellDown, Effect::EndResources])
            }
            // Its successor is on the way already: that start is the slot's, and no restart.
            Phase::Replacing { since } => {
                self.pardon(now.saturating_duration_since(since));
                self.phase = Phase::Starting;
                self.leaving = Some(Leaving::EndingResources);
                Ok(vec![
                    Effect::TellDown,
                    Effect::Retire,
                    Effect::EndLeavingResources,
                ])
            }
            Phase::New
            | Phase::Starting
            | Phase::EndingResources(_)
            | Phase::EndingWorker(_)
            | Phase::Pausing { .. }
            | Phase::Idle
            | Phase::Cancelling(_)
            | Phase::Finishing(_)
            | Phase::Ended => self.illegal(Event::Down { normal }),
        }
    }

    pub(super) fn resources_ended(&mut self) -> Effects {
        match self.phase {
            Phase::EndingResources(after) => {
                self.phase = Phase::EndingWorker(after);
                Ok(Vec::new())
            }
            Phase::New
            | Phase::Starting
            | Phase::Serving { .. }
            | Phase::Replacing { .. }
            | Phase::EndingWorker(_)
            | Phase::Pausing { .. }
            | Phase::Idle
            | Phase::Cancelling(_)
            | Phase::Finishing(_)
            | Phase::Ended => self.illegal(Event::ResourcesEnded),
        }
    }

    pub(super) fn worker_ended(&mut self, now: Instant) -> Effects {
        match self.phase {
            Phase::EndingWorker(AfterEnd(next)) => Ok(self.go_on(next, now)),
            Phase::New
            | Phase::Starting
            | Phase::Serving { .. }
            | Phase::Replacing { .. }
            | Phase::EndingResources(_)
            | Phase::Pausing { .. }
            | Phase::Idle
            | Phase::Cancelling(_)
            | Phase::Finishing(_)
            | Phase::Ended => self.illegal(Event::WorkerEnded),
        }
    }

    pub(super) fn pause_over(&mut self) -> Effects {
        match self.phase {
            Phase::Pausing { .. } => Ok(self.start()),
            Phase::New
            | Phase::Starting
            | Phase::Serving { .. }
            | Phase::Replacing { .. }
            | Phase::EndingResources(_)
            | Phase::EndingWorker(_)
            | Phase::Idle
            | Phase::Cancelling(_)
            | Phase::Finishing(_)
            | Phase::Ended => self.illegal(Event::PauseOver),
        }
    }
}
