//! What a starter does when its rules say so.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{
    super::{
        Departure, ReplaceError, Replaced, StarterExit,
        keeper::Keeper,
        launch::Launch,
        leaving::Leaving,
        shared::Request,
        state::{Answer, Effect, Exit, Refusal},
    },
    Actor, Detail,
};
use crate::{
    event::EventKind,
    process::EndReport,
    supervision::SlotEvent,
    worker::{Down, DownReason, Worker, WorkerFactory},
};

impl Actor {
    pub(super) fn perform(&mut self, effect: Effect, detail: &Detail) {
        let slot = self.shared.slot;
        match effect {
            Effect::Start => self.launch(Arc::clone(&self.workers)),
            Effect::StartReplacement => {
                let asked = self
                    .request
                    .as_ref()
                    .and_then(|request| request.replacement.workers.clone());
                self.launch(asked.unwrap_or_else(|| Arc::clone(&self.workers)));
            }
            Effect::CancelStart => {
                if let Some(launch) = &mut self.launch {
                    launch.cancel();
                }
            }
            Effect::Admit => {
                self.worker = self.arrived.take();
                self.shared.set_worker(self.worker.clone());
            }
            Effect::Retire => self.retire(),
            Effect::TellReady => {
                if let (Some(worker), Detail::Ready(took)) = (&self.worker, detail) {
                    self.config.events.emit(EventKind::WorkerReady {
                        slot,
                        worker: worker.id(),
                        pid: worker.pid(),
                        took: *took,
                    });
                    if let Some(leaving) = &self.leaving
                        && self.request.is_some()
                    {
                        self.config.events.emit(EventKind::WorkerReplaced {
                            slot,
                            worker: leaving.worker.id(),
                            by: worker.id(),
                        });
                    }
                    let worker = Arc::clone(worker);
                    self.config.observer.slot_event(SlotEvent::Ready { slot, worker });
                }
            }
            Effect::TellStartFailed => {
                if let Detail::Failed(error) = detail {
                    let error = Arc::clone(error);
                    self.config.events.emit(EventKind::WorkerStartFailed {
                        slot,
                        error: Arc::clone(&error),
                    });
                    self.config
                        .observer
                        .slot_event(SlotEvent::StartFailed { slot, error });
                }
            }
            Effect::TellReplacementFailed => {
                if let Detail::Failed(error) = detail {
                    let error = Arc::clone(error);
                    self.config.events.emit(EventKind::ReplacementFailed {
                        slot,
                        error: Arc::clone(&error),
                    });
                    self.config
                        .observer
                        .slot_event(SlotEvent::ReplacementFailed { slot, error });
                }
            }
            Effect::TellDown => {
                if let Detail::Down(down) = detail {
                    self.tell_down(down.clone());
                }
            }
            Effect::TellRequested => self.tell_down(requested()),
            Effect::TellLeft => {
                let down = match detail {
                    Detail::Down(down) => down.clone(),
                    Detail::None | Detail::Ready(_) | Detail::Failed(_) => requested(),
                };
                if let Some(leaving) = &self.leaving {
                    self.config.events.emit(EventKind::WorkerDown {
                        slot,
                        worker: leaving.worker.id(),
                        down,
                    });
                }
            }
            Effect::StartResources => {
                let started = self
                    .worker
                    .as_ref()
                    .and_then(|worker| Keeper::start(slot, &self.config, worker));
                if let Some((keeper, board)) = started {
                    self.keeper = Some(keeper);
                    self.shared.set_resources(Some(board));
                }
            }
            Effect::EndResources => {
                if let Some(keeper) = &mut self.keeper {
                    keeper.stop();
                }
            }
            Effect::EndLeavingResources => {
                if let Some(leaving) = &mut self.leaving {
                    leaving.end_resources();
                }
            }
            Effect::TellPause { restart, pause } => self.config.events.emit(EventKind::RestartDelayed {
                slot,
                restart,
                delay: pause,
            }),
            Effect::TellGaveUp => self.config.events.emit(EventKind::StarterGaveUp {
                slot,
                restarts: self.config.rules.intensity.restarts,
                period: self.config.rules.intensity.period,
            }),
            Effect::Accept => self.request = self.incoming.take(),
            Effect::Refuse(refusal) => {
                let error = match refusal {
                    Refusal::UnderWay => ReplaceError::UnderWay(slot),
                    Refusal::Draining => ReplaceError::Draining(slot),
                    Refusal::Ending => ReplaceError::Ending(slot),
                };
                answer(self.incoming.take(), Err(error));
            }
            Effect::Answer(told) => self.answer(told, detail),
            Effect::Finish(Exit::Terminated) => self.shared.finish(StarterExit::Terminated),
            Effect::Finish(Exit::GaveUp) => self.shared.finish(StarterExit::GaveUp {
                intensity: self.config.rules.intensity,
                cause: self.shared.last_failure().unwrap_or_else(|| "".into()),
            }),
        }
    }

    fn launch(&mut self, workers: Arc<dyn WorkerFactory>) {
        self.launch = Some(Launch::begin(self.shared.slot, &self.config, workers));
    }

    /// The worker and its resources are on their way out; their place is free.
    fn retire(&mut self) {
        let Some(worker) = self.worker.take() else {
            return;
        };
        let (gone, departure) = oneshot::channel();
        self.before = Some((worker.id(), Departure(Some(departure))));
        self.shared.set_leaving(Some(Arc::clone(&worker)));
        self.shared.set_worker(None);
        self.shared.set_resources(None);
        let planned = self.request.as_ref().map(|request| request.replacement.shutdown);
        self.leaving = Some(Leaving {
            worker,
            keeper: self.keeper.take(),
            shutdown: planned.unwrap_or_default(),
            gone,
        });
    }

    fn answer(&mut self, told: Answer, detail: &Detail) {
        let slot = self.shared.slot;
        let request = self.request.take();
        let before = self.before.take();
        let told = match (told, detail, &self.worker) {
            (Answer::Ready, Detail::Ready(took), Some(worker)) => {
                if let Some(workers) = request
                    .as_ref()
                    .and_then(|request| request.replacement.workers.clone())
                {
                    self.workers = workers;
                }
                let (before, departure) = before.map_or_else(Default::default, |(id, gone)| (Some(id), gone));
                Ok(Replaced {
                    worker: worker.id(),
                    before,
                    took: *took,
                    departure,
                })
            }
            (Answer::Failed, Detail::Failed(error), _) => Err(ReplaceError::Failed {
                slot,
                error: Arc::clone(error),
            }),
            (Answer::Ready | Answer::Failed | Answer::Ending, ..) => Err(ReplaceError::Ending(slot)),
        };
        answer(request, told);
    }

    /// The observer comes first: it must not lend the worker any more.
    pub(super) fn tell_down(&self, down: Down) {
        let Some(worker) = self.worker.as_ref().map(|worker| worker.id()) else {
            return;
        };
        let slot = self.shared.slot;
        self.config.observer.slot_event(SlotEvent::Down {
            slot,
            worker,
            down: down.clone(),
        });
        self.config
            .events
            .emit(EventKind::WorkerDown { slot, worker, down });
    }

    pub(super) fn emit_ended(&self, worker: &Arc<dyn Worker>, report: EndReport) {
        self.config.events.emit(EventKind::WorkerEnded {
            slot: self.shared.slot,
            worker: worker.id(),
            report,
        });
    }
}

fn answer(request: Option<Request>, told: Result<Replaced, ReplaceError>) {
    if let Some(request) = request {
        // An error only says that the caller has left; what it asked for goes on.
        let _ = request.reply.send(told);
    }
}

pub(super) fn requested() -> Down {
    Down {
        reason: DownReason::Requested,
        outcome: None,
        stderr_tail: String::new(),
    }
}
