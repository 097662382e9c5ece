//! The rules of the supervisor: what follows from what, without I/O and without a clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    clock::after,
    id::SlotId,
    supervision::{Quarantine, RestartIntensity, RestartPolicy, intensity::RestartHistory},
};

/// What the supervisor does about ended starters.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rules {
    pub(super) intensity: RestartIntensity,
    pub(super) quarantine: Quarantine,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A child is to be started.
    StartChild(SlotId, RestartPolicy),
    /// A child is to be ended.
    TerminateChild(SlotId),
    /// A child is asked for something: one that rests is started for that.
    Wake(SlotId),
    /// A child's starter ended; `normal` when it was asked to.
    Exited { slot: SlotId, normal: bool },
    /// Time has passed: rests may be over.
    Tick,
    /// All children are to be ended, and then the supervisor.
    Shutdown,
}

/// What is to be done, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Start the slot's starter.
    Start(SlotId),
    /// Start the slot's starter once more, and tell.
    Restart(SlotId),
    /// Ask the slot's starter to terminate.
    Terminate(SlotId),
    /// Tell that the slot rests.
    TellQuarantined(SlotId, Duration),
    /// Nothing of the slot is left: forget it, tell it, and answer who asked for it.
    Forget(SlotId),
    /// No child is left: end.
    Finish,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    AlreadyStarted,
    NotFound,
    Ending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Running { since: Instant },
    Resting { until: Instant },
    Terminating,
}

#[derive(Debug)]
struct Child {
    policy: RestartPolicy,
    phase: Phase,
    /// Counted for each slot by itself; OTP counts over all children. A pool's slots run the same code, and
    /// one bad machine state must not take the slots that work along.
    history: RestartHistory,
    /// Rests in a row, and the last one.
    rests: u32,
    last_rest: Duration,
    restarts: u64,
}

/// The children, and whether the end has begun.
#[derive(Debug)]
pub(super) struct State {
    rules: Rules,
    children: BTreeMap<SlotId, Child>,
    resting: BTreeSet<(Instant, SlotId)>,
    ending: bool,
}

impl State {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            children: BTreeMap::new(),
            resting: BTreeSet::new(),
            ending: false,
        }
    }

    /// The phase of a slot and how often its starter was started again.
    pub(super) fn child(&self, slot: SlotId) -> Option<(Phase, u64)> {
        self.children
            .get(&slot)
            .map(|child| (child.phase, child.restarts))
    }

    /// When the next [`Event::Tick`] is due.
    pub(super) fn next_tick(&self) -> Option<Instant> {
        self.resting.first().map(|&(until, _)| until)
    }

    /// Takes an event. One that is refused changes nothing.
    pub(super) fn on(&mut self, event: Event, now: Instant) -> Result<Vec<Effect>, Refusal> {
        match event {
            Event::StartChild(slot, policy) => self.start_child(slot, policy, now),
            Event::TerminateChild(slot) => self.terminate_child(slot),
            Event::Wake(slot) => self.wake(slot, now),
            Event::Exited { slot, normal } => self.exited(slot, normal, now),
            Event::Tick => Ok(self.tick(now)),
            Event::Shutdown => Ok(self.shutdown()),
        }
    }

    fn start_child(
        &mut self,
        slot: SlotId,
        policy: RestartPolicy,
        now: Instant,
    ) -> Result<Vec<Effect>, Refusal> {
        if self.ending {
            return Err(Refusal::Ending);
        }
        if self.children.contains_key(&slot) {
            return Err(Refusal::AlreadyStarted);
        }
        let child = Child {
            policy,
            phase: Phase::Running { since: now },
            history: RestartHistory::default(),
            rests: 0,
            last_rest: Duration::ZERO,
            restarts: 0,
        };
        self.children.insert(slot, child);
        Ok(vec![Effect::Start(slot)])
    }

    fn terminate_child(&mut self, slot: SlotId) -> Result<Vec<Effect>, Refusal> {
        let child = self.children.get_mut(&slot).ok_or(Refusal::NotFound)?;
        match child.phase {
            Phase::Running { .. } => {
                child.phase = Phase::Terminating;
                Ok(vec![Effect::Terminate(slot)])
            }
            Phase::Resting { until } => {
                self.resting.remove(&(until, slot));
                Ok(self.forget(slot))
            }
            Phase::Terminating => Ok(Vec::new()),
        }
    }

    fn wake(&mut self, slot: SlotId, now: Instant) -> Result<Vec<Effect>, Refusal> {
        let child = self.children.get_mut(&slot).ok_or(Refusal::NotFound)?;
        match child.phase {
            Phase::Running { .. } => Ok(Vec::new()),
            Phase::Resting { until } => {
                self.resting.remove(&(until, slot));
                child.phase = Phase::Running { since: now };
                child.restarts += 1;
                Ok(vec![Effect::Restart(slot)])
            }
            Phase::Terminating => Err(Refusal::Ending),
        }
    }

    fn exited(&mut self, slot: SlotId, normal: bool, now: Instant) -> Result<Vec<Effect>, Refusal> {
        let child = self.children.get_mut(&slot).ok_or(Refusal::NotFound)?;
        let since = match child.phase {
            Phase::Running { since } if child.policy.restarts(normal) => since,
            Phase::Running { .. } | Phase::Terminating => return Ok(self.forget(slot)),
            // A resting slot has no starter that could end.
            Phase::Resting { .. } => return Err(Refusal::NotFound),
        };
        if child.rests > 0 && now.saturating_duration_since(since) >= child.last_rest {
            child.rests = 0;
            child.history = RestartHistory::default();
        }
        if child.rests == 0 && child.history.add(now, self.rules.intensity) {
            child.phase = Phase::Running { since: now };
            child.restarts += 1;
            return Ok(vec![Effect::Restart(slot)]);
        }
        child.rests = child.rests.saturating_add(1);
        child.last_rest = self.rules.quarantine.pause(child.rests);
        let until = after(now, child.last_rest);
        child.phase = Phase::Resting { until };
        self.resting.insert((until, slot));
        Ok(vec![Effect::TellQuarantined(slot, child.last_rest)])
    }

    fn tick(&mut self, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        while let Some(&(until, slot)) = self.resting.first()
            && until <= now
        {
            self.resting.pop_first();
            if let Some(child) = self.children.get_mut(&slot) {
                child.phase = Phase::Running { since: now };
                child.restarts += 1;
                effects.push(Effect::Restart(slot));
            }
        }
        effects
    }

    fn shutdown(&mut self) -> Vec<Effect> {
        if self.ending {
            return Vec::new();
        }
        self.ending = true;
        let mut effects = Vec::new();
        let slots: Vec<_> = self.children.keys().copied().collect();
        for slot in slots {
            effects.extend(self.terminate_child(slot).unwrap_or_default());
        }
        if effects.is_empty() && self.children.is_empty() {
            effects.push(Effect::Finish);
        }
        effects
    }

    fn forget(&mut self, slot: SlotId) -> Vec<Effect> {
        self.children.remove(&slot);
        let mut effects = vec![Effect::Forget(slot)];
        if self.ending && self.children.is_empty() {
            effects.push(Effect::Finish);
        }
        effects
    }
}

#[cfg(test)]
mod tests;
