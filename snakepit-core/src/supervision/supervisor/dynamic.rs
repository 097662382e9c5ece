//! The supervisor engine.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use super::{
    ChildCounts, ChildInfo, ChildSpec, Supervisor, SupervisorError,
    actor::{Actor, Command},
    state::Rules,
};
use crate::{
    event::Events,
    id::SlotId,
    supervision::{Quarantine, ReplaceError, Replaced, Replacement, RestartIntensity, SlotObserver},
};

/// Commands under way before callers wait: a command takes microseconds, so more would only hide a stall.
const MAILBOX: usize = 64;

/// The limits of a supervisor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SupervisorLimits {
    /// How often a starter is started again before its slot is quarantined. Counted for each slot by itself,
    /// where OTP counts over all children: one bad slot does not take the others along.
    pub intensity: RestartIntensity,
    /// How long such a slot rests.
    pub quarantine: Quarantine,
}

impl SupervisorLimits {
    /// Sets the restart intensity.
    #[must_use]
    pub fn with_intensity(self, intensity: RestartIntensity) -> Self {
        Self { intensity, ..self }
    }

    /// Sets the rest of slots that exceed it.
    #[must_use]
    pub fn with_quarantine(self, quarantine: Quarantine) -> Self {
        Self { quarantine, ..self }
    }
}

/// The supervisor engine, after OTP's `DynamicSupervisor`: strategy `one_for_one`, children added and ended at
/// run time. Clones are handles of the same supervisor.
///
/// It differs from OTP in one rule: where OTP's supervisor exceeds its intensity it ends itself with all its
/// children; this one quarantines the slot and serves on (see [`Quarantine`]).
///
/// When the last handle is dropped without [`Supervisor::shutdown`], all children are ended in the background.
#[derive(Clone, Debug)]
pub struct DynamicSupervisor {
    commands: mpsc::Sender<Command>,
}

impl DynamicSupervisor {
    /// Starts a supervisor without children. It tells the observer of quarantined and terminated slots;
    /// starters tell everything else.
    ///
    /// # Panics
    /// When called outside of a tokio runtime.
    pub fn start(limits: SupervisorLimits, observer: Arc<dyn SlotObserver>, events: Events) -> Self {
        let (commands, mailbox) = mpsc::channel(MAILBOX);
        let rules = Rules {
            intensity: limits.intensity,
            quarantine: limits.quarantine,
        };
        tokio::spawn(Actor::new(mailbox, rules, observer, events).run());
        Self { commands }
    }

    /// Asks and waits; `None` when the supervisor has ended.
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.ok()?;
        answer.await.ok()
    }
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Command")
    }
}

#[async_trait]
impl Supervisor for DynamicSupervisor {
    async fn start_child(&self, spec: ChildSpec) -> Result<(), SupervisorError> {
        let answer = self.ask(|reply| Command::Start(spec, reply)).await;
        answer.unwrap_or(Err(SupervisorError::Ending))
    }

    async fn terminate_child(&self, slot: SlotId) -> Result<(), SupervisorError> {
        let answer = self.ask(|reply| Command::Terminate(slot, reply)).await;
        // A supervisor that has ended has no children.
        answer.unwrap_or(Err(SupervisorError::NotFound(slot)))
    }

    async fn replace_child(&self, slot: SlotId, replacement: Replacement) -> Result<Replaced, ReplaceError> {
        let answer = self.ask(|reply| Command::Replace(slot, replacement, reply)).await;
        answer.unwrap_or(Err(ReplaceError::Ending(slot)))
    }

    async fn which_children(&self) -> Vec<ChildInfo> {
        self.ask(Command::Which).await.unwrap_or_default()
    }

    async fn count_children(&self) -> ChildCounts {
        self.ask(Command::Count).await.unwrap_or_default()
    }

    async fn shutdown(&self) {
        // Never answered: the reply is dropped when the supervisor has ended.
        self.ask(Command::Shutdown).await;
    }
}
