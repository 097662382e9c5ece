//! What the host asks for, in each phase.

use std::time::Duration;

use super::{AfterEnd, Answer, Effect, Exit, Leaving, Next, Phase, Refusal, State};

impl State {
    pub(super) fn terminate(&mut self) -> Vec<Effect> {
        const LAST: AfterEnd = AfterEnd(Next::Terminate);
        let mut effects: Vec<_> = self.answer(Answer::Ending).into_iter().collect();
        // What is to end anyway is not waited for.
        if let Some(Leaving::Draining { .. }) = self.leaving {
            self.leaving = Some(Leaving::EndingResources);
            effects.extend([Effect::TellLeft, Effect::EndLeavingResources]);
        }
        match self.phase {
            Phase::New | Phase::Pausing { .. } | Phase::Idle => effects.extend(self.finish(Exit::Terminated)),
            Phase::Starting => {
                self.phase = Phase::Cancelling(LAST);
                effects.push(Effect::CancelStart);
            }
            Phase::Serving { .. } => {
                self.phase = Phase::EndingResources(LAST);
                effects.extend([Effect::TellRequested, Effect::EndResources]);
            }
            Phase::Replacing { .. } => {
                self.phase = Phase::Cancelling(LAST);
                self.leaving = Some(Leaving::EndingResources);
                effects.extend([
                    Effect::TellRequested,
                    Effect::Retire,
                    Effect::EndLeavingResources,
                    Effect::CancelStart,
                ]);
            }
            Phase::EndingResources(_) => self.phase = Phase::EndingResources(LAST),
            Phase::EndingWorker(_) => self.phase = Phase::EndingWorker(LAST),
            Phase::Cancelling(_) => self.phase = Phase::Cancelling(LAST),
            Phase::Finishing(_) => self.phase = Phase::Finishing(Exit::Terminated),
            Phase::Ended => {}
        }
        effects
    }

    /// Another worker is asked for. While the worker that was replaced last is there, that would be a third one.
    pub(super) fn replace(&mut self, drain: Option<Duration>) -> Vec<Effect> {
        const NEXT: AfterEnd = AfterEnd(Next::Replace);
        let begun = match self.phase {
            Phase::Finishing(_) | Phase::Ended => return vec![Effect::Refuse(Refusal::Ending)],
            Phase::EndingResources(after) | Phase::EndingWorker(after) | Phase::Cancelling(after)
                if after.is_final() =>
            {
                return vec![Effect::Refuse(Refusal::Ending)];
            }
            // The first start is about to begin, or what was asked for before.
            Phase::New | Phase::Replacing { .. } | Phase::Cancelling(_) => {
                return vec![Effect::Refuse(Refusal::UnderWay)];
            }
            Phase::Starting
            | Phase::Serving { .. }
            | Phase::EndingResources(_)
            | Phase::EndingWorker(_)
            | Phase::Pausing { .. }
            | Phase::Idle
                if self.asked =>
            {
                return vec![Effect::Refuse(Refusal::UnderWay)];
            }
            Phase::Starting
            | Phase::Serving { .. }
            | Phase::EndingResources(_)
            | Phase::EndingWorker(_)
            | Phase::Pausing { .. }
            | Phase::Idle
                if self.leaving.is_some() =>
            {
                return vec![Effect::Refuse(Refusal::Draining)];
            }
            Phase::Serving { since } => {
                self.phase = Phase::Replacing { since };
                vec![Effect::StartReplacement]
            }
            // The start under way began before it was asked for, perhaps with what is to be replaced.
            Phase::Starting => {
                self.phase = Phase::Cancelling(NEXT);
                vec![Effect::CancelStart]
            }
            Phase::Pausing { .. } | Phase::Idle => self.start_replacement(),
            Phase::EndingResources(_) => {
                self.phase = Phase::EndingResources(NEXT);
                Vec::new()
            }
            Phase::EndingWorker(_) => {
                self.phase = Phase::EndingWorker(NEXT);
                Vec::new()
            }
        };
        (self.asked, self.drain) = (true, drain);
        let mut effects = vec![Effect::Accept];
        effects.extend(begun);
        effects
    }
}
