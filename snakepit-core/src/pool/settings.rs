//! Settings of a pool.

use std::{collections::BTreeMap, time::Duration};

use super::{builder::SettingsError, queue::Overflow, scaling::Bounds};
use crate::supervision::Shutdown;

/// The largest number of slots: each is a process.
const MAX_WORKERS: usize = 100_000;

/// Settings of a pool, each with its default. [`PoolBuilder`](super::PoolBuilder) sets them one by one and checks them.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PoolSettings {
    /// Worker slots, the most there may be; 1 to 100,000. Default: what
    /// [`available_parallelism`](std::thread::available_parallelism) counts: the CPUs in the affinity mask of the calling thread, or
    /// the CPU quota of its cgroup and of those around it where that is less, rounded down and at least 1. A quota of 1.9 CPUs
    /// makes 1 worker.
    pub workers: usize,
    /// Slots that there are always; `None`, the default, is as many as `workers`: the pool's size is fixed. With fewer it grows
    /// when calls need more, and shrinks by the idle timeout. 0 starts the first worker for the first call.
    pub min_workers: Option<usize>,
    /// Idle workers that a pool which can grow has ready beyond those that calls need now. Default 1: it grows when the last idle
    /// worker is taken, not when the next call has to wait for a start. 0 grows for calls that wait.
    pub spare_workers: usize,
    /// How long a worker that is not needed stays idle before it is ended. Default 60 s; not zero.
    pub idle_timeout: Duration,
    /// Callers that may wait for a worker; 0 means that a call which finds all workers busy is refused, `None` is unlimited.
    /// Default 1,000: at a millisecond a call, the last of them waits a second.
    pub queue_limit: Option<usize>,
    /// What happens to a call that finds the queue full. Default [`Overflow::Refuse`].
    pub overflow: Overflow,
    /// How many calls of a function may be executed at once in the whole pool; at least 1. The name is the one that calls use.
    /// Further ones wait, in the order they came whatever their priority, and count as waiting in the queue. Default: as many
    /// as there are workers.
    pub function_limits: BTreeMap<String, usize>,
    /// Deadline of calls that set none, over queue, execution and retries. Default `None`: only the caller knows how long its
    /// function may take.
    pub deadline: Option<Duration>,
    /// How long calls that do not say may wait in the queue. Counted anew when a call comes back to the queue: because its
    /// worker was lost, or executed another call for longer than expected. Default `None`; zero lets no call wait.
    pub queue_timeout: Option<Duration>,
    /// How long calls that do not say may be executed, counted from being handed to a worker: up to 2 ms of it may pass there
    /// behind a short call. Default `None`; not zero.
    pub run_timeout: Option<Duration>,
    /// On how many workers, one after the other, a call that is [idempotent](super::Request::idempotent) is executed when each
    /// of them is lost; at least 1. Default 3: a call that has ended three workers is more likely to blame than they are.
    pub attempts: u32,
    /// How many workers in a row the same call (function and arguments) may lose before it is refused with
    /// [`CallError::Poisoned`](super::CallError::Poisoned); at least 1, `None` refuses none. It is tried again after 30 s, then
    /// with pauses that double up to 5 min; one answer, and all is forgotten. Default 3: as many as a slot's restart intensity.
    pub poison_limit: Option<u32>,
    /// From a call's cancellation to the end of the worker that goes on with it. Default 1 s; zero ends the worker at once.
    pub cancel_grace: Duration,
    /// How long the start waits for the workers. When it runs out the pool starts with those that are ready, or fails when there
    /// is none. Default 60 s: twice the start deadline of a worker; not zero.
    pub start_timeout: Duration,
    /// How [`Pool::shutdown`](super::Pool::shutdown) ends calls and workers. Default: 5 s for calls to finish, 5 s from SIGTERM to
    /// SIGKILL. In between, a worker without a call is asked to run its stop hooks and to leave, within as long as the calls
    /// had and at most 2 s; one with a call is sent SIGTERM at once.
    pub shutdown: Shutdown,
    /// From the end of one health check of a worker to the next, where its adapters have a hook for it; the first one comes
    /// before its first call. `None` checks nothing. Default 30 s: of a hook that takes 30 ms that is a thousandth of the
    /// worker's time, and one that went bad between calls is found within half a minute. Not zero.
    pub health_interval: Option<Duration>,
    /// How long a health check may take; the worker is replaced then. Default 10 s, as long as a heartbeat may be left
    /// unanswered: a hook that asks a database on a busy machine is late, and not dead. Not zero.
    pub health_timeout: Duration,
    /// How long a worker serves before it is replaced. Its successor is started first, so it may serve a little longer; what
    /// it is executing then it finishes. Default `None`; not zero.
    pub max_age: Option<Duration>,
    /// How many calls a worker is given before it is replaced; at least 1. As with [`max_age`](Self::max_age): its successor is
    /// started when that call is sent to it, and until that is ready it is given more. Default `None`.
    pub max_calls: Option<u64>,
    /// How many bytes of resident memory the process tree of a worker may have before it is replaced, as the metrics
    /// collector samples them (every 5 s): a soft limit, which is looked at while calls go on and never interrupts one. A worker
    /// that was given no call is not replaced, since another would have as much. Default `None`; at least 1.
    pub max_rss: Option<u64>,
    /// By how much of itself `max_age` and `max_calls` may be shorter, at random for each worker: from 0 to 1. Default 0.2, so
    /// that workers which started together are not replaced together.
    pub recycle_jitter: f64,
    /// In how many slots a worker may be replaced at the same time, whatever for; at least 1. Default 1, so that there is one
    /// worker more than slots. A worker that has not finished its calls after 10 s holds up no other slot.
    pub replacements: usize,
    /// How long a worker that was replaced may go on with its calls; those that it then executes are lost with it. Default
    /// `None`: until they are over.
    pub drain_timeout: Option<Duration>,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            min_workers: None,
            spare_workers: 1,
            idle_timeout: Duration::from_secs(60),
            queue_limit: Some(1000),
            overflow: Overflow::default(),
            function_limits: BTreeMap::new(),
            deadline: None,
            queue_timeout: None,
            run_timeout: None,
            attempts: 3,
            poison_limit: Some(3),
            cancel_grace: Duration::from_secs(1),
            start_timeout: Duration::from_secs(60),
            shutdown: Shutdown::default(),
            health_interval: Some(Duration::from_secs(30)),
            health_timeout: Duration::from_secs(10),
            max_age: None,
            max_calls: None,
            max_rss: None,
            recycle_jitter: 0.2,
            replacements: 1,
            drain_timeout: None,
        }
    }
}

impl PoolSettings {
    pub(super) fn bounds(&self) -> Bounds {
        Bounds {
            min: self.min_workers.unwrap_or(self.workers),
            max: self.workers,
            spare: self.spare_workers,
            idle_timeout: self.idle_timeout,
        }
    }

    /// Everything that is wrong with them.
    ///
    /// # Errors
    /// A sentence for each.
    pub fn check(&self) -> Result<(), SettingsError> {
        let mut wrong = Vec::new();
        if !(1..=MAX_WORKERS).contains(&self.workers) {
            wrong.push(format!(
                "workers is {}, it must be 1 to {MAX_WORKERS}",
                self.workers
            ));
        }
        if self.min_workers.is_some_and(|min| min > self.workers) {
            wrong.push(format!(
                "min_workers is {}, it must not be more than workers, which is {}",
                self.min_workers.unwrap_or_default(),
                self.workers
            ));
        }
        if self.idle_timeout.is_zero() {
            wrong.push("idle_timeout is zero: a worker would be ended as soon as it is started".to_owned());
        }
        let zero = |time: Option<Duration>| time.is_some_and(|time| time.is_zero());
        if zero(self.deadline) {
            wrong
                .push("deadline is zero: every call would fail at once; use None for no deadline".to_owned());
        }
        if zero(self.run_timeout) {
            wrong.push(
                "run_timeout is zero: every call would be cancelled at once; use None for no timeout"
                    .to_owned(),
            );
        }
        for (function, _) in self.function_limits.iter().filter(|(_, limit)| **limit == 0) {
            wrong.push(format!(
                "the limit of function {function} is 0: it could never be called; it must be at least 1"
            ));
        }
        if self.attempts == 0 {
            wrong.push("attempts is 0: no call could be executed; it must be at least 1".to_owned());
        }
        if self.poison_limit == Some(0) {
            wrong.push("poison_limit is 0: it must be at least 1, or none at all (`None`, in a file \"none\") to refuse no call".to_owned());
        }
        if self.start_timeout.is_zero() {
            wrong.push("start_timeout is zero: no worker can be ready in that time".to_owned());
        }
        if zero(self.health_interval) {
            wrong.push(
                "health_interval is zero: a worker would do nothing else; use None for no checks".to_owned(),
            );
        }
        if self.health_timeout.is_zero() {
            wrong.push("health_timeout is zero: no worker could be healthy".to_owned());
        }
        if zero(self.max_age) {
            wrong.push(
                "max_age is zero: no worker could serve; no limit is `None`, in a file \"none\"".to_owned(),
            );
        }
        for (name, limit) in [("max_calls", self.max_calls), ("max_rss", self.max_rss)] {
            if limit == Some(0) {
                wrong.push(format!(
                    "{name} is 0: it must be at least 1; no limit is `None`, in a file \"none\""
                ));
            }
        }
        if !(0.0..=1.0).contains(&self.recycle_jitter) {
            wrong.push(format!(
                "recycle_jitter is {}, it must be 0 to 1",
                self.recycle_jitter
            ));
        }
        if self.replacements == 0 {
            wrong.push("replacements is 0: no worker could be replaced; it must be at least 1".to_owned());
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(SettingsError(wrong))
        }
    }
}
