//! The loop around the supervisor's rules.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use tokio::{
    sync::{mpsc, oneshot},
    task::{self, JoinError, JoinSet},
    time::Instant,
};

use super::{
    ChildCounts, ChildInfo, ChildKind, ChildSpec, SupervisorError,
    state::{Effect, Event, Phase, Refusal, Rules, State},
};
use crate::{
    event::{EventKind, Events},
    id::SlotId,
    supervision::{
        ReplaceError, Replaced, Replacement, SlotEvent, SlotObserver, SlotState, SlotStatus, Starter,
        StarterExit,
    },
};

/// A request from a handle.
pub(super) enum Command {
    Start(ChildSpec, oneshot::Sender<Result<(), SupervisorError>>),
    Terminate(SlotId, oneshot::Sender<Result<(), SupervisorError>>),
    Replace(
        SlotId,
        Replacement,
        oneshot::Sender<Result<Replaced, ReplaceError>>,
    ),
    Which(oneshot::Sender<Vec<ChildInfo>>),
    Count(oneshot::Sender<ChildCounts>),
    /// Answered by dropping the sender, which happens when all has ended.
    Shutdown(oneshot::Sender<()>),
}

/// What a task of the supervisor came back with.
enum Done {
    Exited(SlotId, StarterExit),
    /// A starter was asked for something; that it has ended is told by its watcher.
    Asked,
}

struct Entry {
    spec: ChildSpec,
    /// None while the slot rests.
    starter: Option<Arc<dyn Starter>>,
    /// The task that waits for the starter's end.
    watcher: Option<task::Id>,
    last_failure: Option<Arc<str>>,
    waiters: Vec<oneshot::Sender<Result<(), SupervisorError>>>,
}

pub(super) struct Actor {
    commands: mpsc::Receiver<Command>,
    observer: Arc<dyn SlotObserver>,
    events: Events,
    state: State,
    children: BTreeMap<SlotId, Entry>,
    /// Watchers of starters, and requests to them. Owned here: they end with the supervisor.
    tasks: JoinSet<Done>,
    shutdown: Vec<oneshot::Sender<()>>,
    finished: bool,
}

impl Actor {
    pub(super) fn new(
        commands: mpsc::Receiver<Command>,
        rules: Rules,
        observer: Arc<dyn SlotObserver>,
        events: Events,
    ) -> Self {
        Self {
            commands,
            observer,
            events,
            state: State::new(rules),
            children: BTreeMap::new(),
            tasks: JoinSet::new(),
            shutdown: Vec::new(),
            finished: false,
        }
    }

    pub(super) async fn run(mut self) {
        let mut open = true;
        while !self.finished {
            let tick = self.state.next_tick();
            tokio::select! {
                // Ends come first, so that a command sees the newest state; time comes last, as ends and
                // commands may make it void.
                biased;
                Some(done) = self.tasks.join_next_with_id(), if !self.tasks.is_empty() => self.done(done),
                command = self.commands.recv(), if open => match command {
                    Some(command) => self.command(command),
                    None => {
                        // Nobody can ask for the shutdown any more.
                        open = false;
                        if !self.children.is_empty() {
                            tracing::warn!(pool = self.events.pool(), "a supervisor was dropped without shutdown");
                        }
                        self.step(Event::Shutdown);
                    }
                },
                () = sleep_until(tick), if tick.is_some() => self.step(Event::Tick),
            }
        }
    }

    fn done(&mut self, done: Result<(task::Id, Done), JoinError>) {
        match done {
            Ok((_, Done::Asked)) => {}
            Ok((_, Done::Exited(slot, exit))) => self.exited(slot, &exit),
            // A starter of somebody else's making panicked while it was waited for. Its handle goes, which
            // is all that can be done.
            Err(error) => {
                let id = error.id();
                let broken = self.children.iter().find(|(_, entry)| entry.watcher == Some(id));
                if let Some((&slot, _)) = broken {
                    self.exited(slot, &StarterExit::Killed);
                }
            }
        }
    }

    fn exited(&mut self, slot: SlotId, exit: &StarterExit) {
        if let Some(entry) = self.children.get_mut(&slot) {
            entry.starter = None;
            entry.watcher = None;
            if !exit.is_normal() {
                entry.last_failure = Some(exit.to_string().into());
            }
        }
        let normal = exit.is_normal();
        self.step(Event::Exited { slot, normal });
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Start(spec, reply) => {
                if reply.is_closed() {
                    return;
                }
                let slot = spec.slot;
                let event = Event::StartChild(slot, spec.restart);
                let answer = match self.state.on(event, Instant::now()) {
                    Ok(effects) => {
                        let entry = Entry {
                            spec,
                            starter: None,
                            watcher: None,
                            last_failure: None,
                            waiters: Vec::new(),
                        };
                        self.children.insert(slot, entry);
                        self.perform(effects);
                        Ok(())
                    }
                    Err(refusal) => Err(refused(refusal, slot)),
                };
                // An error only says that the caller has left; the child runs, as documented.
                let _ = reply.send(answer);
            }
            Command::Terminate(slot, reply) => {
                match self.state.on(Event::TerminateChild(slot), Instant::now()) {
                    Ok(effects) => {
                        if let Some(entry) = self.children.get_mut(&slot) {
                            entry.waiters.push(reply);
                        }
                        self.perform(effects);
                    }
                    Err(refusal) => {
                        // An error only says that the caller has left.
                        let _ = reply.send(Err(refused(refusal, slot)));
                    }
                }
            }
            Command::Replace(slot, replacement, reply) => self.replace(slot, replacement, reply),
            Command::Which(reply) => {
                let _ = reply.send(self.which());
            }
            Command::Count(reply) => {
                let _ = reply.send(self.count());
            }
            Command::Shutdown(reply) => {
                self.shutdown.push(reply);
                self.step(Event::Shutdown);
            }
        }
    }

    fn replace(
        &mut self,
        slot: SlotId,
        replacement: Replacement,
        reply: oneshot::Sender<Result<Replaced, ReplaceError>>,
    ) {
        let refusal = match self.state.on(Event::Wake(slot), Instant::now()) {
            Ok(effects) => {
                self.perform(effects);
                let starter = self.children.get(&slot).and_then(|entry| entry.starter.clone());
                if let Some(starter) = starter {
                    self.tasks.spawn(async move {
                        // An error only says that the caller has left.
                        let _ = reply.send(starter.replace(replacement).await);
                        Done::Asked
                    });
                    return;
                }
                ReplaceError::Ending(slot)
            }
            Err(Refusal::NotFound) => ReplaceError::NotFound(slot),
            Err(Refusal::Ending | Refusal::AlreadyStarted) => ReplaceError::Ending(slot),
        };
        let _ = reply.send(Err(refusal));
    }

    fn step(&mut self, event: Event) {
        match self.state.on(event, Instant::now()) {
            Ok(effects) => self.perform(effects),
            // Only requests are refused, and those are answered where they arrive.
            Err(refusal) => tracing::error!(pool = self.events.pool(), ?event, ?refusal, "supervisor"),
        }
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Start(slot) => self.start(slot),
                Effect::Restart(slot) => {
                    self.events.emit(EventKind::StarterRestarted { slot });
                    self.start(slot);
                }
                Effect::Terminate(slot) => {
                    let Some(entry) = self.children.get(&slot) else {
                        continue;
                    };
                    if let Some(starter) = entry.starter.clone() {
                        let shutdown = entry.spec.shutdown;
                        self.tasks.spawn(async move {
                            starter.terminate(shutdown).await;
                            Done::Asked
                        });
                    }
                }
                Effect::TellQuarantined(slot, pause) => {
                    self.events.emit(EventKind::SlotQuarantined { slot, pause });
                    self.tell(SlotEvent::Quarantined { slot, pause });
                }
                Effect::Forget(slot) => {
                    let entry = self.children.remove(&slot);
                    self.events.emit(EventKind::SlotTerminated { slot });
                    self.tell(SlotEvent::Terminated { slot });
                    for waiter in entry.into_iter().flat_map(|entry| entry.waiters) {
                        // An error only says that the caller has left.
                        let _ = waiter.send(Ok(()));
                    }
                }
                Effect::Finish => self.finished = true,
            }
        }
    }

    fn tell(&self, event: SlotEvent) {
        // Foreign code: its panic must not take the slots' supervisor along. The panic itself was printed.
        if catch_unwind(AssertUnwindSafe(|| self.observer.slot_event(event))).is_err() {
            tracing::error!(pool = self.events.pool(), "the observer panicked");
        }
    }

    fn start(&mut self, slot: SlotId) {
        let Some(entry) = self.children.get_mut(&slot) else {
            return;
        };
        let factory = &*entry.spec.starter;
        // Foreign code: its panic must not take the other slots' supervisor along.
        let Ok(starter) = catch_unwind(AssertUnwindSafe(|| factory.start(slot))) else {
            // Comes back as any other end does, so that the intensity bounds it.
            self.tasks
                .spawn(async move { Done::Exited(slot, StarterExit::Killed) });
            return;
        };
        entry.starter = Some(Arc::clone(&starter));
        let watcher = self
            .tasks
            .spawn(async move { Done::Exited(slot, starter.terminated().await) });
        entry.watcher = Some(watcher.id());
    }

    fn which(&self) -> Vec<ChildInfo> {
        self.children
            .iter()
            .map(|(&slot, entry)| self.info(slot, entry))
            .collect()
    }

    fn info(&self, slot: SlotId, entry: &Entry) -> ChildInfo {
        let (phase, starter_restarts) = match self.state.child(slot) {
            Some((phase, restarts)) => (Some(phase), restarts),
            None => (None, 0),
        };
        let mut status = match (&entry.starter, phase) {
            (Some(starter), _) => starter.status(),
            (None, Some(Phase::Resting { until })) => {
                let left = until.saturating_duration_since(Instant::now());
                SlotStatus::new(slot, SlotState::Quarantined { left })
            }
            (None, Some(Phase::Running { .. } | Phase::Terminating) | None) => {
                SlotStatus::new(slot, SlotState::Terminating)
            }
        };
        if status.last_failure.is_none() {
            status.last_failure.clone_from(&entry.last_failure);
        }
        ChildInfo {
            status,
            kind: entry.spec.kind,
            starter_restarts,
        }
    }

    fn count(&self) -> ChildCounts {
        let of_kind = |kind| {
            self.children
                .values()
                .filter(|entry| entry.spec.kind == kind)
                .count()
        };
        ChildCounts {
            specs: self.children.len(),
            active: self
                .children
                .values()
                .filter(|entry| entry.starter.is_some())
                .count(),
            supervisors: of_kind(ChildKind::Supervisor),
            workers: of_kind(ChildKind::Worker),
        }
    }
}

fn refused(refusal: Refusal, slot: SlotId) -> SupervisorError {
    match refusal {
        Refusal::AlreadyStarted => SupervisorError::AlreadyStarted(slot),
        Refusal::NotFound => SupervisorError::NotFound(slot),
        Refusal::Ending => SupervisorError::Ending,
    }
}

/// Sleeps until a time that is there.
async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
