//! The starter engine and its factory.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use tokio::{runtime::Handle, task::AbortHandle};

use super::{
    ReplaceError, Replaced, Replacement, Starter, StarterExit, StarterFactory, actor::Actor, shared::Shared,
    state::Rules,
};
use crate::{
    event::Events,
    id::SlotId,
    supervision::{
        Backoff, ResourceFactory, RestartIntensity, RestartPolicy, Shutdown, SlotObserver, SlotStatus,
    },
    worker::{Down, StartTurns, WorkerFactory},
};

/// What all starters of a supervisor have in common.
#[derive(Clone, Debug)]
pub(in crate::supervision) struct Config {
    pub(super) workers: Arc<dyn WorkerFactory>,
    pub(super) resources: Vec<Arc<dyn ResourceFactory>>,
    pub(super) observer: Arc<dyn SlotObserver>,
    pub(super) events: Events,
    pub(super) rules: Rules,
    /// Between SIGTERM and SIGKILL for a worker that went down by itself.
    pub(super) grace: Duration,
    /// The same for one whose end was asked for, and not by the slot's: whoever did so gave a time of his own.
    pub(super) requested_grace: Duration,
    /// Bounds the starts under way.
    pub(super) starts: StartTurns,
}

impl Config {
    /// The grace of a worker that is down.
    pub(super) fn grace_of(&self, down: &Down) -> Duration {
        if down.reason.is_normal() {
            self.requested_grace
        } else {
            self.grace
        }
    }
}

/// Makes [`SlotStarter`]s that share a worker factory, an observer and a bound on parallel starts. Clones
/// share the bound as well.
#[derive(Clone, Debug)]
pub struct SlotStarterFactory {
    config: Arc<Config>,
}

impl SlotStarterFactory {
    /// Starters with default rules and no resources.
    pub fn new(workers: Arc<dyn WorkerFactory>, observer: Arc<dyn SlotObserver>, events: Events) -> Self {
        let rules = Rules {
            restart: RestartPolicy::Transient,
            intensity: RestartIntensity::default(),
            backoff: Backoff::default(),
        };
        Self {
            config: Arc::new(Config {
                workers,
                resources: Vec::new(),
                observer,
                events,
                rules,
                grace: Shutdown::default().grace,
                requested_grace: Shutdown::default().grace,
                starts: StartTurns::new(default_parallel_starts()),
            }),
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(Arc::make_mut(&mut self.config));
        self
    }

    /// Adds a resource to every slot.
    #[must_use]
    pub fn with_resource(self, resource: Arc<dyn ResourceFactory>) -> Self {
        self.with(|config| config.resources.push(resource))
    }

    /// When an ended worker is started again. Default [`RestartPolicy::Transient`].
    #[must_use]
    pub fn with_restart(self, restart: RestartPolicy) -> Self {
        self.with(|config| config.rules.restart = restart)
    }

    /// How many restarts of its worker a starter takes before it gives up.
    #[must_use]
    pub fn with_intensity(self, intensity: RestartIntensity) -> Self {
        self.with(|config| config.rules.intensity = intensity)
    }

    /// How long restarts wait.
    #[must_use]
    pub fn with_backoff(self, backoff: Backoff) -> Self {
        self.with(|config| config.rules.backoff = backoff)
    }

    /// Between SIGTERM and SIGKILL for a worker that went down by itself and has left something behind, or
    /// was condemned. Default 5 s; zero kills at once.
    #[must_use]
    pub fn with_grace(self, grace: Duration) -> Self {
        self.with(|config| config.grace = grace)
    }

    /// Between SIGTERM and SIGKILL for a worker whose own end was asked for. Default 5 s. It bounds that end where whoever asked
    /// for it has given more, and does not shorten it otherwise.
    #[must_use]
    pub fn with_requested_grace(self, grace: Duration) -> Self {
        self.with(|config| config.requested_grace = grace)
    }

    /// How many workers may load their program at the same time, over all slots. Zero counts as one. Those that a launcher
    /// [holds](crate::launch::Launcher::holds) meanwhile do not count.
    ///
    /// Default four for each core, at least eight. A start is bound by CPU (its imports), so more than one
    /// for each core gains nothing but cover for the waits in between; with far more, all of them come close
    /// to their start deadline together.
    #[must_use]
    pub fn with_parallel_starts(self, starts: usize) -> Self {
        self.with(|config| config.starts = StartTurns::new(starts))
    }

    /// Starts a starter for a slot.
    ///
    /// # Panics
    /// When called outside of a tokio runtime.
    pub fn start_slot(&self, slot: SlotId) -> SlotStarter {
        let shared = Arc::new(Shared::new(slot));
        let seed = RandomState::new().hash_one(slot);
        let actor = Actor::new(
            Arc::clone(&shared),
            Arc::clone(&self.config),
            Handle::current(),
            seed,
        );
        let task = tokio::spawn(actor.run()).abort_handle();
        SlotStarter { shared, task }
    }
}

impl StarterFactory for SlotStarterFactory {
    fn start(&self, slot: SlotId) -> Arc<dyn Starter> {
        Arc::new(self.start_slot(slot))
    }
}

fn default_parallel_starts() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (4 * cores).max(8)
}

/// The starter engine: keeps one worker alive in its slot.
///
/// - Its worker is transient: it is started again after every end that the host did not ask for, at once the
///   first time, then after the pauses of [`Backoff`]. A start that fails counts like a crash. OTP lets a
///   failed first start fail `start_child`; here it is retried like any other, since slots start in the
///   background.
/// - When a worker goes down the observer is told, the resources are ended, then the worker and its process
///   tree, and only then is the next one started: a slot has two live workers only while one replaces the other.
/// - [`Starter::replace`] starts the next worker beside the one that serves. Once it is ready the observer is told, and the
///   one before finishes its calls; then its resources end, and then it does.
/// - One restart more than its [`RestartIntensity`] allows and it gives up: [`StarterExit::GaveUp`].
/// - [`Starter::terminate`] is answered promptly in every phase, also during a start or a pause.
/// - A starter whose task is killed, or panics, leaves the same as one that was terminated.
///
/// Dropping the handle terminates the starter in the background.
pub struct SlotStarter {
    shared: Arc<Shared>,
    task: AbortHandle,
}

impl SlotStarter {
    /// Kills the starter's task as an untrappable exit signal would; what it owns is ended in the background.
    /// Made for tests of that.
    pub fn kill(&self) {
        self.task.abort();
    }
}

#[async_trait]
impl Starter for SlotStarter {
    fn slot(&self) -> SlotId {
        self.shared.slot
    }

    fn status(&self) -> SlotStatus {
        self.shared.status()
    }

    async fn terminated(&self) -> StarterExit {
        self.shared.ended().await
    }

    async fn terminate(&self, shutdown: Shutdown) -> StarterExit {
        self.shared.ask(shutdown);
        self.shared.ended().await
    }

    async fn replace(&self, replacement: Replacement) -> Result<Replaced, ReplaceError> {
        let answer = self.shared.ask_replacement(replacement).await;
        answer.unwrap_or(Err(ReplaceError::Ending(self.shared.slot)))
    }
}

impl Drop for SlotStarter {
    fn drop(&mut self) {
        self.shared.ask(Shutdown::default());
    }
}

impl fmt::Debug for SlotStarter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlotStarter")
            .field("slot", &self.shared.slot)
            .finish_non_exhaustive()
    }
}
