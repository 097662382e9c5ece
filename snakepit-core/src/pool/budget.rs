//! How long a call may take, and what becomes of one that takes longer.

use std::{fmt, time::Duration};

use tokio::{sync::watch, time::Instant};

/// What bounds a call's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Budget {
    /// Over everything: queue, execution, retries.
    Deadline,
    /// From joining the queue to being handed to a worker.
    QueueTimeout,
    /// From being handed to a worker to the answer.
    RunTimeout,
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deadline => "deadline",
            Self::QueueTimeout => "queue timeout",
            Self::RunTimeout => "run timeout",
        })
    }
}

/// When a budget runs out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    pub(super) budget: Budget,
    pub(super) limit: Duration,
    pub(super) at: Instant,
}

impl Limit {
    /// A budget that begins now; one past the end of time is none.
    pub(super) fn new(budget: Budget, limit: Option<Duration>, now: Instant) -> Option<Self> {
        let limit = limit?;
        let at = now.checked_add(limit)?;
        Some(Self { budget, limit, at })
    }

    /// Whichever runs out first.
    pub(super) fn sooner(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(one), Some(other)) => Some(if other.at < one.at { other } else { one }),
            (one, other) => one.or(other),
        }
    }
}

/// What ended a call in its worker after it was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CancelOutcome {
    /// It had not begun, and never will.
    NeverBegan,
    /// It stopped by itself: user code took the cancel, or had finished in the meantime. The worker serves on.
    Stopped,
    /// It did not stop within the cancel grace: its worker was ended, and is replaced.
    WorkerReplaced,
    /// Its worker ended by itself meanwhile.
    WorkerLost,
}

impl fmt::Display for CancelOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NeverBegan => "it had not begun",
            Self::Stopped => "it stopped when it was cancelled",
            Self::WorkerReplaced => "it did not stop when it was cancelled, and its worker was replaced",
            Self::WorkerLost => "its worker ended",
        })
    }
}

/// A call that is being cancelled.
#[derive(Clone, Debug)]
pub(super) struct Cancelled {
    outcome: Result<watch::Receiver<Option<CancelOutcome>>, CancelOutcome>,
}

impl Cancelled {
    /// One that never was in a worker, or is over already.
    pub(super) fn over(outcome: CancelOutcome) -> Self {
        Self {
            outcome: Err(outcome),
        }
    }

    /// One whose end is told later.
    pub(super) fn new() -> (watch::Sender<Option<CancelOutcome>>, Self) {
        let (told, outcome) = watch::channel(None);
        let outcome = Ok(outcome);
        (told, Self { outcome })
    }

    pub(super) async fn outcome(&self) -> CancelOutcome {
        match &self.outcome {
            Err(outcome) => *outcome,
            Ok(told) => {
                let mut told = told.clone();
                let outcome = told.wait_for(Option::is_some).await;
                // Whoever would tell is gone with its runtime, and every worker with it.
                outcome
                    .ok()
                    .and_then(|outcome| *outcome)
                    .unwrap_or(CancelOutcome::WorkerLost)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_sooner_of_two_budgets_counts() {
        let now = Instant::now();
        let limit = |budget, seconds| Limit::new(budget, Some(Duration::from_secs(seconds)), now);
        let (deadline, run) = (limit(Budget::Deadline, 5), limit(Budget::RunTimeout, 3));
        assert_eq!(Limit::sooner(deadline, run).unwrap().budget, Budget::RunTimeout);
        assert_eq!(Limit::sooner(run, None).unwrap().budget, Budget::RunTimeout);
        assert_eq!(Limit::sooner(None, deadline).unwrap().budget, Budget::Deadline);
        assert!(Limit::new(Budget::Deadline, Some(Duration::MAX), now).is_none());
    }

    #[tokio::test]
    async fn an_outcome_is_told_to_all_who_ask_and_never_waited_for_in_vain() {
        let (told, cancelled) = Cancelled::new();
        let asked = tokio::spawn({
            let cancelled = cancelled.clone();
            async move { cancelled.outcome().await }
        });
        told.send_replace(Some(CancelOutcome::Stopped));
        assert_eq!(asked.await.unwrap(), CancelOutcome::Stopped);
        assert_eq!(cancelled.outcome().await, CancelOutcome::Stopped);
        let (told, cancelled) = Cancelled::new();
        drop(told);
        assert_eq!(cancelled.outcome().await, CancelOutcome::WorkerLost);
    }
}
