//! The course of a worker that was replaced.

use super::{Departure, Effect, Effects, Event, Leaving, Phase, State};

impl State {
    pub(super) fn departs(&mut self, departure: Departure) -> Effects {
        match (self.leaving, departure) {
            (Some(Leaving::Draining { .. }), Departure::Drained) => {
                self.leaving = Some(Leaving::EndingResources);
                Ok(vec![Effect::TellLeft, Effect::EndLeavingResources])
            }
            (Some(Leaving::EndingResources), Departure::ResourcesEnded) => {
                self.leaving = Some(Leaving::EndingWorker);
                Ok(Vec::new())
            }
            (Some(Leaving::EndingWorker), Departure::WorkerEnded) => {
                self.leaving = None;
                Ok(match self.phase {
                    Phase::Finishing(exit) => self.finish(exit),
                    Phase::New
                    | Phase::Starting
                    | Phase::Serving { .. }
                    | Phase::Replacing { .. }
                    | Phase::EndingResources(_)
                    | Phase::EndingWorker(_)
                    | Phase::Pausing { .. }
                    | Phase::Idle
                    | Phase::Cancelling(_)
                    | Phase::Ended => Vec::new(),
                })
            }
            (None, Departure::Drained | Departure::ResourcesEnded | Departure::WorkerEnded)
            | (Some(Leaving::Draining { .. }), Departure::ResourcesEnded | Departure::WorkerEnded)
            | (Some(Leaving::EndingResources), Departure::Drained | Departure::WorkerEnded)
            | (Some(Leaving::EndingWorker), Departure::Drained | Departure::ResourcesEnded) => {
                self.illegal(Event::Leaving(departure))
            }
        }
    }
}
