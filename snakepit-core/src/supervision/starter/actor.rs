//! The loop around a starter's rules: it performs what they say and tells them what happens.

mod effects;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use effects::requested;
use tokio::{runtime::Handle, time::Instant};

use super::{
    Config, Departure,
    keeper::Keeper,
    launch::{Launch, Started},
    leaving::{Leaving, Left},
    shared::{Request, Shared, Shown},
    state::{self, Event, Exit, Phase, State, Wait},
    wreck::{Occupant, Wreck},
};
use crate::{
    clock::within,
    id::WorkerId,
    process::EndReport,
    rpc::error_chain,
    worker::{Down, StartError, Worker, WorkerFactory},
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
                    leaving.shutdown = self.shared.end_times(self.config.grace_of(&down));
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
            // One that is not down was never told to anybody.
            let down = within(Duration::ZERO, worker.down()).await;
            let grace = down.map_or(config.grace, |down| config.grace_of(&down));
            let times = shared.end_times(grace);
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
