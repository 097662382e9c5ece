//! Asks workers, between their calls, whether they are healthy.

use std::{sync::Arc, time::Duration};

use snakepit_proto::v1::{CallRequest, CallResponse, call_error::Kind, call_response::Outcome};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use super::{
    dispatch::Dispatch, lease::Lease, replace::Replacer, seat::Seat, settings::PoolSettings,
    settle::CANCEL_AGAIN,
};
use crate::{
    clock::within,
    event::EventKind,
    id::WorkerId,
    rpc::{RemoteError, Value, codec},
    worker::{DownReason, TransportError, Unhealthy, WorkerClient},
};

/// A health check that is over.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HealthCheck {
    /// The worker that was asked.
    pub worker: WorkerId,
    /// How long ago it was over.
    pub age: Duration,
    /// How long it took.
    pub took: Duration,
    /// What it found.
    pub outcome: Result<(), Unhealthy>,
}

/// Checks workers that have a function for it.
#[derive(Debug)]
pub(super) struct Checker {
    replacer: Arc<Replacer>,
    limits: Limits,
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
struct Limits {
    check: Duration,
    cancel_grace: Duration,
}

/// What came of a check.
enum Verdict {
    Found(Result<(), Unhealthy>),
    /// It was not made: the worker would not, or the pool has ended meanwhile.
    NotAsked,
    Leaving,
    Lost(TransportError),
}

impl Checker {
    /// `None` where nothing is checked.
    pub(super) fn new(replacer: &Arc<Replacer>, settings: &PoolSettings) -> Option<Self> {
        settings.health_interval.map(|_| Self {
            replacer: Arc::clone(replacer),
            limits: Limits {
                check: settings.health_timeout,
                cancel_grace: settings.cancel_grace,
            },
        })
    }

    /// Goes on until the pool is ended.
    pub(super) async fn run(self) {
        let dispatch = self.replacer.dispatch();
        let mut checks = JoinSet::new();
        loop {
            let (leases, next) = dispatch.checks_due(Instant::now());
            for lease in leases {
                let (replacer, dispatch) = (Arc::clone(&self.replacer), Arc::clone(dispatch));
                checks.spawn(check(lease, self.limits, replacer, dispatch));
            }
            tokio::select! {
                biased;
                () = self.replacer.stopped() => break,
                Some(done) = checks.join_next(), if !checks.is_empty() => if let Err(error) = done {
                    // A defect, or the runtime is being shut down.
                    tracing::error!(%error, "a worker could not be checked");
                },
                () = dispatch.may_be_checked() => {}
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
        dispatch.end_checks();
        while checks.join_next().await.is_some() {}
    }
}

/// Checks a worker, and condemns it if it is not healthy.
async fn check(lease: Lease, limits: Limits, replacer: Arc<Replacer>, dispatch: Arc<Dispatch>) {
    let began = Instant::now();
    let (slot, worker) = (lease.seat().slot, lease.seat().worker.id());
    let found = match ask(lease.seat(), limits, replacer.stopped()).await {
        Verdict::Found(found) => found,
        Verdict::NotAsked => return,
        Verdict::Leaving => return lease.leaving().await,
        Verdict::Lost(error) => return drop(lease.lost(error).await),
    };
    if found.is_err() {
        // Not lent from here on.
        lease.seat().retire();
    }
    let check = dispatch.checked(slot, worker, began, found.clone());
    dispatch.events().emit(EventKind::HealthChecked {
        slot,
        worker,
        took: check.took,
        outcome: found.clone(),
    });
    if let Err(unhealthy) = found {
        // Calls that it runs besides may be over soon. What does not stop cannot be waited for.
        let _ = within(limits.check, dispatch.has_only_its_check(lease.seat())).await;
        lease.condemn(DownReason::Unhealthy(unhealthy));
    }
}

async fn ask(seat: &Seat, limits: Limits, stopped: impl Future<Output = ()>) -> Verdict {
    let Some((call_id, function)) = seat.next_check() else {
        return Verdict::NotAsked;
    };
    let mut answer = seat.client.call(CallRequest {
        call_id,
        function: function.to_owned(),
        deadline_us: Some(u64::try_from(limits.check.as_micros()).unwrap_or(u64::MAX)),
        ..CallRequest::default()
    });
    let (answer, limit) = tokio::select! {
        biased;
        answer = within(limits.check, &mut answer) => (answer, limits.check),
        // Calls that were accepted may need the worker.
        () = stopped => {
            let answer = tokio::select! {
                biased;
                answer = within(limits.cancel_grace, &mut answer) => answer,
                () = cancel(&*seat.client, call_id) => None,
            };
            (answer, limits.cancel_grace)
        }
    };
    answer.map_or_else(|| Verdict::Found(Err(overran(limit))), judge)
}

/// Cancels a check until it is over, which others notice.
async fn cancel(client: &dyn WorkerClient, call_id: u64) {
    loop {
        // An error is the worker's end, or comes again.
        let _ = client.cancel(call_id).await;
        sleep(CANCEL_AGAIN).await;
    }
}

fn overran(limit: Duration) -> Unhealthy {
    Unhealthy::because(format!("its health check did not end within {limit:?}"))
}

/// What an answer means.
fn judge(answer: Result<CallResponse, TransportError>) -> Verdict {
    let outcome = match answer {
        Ok(answer) => answer.outcome,
        Err(error) => return Verdict::Lost(error),
    };
    let unhealthy = match outcome {
        Some(Outcome::Value(value)) => match codec::decode(&value) {
            Ok(Value::Nil | Value::Bool(true)) => return Verdict::Found(Ok(())),
            Ok(Value::Bool(false)) => Unhealthy::because("its health check answered false"),
            Ok(Value::Str(reason)) => Unhealthy::because(reason),
            Ok(other) => Unhealthy::because(format!("its health check answered {other:?}")),
            Err(error) => Unhealthy::because(format!("its health check answered nonsense: {error}")),
        },
        Some(Outcome::Error(error)) => match error.kind() {
            Kind::ShuttingDown => return Verdict::Leaving,
            Kind::Busy | Kind::Cancelled => return Verdict::NotAsked,
            _ => RemoteError::from(error).into(),
        },
        Some(Outcome::InArena(_)) => Unhealthy::because("its health check answered an array or bytes"),
        None => Unhealthy::because("its health check was answered without an outcome"),
    };
    Verdict::Found(Err(unhealthy))
}
