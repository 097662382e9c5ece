//! The loop around a starter's rules: it performs what they say and tells them what happens.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use tokio::{runtime::Handle, time::Instant};

use super::{
    Config, StarterExit,
    keeper::Keeper,
    launch::{Launch, Started},
    shared::{Shared, Shown},
    state::{Effect, Event, Exit, Phase, State, Wait},
    wreck::Wreck,
};
use crate::{
    event::EventKind,
    process::EndReport,
    rpc::error_chain,
    supervision::SlotEvent,
    worker::{Down, DownReason, StartError, Worker},
};

/// A starter's task. When it is dropped before its end is reported (a panic, a kill, a runtime that shuts
/// down), whatever it owns is ended in the background, and only then is its end reported.
pub(super) struct Actor {
    shared: Arc<Shared>,
    config: Arc<Config>,
    runtime: Handle,
    state: State,
    launch: Option<Launch>,
    worker: Option<Arc<dyn Worker>>,
    keeper: Option<Keeper>,
}

/// What the loop learned, before it becomes an event for the rules.
enum Happened {
    Asked,
    Started(Started),
    Down(Down),
    ResourcesEnded,
    WorkerEnded(EndReport),
    PauseOver,
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
            config,
            runtime,
            state,
            launch: None,
            worker: None,
            keeper: None,
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
            let Some((event, detail)) = self.learn(happened) else {
                // Ends as by a kill: the drop cleans up, and the supervisor decides.
                return;
            };
            self.step(event, detail);
        }
    }

    /// Waits for what the rules wait for. Cancel safe: each wait can be taken up again.
    async fn wait(&mut self) -> Happened {
        match (self.state.waits_for(), &self.worker, &mut self.launch) {
            (Wait::Start, _, Some(launch)) => {
                let done = launch.done().await;
                self.launch = None;
                done.map_or(Happened::LaunchBroke, Happened::Started)
            }
            (Wait::Down, Some(worker), _) => Happened::Down(worker.down().await),
            (Wait::ResourcesEnd, ..) => {
                if let Some(keeper) = &mut self.keeper {
                    keeper.ended().await;
                }
                Happened::ResourcesEnded
            }
            (Wait::WorkerEnd, Some(worker), _) => {
                // Asked again in less time, the loop comes here again, and the shorter time wins.
                let times = self.shared.end_times(self.config.grace);
                Happened::WorkerEnded(worker.end(times.drain, times.grace).await)
            }
            (Wait::Until(time), ..) => {
                tokio::time::sleep_until(time).await;
                Happened::PauseOver
            }
            // The rules wait for a start or a worker only while there is one.
            (Wait::Request | Wait::Start | Wait::Down | Wait::WorkerEnd, ..) => std::future::pending().await,
        }
    }

    fn learn(&mut self, happened: Happened) -> Option<(Event, Detail)> {
        Some(match happened {
            Happened::Asked => (Event::Terminate, Detail::None),
            Happened::Started(Started::Ready(worker, took)) => {
                self.worker = Some(Arc::clone(&worker));
                self.shared.set_worker(Some(worker));
                (Event::Ready, Detail::Ready(took))
            }
            Happened::Started(Started::Failed(error)) => {
                self.shared.set_failure(error_chain(&*error).into());
                (Event::StartFailed, Detail::Failed(error))
            }
            Happened::Started(Started::Cancelled) => (Event::StartCancelled, Detail::None),
            Happened::Down(down) => {
                let normal = down.reason.is_normal();
                if !normal {
                    self.shared.set_failure(down.to_string().into());
                }
                (Event::Down { normal }, Detail::Down(down))
            }
            Happened::ResourcesEnded => {
                self.keeper = None;
                self.shared.set_resources(None);
                (Event::ResourcesEnded, Detail::None)
            }
            Happened::WorkerEnded(report) => {
                self.emit_ended(report);
                self.worker = None;
                self.shared.set_worker(None);
                (Event::WorkerEnded, Detail::None)
            }
            Happened::PauseOver => (Event::PauseOver, Detail::None),
            Happened::LaunchBroke => return None,
        })
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
            Phase::EndingResources(after) | Phase::EndingWorker(after) if after.is_final() => {
                Shown::Terminating
            }
            Phase::EndingResources(_) | Phase::EndingWorker(_) => Shown::Ending,
            Phase::Pausing { until } => Shown::Pausing(until),
            Phase::Idle => Shown::Idle,
            // Ended is shown as terminated only when the end is reported.
            Phase::Cancelling | Phase::Ended => Shown::Terminating,
        }
    }

    fn perform(&mut self, effect: Effect, detail: &Detail) {
        let slot = self.shared.slot;
        match effect {
            Effect::Start => self.launch = Some(Launch::begin(slot, &self.config)),
            Effect::CancelStart => {
                if let Some(launch) = &mut self.launch {
                    launch.cancel();
                }
            }
            Effect::TellReady => {
                if let (Some(worker), Detail::Ready(took)) = (&self.worker, detail) {
                    self.config.events.emit(EventKind::WorkerReady {
                        slot,
                        worker: worker.id(),
                        pid: worker.pid(),
                        took: *took,
                    });
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
            Effect::TellDown => {
                if let Detail::Down(down) = detail {
                    self.tell_down(down.clone());
                }
            }
            Effect::TellRequested => self.tell_down(requested()),
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
            Effect::Finish(Exit::Terminated) => self.shared.finish(StarterExit::Terminated),
            Effect::Finish(Exit::GaveUp) => self.shared.finish(StarterExit::GaveUp {
                intensity: self.config.rules.intensity,
                cause: self.shared.last_failure().unwrap_or_else(|| "".into()),
            }),
        }
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

    fn emit_ended(&self, report: EndReport) {
        if let Some(worker) = &self.worker {
            self.config.events.emit(EventKind::WorkerEnded {
                slot: self.shared.slot,
                worker: worker.id(),
                report,
            });
        }
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
            if matches!(self.state.phase(), Phase::Serving { .. }) {
                self.tell_down(requested());
            }
        }));
        if told.is_err() {
            tracing::error!(slot = %self.shared.slot, "the observer panicked while a killed starter was cleaned up");
        }
        let wreck = Wreck {
            shared: Arc::clone(&self.shared),
            config: Arc::clone(&self.config),
            launch: self.launch.take(),
            worker: self.worker.take(),
            keeper: self.keeper.take(),
        };
        tracing::warn!(slot = %self.shared.slot, "a starter was killed; what it owns is ended in the background");
        self.runtime.spawn(wreck.clean_up());
    }
}
