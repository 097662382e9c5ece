//! What is known of a call while it is made.

use std::{sync::Arc, time::Duration};

use snakepit_proto::v1::{CallRequest, CallResponse, call_response::Outcome};
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use super::{
    batch::BatchRefused,
    budget::{Budget, CancelOutcome, Cancelled, Limit},
    dispatch::{Aim, At, Dispatch, Refusal, Turn},
    error::{CallError, CallFailed, DeadlineExceeded, WorkerLost},
    lease::Lease,
    poison::Called,
    request::Request,
    settle::Settler,
};
use crate::{
    id::{SlotId, WorkerId},
    rpc::{RemoteError, codec::Encoded},
    worker::{Aside, BoxFuture, Down, DownReason, ItemStream, Received, TransportError, WorkerClient},
};

/// A worker that was lost during a call.
#[derive(Debug)]
pub(super) struct Loss {
    worker: WorkerId,
    pid: Option<u32>,
    slot: SlotId,
    call_id: Option<u64>,
    ran: Duration,
    down: JoinHandle<Down>,
}

/// What is known of a call while it is made.
#[derive(Debug)]
pub(super) struct Attempt {
    settler: Settler,
    function: Arc<str>,
    args: Encoded,
    kwargs: Encoded,
    deadline: Option<Limit>,
    queue_timeout: Option<Duration>,
    run_timeout: Option<Duration>,
    /// What bounds what is done now.
    limit: Option<Limit>,
    /// Since when it waits, or has waited.
    joined: Instant,
    /// How long it has waited in all.
    queued: Duration,
    /// The session it belongs to.
    aim: Option<Aim>,
    /// Whether it is many calls.
    batch: bool,
    begun: Option<(WorkerId, Instant)>,
    /// The workers it was executed on.
    attempts: u32,
    /// How many of them there may be.
    most_attempts: u32,
    /// The last of them that was lost.
    lost: Option<Box<WorkerLost>>,
    /// Whether another call can be the same as this one, so that what becomes of it tells of that one.
    comparable: bool,
}

impl Attempt {
    /// A call that is sent now.
    pub(super) fn new(request: Request<'_>) -> Result<Self, CallError> {
        let mut attempt = Self::of_its_own_kind(request);
        attempt.comparable = true;
        let suspects = &attempt.dispatch().rules().suspects;
        match suspects.admit(attempt.called(), attempt.joined) {
            Ok(()) => Ok(attempt),
            Err(poisoned) => Err(CallError::Poisoned(poisoned)),
        }
    }

    /// A call that is sent now and that has more to it than function and arguments: no other is known to be the same.
    pub(super) fn of_its_own_kind(request: Request<'_>) -> Self {
        let sent = Instant::now();
        let Request {
            pool,
            function,
            args,
            kwargs,
            deadline,
            queue_timeout,
            run_timeout,
            idempotent,
            aim,
            batch,
            ..
        } = request;
        let most_attempts = if idempotent {
            pool.shared.settings.attempts
        } else {
            1
        };
        Self {
            settler: Settler::new(&pool.shared),
            function,
            args,
            kwargs,
            deadline: Limit::new(Budget::Deadline, deadline, sent),
            queue_timeout,
            run_timeout,
            limit: None,
            joined: sent,
            queued: Duration::ZERO,
            aim,
            batch,
            begun: None,
            attempts: 0,
            most_attempts,
            lost: None,
            comparable: false,
        }
    }

    pub(super) fn settler(&self) -> Settler {
        self.settler.clone()
    }

    fn dispatch(&self) -> &Arc<Dispatch> {
        self.settler.dispatch()
    }

    fn called(&self) -> Called<'_> {
        Called {
            function: &self.function,
            args: &self.args.bytes,
            kwargs: &self.kwargs.bytes,
            aside: [self.args.aside(), self.kwargs.aside()],
        }
    }

    /// Awaits something for as long as the call may take; `None` when that was too long.
    pub(super) async fn within<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        match self.limit {
            Some(limit) => timeout_at(limit.at, work).await.ok(),
            None => Some(work.await),
        }
    }

    /// Waits for a worker.
    pub(super) async fn checkout(&mut self, turn: Turn) -> Result<Lease, CallError> {
        let queue_timeout = Limit::new(Budget::QueueTimeout, self.queue_timeout, self.joined);
        self.limit = Limit::sooner(self.deadline, queue_timeout);
        match self.within(self.lease(turn)).await {
            // Granted in the moment the deadline passed: what nobody waits for is not executed.
            Some(Ok(_))
                if self
                    .deadline
                    .is_some_and(|deadline| deadline.at <= Instant::now()) =>
            {
                self.limit = self.deadline;
                Err(self.never_begun())
            }
            Some(Ok(lease)) => Ok(lease),
            // There is no other worker for it: what is to be told is what became of the last one.
            Some(Err(refusal)) => Err(match self.lost.take() {
                Some(lost) => CallError::WorkerLost(lost),
                None => CallError::refused(self.dispatch().events().pool(), refusal),
            }),
            None => Err(self.never_begun()),
        }
    }

    async fn lease(&self, mut turn: Turn) -> Result<Lease, Refusal> {
        let dispatch = self.dispatch();
        let Some(limit) = dispatch.rules().functions.of(&self.function) else {
            return dispatch.checkout(turn, None).await;
        };
        let (permit, waits) = dispatch.permit(&limit, turn).await?;
        turn.accepted |= waits.is_some();
        let lease = dispatch.checkout(turn, waits).await?;
        Ok(lease.permitted(Some(permit)))
    }

    /// The call is handed to its worker now; returns its id there.
    pub(super) fn begin(&mut self, lease: &mut Lease) -> u64 {
        let now = Instant::now();
        let waited = now - self.joined;
        self.queued += waited;
        self.dispatch().latencies().waited.record(waited);
        self.begun = Some((lease.seat().worker.id(), now));
        self.attempts += 1;
        let run_timeout = Limit::new(Budget::RunTimeout, self.run_timeout, now);
        self.limit = Limit::sooner(self.deadline, run_timeout);
        lease.begin(now)
    }

    /// A batch is not for a worker that would take it for one call.
    pub(super) fn fits(&self, lease: &Lease) -> Result<(), CallError> {
        let worker = &lease.seat().worker;
        if !self.batch || worker.takes_batches() {
            return Ok(());
        }
        let (function, worker) = (Arc::clone(&self.function), worker.id());
        Err(BatchRefused { function, worker }.into())
    }

    pub(super) fn call_request(&self, call_id: u64) -> CallRequest {
        let left = self
            .limit
            .map(|limit| limit.at.saturating_duration_since(Instant::now()));
        let end_session = matches!(self.aim, Some(Aim { at: At::End(_), .. }));
        let function = if end_session { "" } else { &*self.function };
        CallRequest {
            call_id,
            function: function.to_owned(),
            args: self.args.bytes.clone(),
            kwargs: self.kwargs.bytes.clone(),
            deadline_us: left.map(|left| u64::try_from(left.as_micros()).unwrap_or(u64::MAX)),
            session: self.aim.map(|aim| aim.session.0),
            end_session,
            input_credit: 0,
            blocks: None,
            batch: self.batch,
        }
    }

    /// Large buffers of the arguments, if there are any.
    fn aside(&self) -> Option<Aside> {
        let any = self.args.has_aside() || self.kwargs.has_aside();
        any.then(|| Aside::new(self.args.clone(), self.kwargs.clone()))
    }

    /// Sends the call for its one result.
    pub(super) fn call(
        &self,
        client: &dyn WorkerClient,
        request: CallRequest,
    ) -> BoxFuture<Result<CallResponse, TransportError>> {
        match self.aside() {
            None => client.call(request),
            Some(aside) => client.call_with(request, aside),
        }
    }

    /// Sends the call for its items.
    pub(super) fn call_stream(
        &self,
        client: &dyn WorkerClient,
        request: CallRequest,
        credit: u32,
    ) -> BoxFuture<Result<ItemStream, TransportError>> {
        match self.aside() {
            None => client.call_stream(request, credit),
            Some(aside) => client.call_stream_with(request, aside, credit),
        }
    }

    /// It was not executed by the worker that it was handed to, and waits again.
    pub(super) fn unexecuted(&mut self) {
        self.attempts -= 1;
        self.wait_again(Instant::now());
    }

    fn wait_again(&mut self, now: Instant) {
        self.begun = None;
        self.joined = now;
    }

    /// Waits again, for another worker, if it may be executed once more; the error is final otherwise.
    pub(super) fn try_again(&mut self, error: CallError) -> Result<(), CallError> {
        let CallError::WorkerLost(lost) = error else {
            return Err(error);
        };
        let now = Instant::now();
        self.blame(&lost, now);
        let suspects = &self.dispatch().rules().suspects;
        if self.attempts >= self.most_attempts || suspects.admit(self.called(), now).is_err() {
            return Err(CallError::WorkerLost(lost));
        }
        tracing::info!(function = %self.function, error = %lost, "an idempotent call is executed again");
        self.lost = Some(lost);
        self.wait_again(now);
        Ok(())
    }

    /// [Explains](Self::explain) the loss of a worker on which the call was executed, and is not executed again.
    pub(super) async fn explain_for_good(&mut self, loss: &mut Loss) -> CallError {
        let error = self.explain(loss).await;
        if let CallError::WorkerLost(lost) = &error {
            self.blame(lost, Instant::now());
        }
        error
    }

    /// The call was executed when its worker ended by itself: maybe it is to blame.
    fn blame(&self, lost: &WorkerLost, now: Instant) {
        let by_itself = matches!(lost.down.reason, DownReason::Exited | DownReason::ChannelClosed);
        if let Some((_, begun)) = self.begun.filter(|_| by_itself && self.comparable) {
            let suspects = &self.dispatch().rules().suspects;
            suspects.died(self.called(), &lost.down, begun, now);
        }
    }

    pub(super) fn answer(&self, lease: &Lease, answer: CallResponse) -> Result<Received, CallError> {
        self.answered();
        match answer.outcome {
            Some(Outcome::Value(value)) => Ok(value.into()),
            Some(Outcome::Error(error)) => Err(self.failed(lease, error.into())),
            Some(Outcome::InArena(value)) => {
                let received = lease.seat().client.receive(value);
                received.map_err(|why| {
                    let why = format!("the worker answered a value that is none: {why}");
                    self.failed(lease, RemoteError::protocol(&why))
                })
            }
            None => Err(self.failed(
                lease,
                RemoteError::protocol("the worker answered without an outcome"),
            )),
        }
    }

    /// The worker has answered: it has survived the call.
    pub(super) fn answered(&self) {
        if self.comparable {
            self.dispatch().rules().suspects.answered(self.called());
        }
    }

    pub(super) fn failed(&self, lease: &Lease, error: RemoteError) -> CallError {
        let worker = &lease.seat().worker;
        let (function, pid) = (Arc::clone(&self.function), worker.pid());
        CallError::Failed(Box::new(CallFailed {
            function,
            worker: worker.id(),
            pid,
            error,
        }))
    }

    /// The worker refused a call since it is leaving.
    pub(super) fn leaving(&self, lease: Lease) {
        self.settler.leaving(lease);
    }

    /// The connection failed: the worker is lost, and why is told by its end.
    pub(super) fn lost(&self, lease: Lease, error: TransportError) -> Loss {
        tracing::debug!(function = %self.function, %error, "a worker's connection failed during a call");
        Loss {
            worker: lease.seat().worker.id(),
            pid: lease.seat().worker.pid(),
            slot: lease.seat().slot,
            call_id: lease.call_id(),
            ran: self.begun.map_or(Duration::ZERO, |(_, begun)| begun.elapsed()),
            down: self.settler.lost(lease, error),
        }
    }

    /// Waits for as long as the call may take to learn why a worker was lost. Cancel safe, until it has resolved.
    pub(super) async fn explain(&mut self, loss: &mut Loss) -> CallError {
        let Some(down) = self.within(&mut loss.down).await else {
            return self.overdue(Cancelled::over(CancelOutcome::WorkerLost));
        };
        // Only a runtime that is being shut down drops the task, and then all that is known is this.
        let down = down.unwrap_or_else(|_| Down {
            reason: DownReason::ChannelClosed,
            outcome: None,
            stderr_tail: String::new(),
        });
        CallError::WorkerLost(Box::new(WorkerLost {
            function: Arc::clone(&self.function),
            worker: loss.worker,
            pid: loss.pid,
            slot: loss.slot,
            call_id: loss.call_id,
            ran: loss.ran,
            attempts: self.attempts,
            down,
        }))
    }

    fn never_begun(&mut self) -> CallError {
        self.queued += self.joined.elapsed();
        self.overdue(Cancelled::over(CancelOutcome::NeverBegan))
    }

    /// A budget ran out.
    pub(super) fn overdue(&mut self, cancelled: Cancelled) -> CallError {
        let (budget, limit) = self.limit.map_or((Budget::Deadline, Duration::ZERO), |limit| {
            (limit.budget, limit.limit)
        });
        CallError::DeadlineExceeded(Box::new(DeadlineExceeded {
            function: Arc::clone(&self.function),
            budget,
            limit,
            queued: self.queued,
            ran: self.begun.map(|(worker, begun)| (worker, begun.elapsed())),
            lost: self.lost.take(),
            cancelled,
        }))
    }
}
