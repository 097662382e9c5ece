//! The loop around a starter's rules: it performs what they say and tells them what happens.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use tokio::{runtime::Handle, sync::oneshot, time::Instant};

use super::{
    Config, Departure, ReplaceError, Replaced, StarterExit,
    keeper::Keeper,
    launch::{Launch, Started},
    leaving::{Leaving, Left},
    shared::{Request, Shared, Shown},
    state::{self, Answer, Effect, Event, Exit, Phase, Refusal, State, Wait},
    wreck::{Occupant, Wreck},
};
use crate::{
    event::EventKind,
    id::WorkerId,
    process::EndReport,
    rpc::error_chain,
    supervision::SlotEvent,
    worker::{Down, DownReason, StartError, Worker, WorkerFactory},
};

/// A starter's task. When it is dropped before its end is reported (a panic, a kill, a runtime that shuts
/// down), whatever it owns is ended in the background, and only then is its end reported.
pub(super) struct Actor {
    shared: Arc<Shared>,
    config: Arc<Config>,
    runtime: Handle,
    state: State,
    /// Makes the slot's workers: the last ones that replaced others, and were ready.
    workers: Arc<dyn WorkerFactory>,
    launch: Option<Launch>,
    /// Started, and not the slot's yet.
    arrived: Option<Arc<dyn Worker>>,
    worker: Option<Arc<dyn Worker>>,
    keeper: Option<Keeper>,
    leaving: Option<Leaving>,
    /// A request for another worker that the rules have not decided on.
    incoming: Option<Request>,
    /// The one that they have taken up.
    request: Option<Request>,
    /// The worker that was replaced for it.
    before: Option<(WorkerId, Departure)>,
}

/// What the loop learned, before it becomes an event for the rules.
enum Happened {
    Asked,
    Started(Started),
    Down(Down),
    ResourcesEnded,
    WorkerEnded(EndReport),
    PauseOver,
    Left(Left),
    /// The start's task panicked: a defect in the worker factory.
    LaunchBroke,
}

/// What an effect may need of that.
enum Detail {
    None,
    Ready(Duration),
    Failed(Arc<StartError>),
    Down(Down),
}

impl Actor {
    pub(super) fn new(shared: Arc<Shared>, config: Arc<Config>, runtime: Handle, seed: u64) -> Self {
        let state = State::new(config.rules, seed);
        Self {
            shared,
            workers: Arc::clone(&config.workers),
            config,
            runtime,
            state,
            launch: None,
            arrived: None,
            worker: None,
            keeper: None,
            leaving: None,
            incoming: None,
            request: None,
            before: None,
        }
    }

    pub(super) async fn run(mut self) {
        self.step(Event::Begin, Detail::None);
        while self.state.phase() != Phase::Ended {
            let shared = Arc::clone(&self.shared);
            let happened = tokio::select! {
                // A request comes first, so that a worker that crashes in a loop cannot hold it up.
                biased;
                () = shared.asked() => Happened::Asked,
                happened = self.wait() => happened,
            };
            if let Happened::Asked = happened {
                self.requests();
                continue;
            }
            let Some((event, detail)) = self.learn(happened) else {
                // Ends as by a kill: the drop cleans up, and the supervisor decides.
                return;
            };
            self.step(event, detail);
        }
    }

    fn requests(&mut self) {
        let (terminate, replacements) = self.shared.requests();
        if terminate {
            self.step(Event::Terminate, Detail::None);
        }
        for request in replacements {
            let drain = request.replacement.drain;
            self.incoming = Some(request);
            self.step(Event::Replace { drain }, Detail::None);
        }
    }

    /// Waits for what the rules wait for. Cancel safe: each wait can be taken up again.
    async fn wait(&mut self) -> Happened {
        let Self {
            shared,
            config,
            state,
            launch,
            worker,
            keeper,
            leaving,
            ..
        } = self;
        let left = async {
            match (state.leaving(), leaving) {
                (Some(at), Some(leaving)) => Happened::Left(leaving.wait(at, shared, config).await),
                (None, _) | (_, None) => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            happened = course(state.waits_for(), shared, config, launch, worker.as_ref(), keeper) => happened,
            happened = left => happened,
        }
    }

    fn learn(&mut self, happened: Happened) -> Option<(Event, Detail)> {
        if let Happened::Started(_) | Happened::LaunchBroke = happened {
            self.launch = None;
        }
        Some(match happened {
            Happened::Started(Started::Ready(worker, took)) => {
                self.arrived = Some(worker);
                (Event::Ready, Detail::Ready(took))
            }
            Happened::Started(Started::Failed(error)) => {
                self.shared.set_failure(error_chain(&*error).into());
                (Event::StartFailed, Detail::Failed(error))
            }
            Happened::Started(Started::Cancelled) => (Event::StartCancelled, Detail::None),
            Happened::Down(down) => {
                self.remember(&down);
                let normal = down.reason.is_normal();
                (Event::Down { normal }, Detail::Down(down))
            }
            Happened::ResourcesEnded => {
                self.keeper = None;
                self.shared.set_resources(None);
                (Event::ResourcesEnded, Detail::None)
            }
            Happened::WorkerEnded(report) => {
                if let Some(worker) = self.worker.take() {
                    self.emit_ended(&worker, report);
                }
                self.shared.set_worker(None);
                (Event::WorkerEnded, Detail::None)
            }
            Happened::PauseOver => (Event::PauseOver, Detail::None),
            Happened::Left(left) => self.learn_of_leaving(left),
            Happened::Asked | Happened::LaunchBroke => return None,
        })
    }

    fn learn_of_leaving(&mut self, left: Left) -> (Event, Detail) {
        let (departure, detail) = match left {
            Left::Drained => (state::Departure::Drained, Detail::None),
            Left::Down(down) => {
                self.remember(&down);
                if let Some(leaving) = &mut self.leaving {
                    // It is down already: as for any other, what it has left is not waited for.
                    leaving.shutdown = self.shared.end_times(self.config.grace);
                }
                (state::Departure::Drained, Detail::Down(down))
            }
            Left::ResourcesEnded => {
                if let Some(leaving) = &mut self.leaving {
                    leaving.keeper = None;
                }
                (state::Departure::ResourcesEnded, Detail::None)
            }
            Left::Ended(report) => {
                // Told before whoever waits for it learns that it is gone.
                if let Some(leaving) = &self.leaving {
                    self.emit_ended(&leaving.worker, report);
                }
                self.leaving = None;
                self.shared.set_leaving(None);
                (state::Departure::WorkerEnded, Detail::None)
            }
        };
        (Event::Leaving(departure), detail)
    }

    fn remember(&self, down: &Down) {
        if !down.reason.is_normal() {
            self.shared.set_failure(down.to_string().into());
        }
    }

    fn step(&mut self, event: Event, detail: Detail) {
        match self.state.on(event, Instant::now()) {
            Ok(effects) => {
                self.shared.show(self.shown(), self.state.restarts());
                for effect in effects {
                    self.perform(effect, &detail);
                }
            }
            // Nothing has changed, and what the rules wait for still comes.
            Err(error) => {
                tracing::error!(pool = self.config.events.pool(), slot = %self.shared.slot, %error, "starter");
            }
        }
    }

    fn shown(&self) -> Shown {
        match self.state.phase() {
            Phase::New | Phase::Starting => Shown::Starting,
            Phase::Serving { .. } => Shown::Serving,
            Phase::Replacing { .. } => Shown::Replacing,
            Phase::EndingResources(after) | Phase::EndingWorker(after) | Phase::Cancelling(after)
                if after.is_final() =>
            {
                Shown::Terminating
            }
            Phase::EndingResources(_) | Phase::EndingWorker(_) | Phase::Finishing(Exit::GaveUp) => {
                Shown::Ending
            }
            Phase::Pausing { until } => Shown::Pausing(until),
            Phase::Idle => Shown::Idle,
            // A start that is given up for the one that was asked for.
            Phase::Cancelling(_) => Shown::Starting,
            // Ended is shown as terminated only when the end is reported.
            Phase::Finishing(Exit::Terminated) | Phase::Ended => Shown::Terminating,
        }
    }

    fn perform(&mut self, effect: Effect, detail: &Detail) {
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
    fn tell_down(&self, down: Down) {
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

    fn emit_ended(&self, worker: &Arc<dyn Worker>, report: EndReport) {
        self.config.events.emit(EventKind::WorkerEnded {
            slot: self.shared.slot,
            worker: worker.id(),
            report,
        });
    }
}

/// Waits for what comes next in the course of the slot's worker.
async fn course(
    wait: Wait,
    shared: &Shared,
    config: &Config,
    launch: &mut Option<Launch>,
    worker: Option<&Arc<dyn Worker>>,
    keeper: &mut Option<Keeper>,
) -> Happened {
    match (wait, worker, launch) {
        (Wait::Start, _, Some(launch)) => started(launch).await,
        (Wait::Down, Some(worker), _) => Happened::Down(worker.down().await),
        (Wait::StartOrDown, Some(worker), Some(launch)) => tokio::select! {
            // A worker that is ready in the moment the other one dies leaves no gap.
            biased;
            happened = started(launch) => happened,
            down = worker.down() => Happened::Down(down),
        },
        (Wait::ResourcesEnd, ..) => {
            if let Some(keeper) = keeper {
                keeper.ended().await;
            }
            Happened::ResourcesEnded
        }
        (Wait::WorkerEnd, Some(worker), _) => {
            // Asked again in less time, the loop comes here again, and the shorter time wins.
            let times = shared.end_times(config.grace);
            Happened::WorkerEnded(worker.end(times.drain, times.grace).await)
        }
        (Wait::Until(time), ..) => {
            tokio::time::sleep_until(time).await;
            Happened::PauseOver
        }
        // The rules wait for a start or a worker only while there is one.
        (Wait::Request | Wait::Start | Wait::Down | Wait::StartOrDown | Wait::WorkerEnd, ..) => {
            std::future::pending().await
        }
    }
}

async fn started(launch: &mut Launch) -> Happened {
    launch
        .done()
        .await
        .map_or(Happened::LaunchBroke, Happened::Started)
}

fn answer(request: Option<Request>, told: Result<Replaced, ReplaceError>) {
    if let Some(request) = request {
        // An error only says that the caller has left; what it asked for goes on.
        let _ = request.reply.send(told);
    }
}

fn requested() -> Down {
    Down {
        reason: DownReason::Requested,
        outcome: None,
        stderr_tail: String::new(),
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        if self.shared.exit().is_some() {
            return;
        }
        self.shared.show(Shown::Terminating, self.state.restarts());
        // A panic here, perhaps the same observer's a second time, would abort the host.
        let told = catch_unwind(AssertUnwindSafe(|| {
            if matches!(
                self.state.phase(),
                Phase::Serving { .. } | Phase::Replacing { .. }
            ) {
                self.tell_down(requested());
            }
        }));
        if told.is_err() {
            tracing::error!(slot = %self.shared.slot, "the observer panicked while a killed starter was cleaned up");
        }
        let leaving = self.leaving.take().map(|leaving| Occupant {
            worker: leaving.worker,
            keeper: leaving.keeper,
            gone: Some(leaving.gone),
        });
        let worker = self.worker.take().map(|worker| Occupant {
            keeper: self.keeper.take(),
            ..Occupant::new(worker)
        });
        let arrived = self.arrived.take().map(Occupant::new);
        let wreck = Wreck {
            shared: Arc::clone(&self.shared),
            config: Arc::clone(&self.config),
            launch: self.launch.take(),
            occupants: [leaving, worker, arrived].into_iter().flatten().collect(),
        };
        tracing::warn!(slot = %self.shared.slot, "a starter was killed; what it owns is ended in the background");
        self.runtime.spawn(wreck.clean_up());
    }
}
