//! One call, from its settings to its answer.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use snakepit_proto::v1::{CallRequest, CallResponse, call_error::Kind, call_response::Outcome};
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};

use super::{
    Pool,
    dispatch::Turn,
    error::{CallError, CallFailed, DeadlineExceeded, WorkerLost},
    lease::Lease,
    settle::{Settler, Underway},
    stream::Items,
};
use crate::{
    id::{SlotId, WorkerId},
    rpc::{CodecError, MAX_MESSAGE_LEN, RemoteError, codec},
    worker::{Down, DownReason, TransportError},
};

/// Items a stream's producer may be ahead of its consumer. Default 16: enough to hide the way there and back, few enough
/// that an early drop wastes little.
const CREDIT: u32 = 16;

/// Bytes of a message besides the function's name and the arguments: ids, lengths, tags.
const OTHER_FIELDS: usize = 128;

/// How long a call waits in a worker for the one before it. That one was expected to be short.
const PATIENCE: Duration = Duration::from_millis(2);

/// A call being prepared.
#[derive(Clone, Debug)]
#[must_use = "a request does nothing until it is sent"]
pub struct Request<'a> {
    pool: &'a Pool,
    function: Arc<str>,
    args: Bytes,
    kwargs: Bytes,
    deadline: Option<Duration>,
    credit: u32,
}

impl<'a> Request<'a> {
    pub(super) fn new(pool: &'a Pool, function: Arc<str>) -> Self {
        let deadline = pool.shared.settings.deadline;
        Self {
            pool,
            function,
            args: Bytes::new(),
            kwargs: Bytes::new(),
            deadline,
            credit: CREDIT,
        }
    }

    /// Sets the positional arguments: a tuple or another sequence, `()` for none.
    ///
    /// # Errors
    /// When they cannot be represented, or are no sequence.
    pub fn args<T: Serialize + ?Sized>(self, args: &T) -> Result<Self, CodecError> {
        Ok(Self {
            args: codec::encode_args(args)?,
            ..self
        })
    }

    /// Sets the keyword arguments: a map with string keys, or a struct.
    ///
    /// # Errors
    /// When they cannot be represented, or are no map.
    pub fn kwargs<T: Serialize + ?Sized>(self, kwargs: &T) -> Result<Self, CodecError> {
        Ok(Self {
            kwargs: codec::encode_kwargs(kwargs)?,
            ..self
        })
    }

    /// Sets the deadline over queue and execution, counted from sending; zero has passed at once and executes nothing. Default: the pool's.
    pub fn deadline(self, deadline: Duration) -> Self {
        Self {
            deadline: Some(deadline),
            ..self
        }
    }

    /// Lifts the deadline.
    pub fn no_deadline(self) -> Self {
        Self {
            deadline: None,
            ..self
        }
    }

    /// Sets how many items a stream's producer may be ahead of its consumer; at least 1. Default 16.
    pub fn credit(self, items: u32) -> Self {
        Self {
            credit: items.max(1),
            ..self
        }
    }

    /// Makes the call and decodes its result.
    ///
    /// # Errors
    /// See [`CallError`]. The call is executed at most once.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call: one that waits is never executed, one that runs is interrupted.
    pub async fn send<R: DeserializeOwned>(self) -> Result<R, CallError> {
        let value = self.send_raw().await?;
        Ok(codec::decode(&value)?)
    }

    /// Makes the call and returns its result as it came, MessagePack encoded.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    pub async fn send_raw(self) -> Result<Bytes, CallError> {
        self.check_len()?;
        let mut attempt = Attempt::new(self);
        let mut turn = Turn {
            ahead: true,
            first: false,
        };
        loop {
            // What comes round again was not executed.
            attempt.begun = None;
            let mut lease = attempt.checkout(turn).await?;
            turn.first = true;
            let call_id = attempt.begin(&mut lease);
            let work = lease.seat().client.call(attempt.call_request(call_id));
            let mut underway = Underway::new(attempt.settler.clone(), lease, call_id, work);
            let Some(answer) = attempt.within(attended(&mut underway)).await else {
                // Dropping what is under way cancels the call and gives the worker back when it has stopped.
                return Err(attempt.overdue());
            };
            match answer {
                // The call before it takes long: some other worker may be free sooner.
                None => {}
                Some(Ok(answer)) if is_shutting_down(&answer) => {
                    // Certainly not executed. That worker is leaving, so each turn takes another one.
                    attempt.leaving(underway.finish());
                }
                Some(Ok(answer)) => return attempt.answer(underway.finish(), answer),
                Some(Err(error)) => {
                    let lease = underway.finish();
                    let worker = Arc::clone(&lease.seat().worker);
                    let mut loss = attempt.lost(lease, error);
                    let error = attempt.explain(&mut loss).await;
                    // What a worker that has ended did not begin was certainly not executed.
                    let ended = matches!(&error, CallError::WorkerLost(lost) if lost.down.outcome.is_some());
                    if !ended || worker.has_begun(call_id) != Some(false) {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Makes the call and returns what it yields, item by item. The deadline holds for the whole stream.
    ///
    /// # Errors
    /// When no worker was to be had, or the arguments are too large. What goes wrong later is an item.
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    pub async fn stream<T: DeserializeOwned>(self) -> Result<Items<T>, CallError> {
        self.check_len()?;
        let credit = self.credit;
        let mut attempt = Attempt::new(self);
        let mut lease = attempt
            .checkout(Turn {
                ahead: false,
                first: false,
            })
            .await?;
        let call_id = attempt.begin(&mut lease);
        let request = attempt.call_request(call_id);
        let work = lease.seat().client.call_stream(request, credit);
        let mut underway = Underway::new(attempt.settler.clone(), lease, call_id, work);
        match attempt.within(underway.work()).await {
            Some(Ok(stream)) => Ok(Items::new(attempt, underway.into_stream(stream), credit)),
            Some(Err(error)) => {
                let mut loss = attempt.lost(underway.finish(), error);
                Err(attempt.explain(&mut loss).await)
            }
            None => Err(attempt.overdue()),
        }
    }
}

impl Request<'_> {
    /// What does not fit into a message would fail in the connection, as if the worker were to blame.
    fn check_len(&self) -> Result<(), CodecError> {
        let len = self.args.len() + self.kwargs.len();
        let limit = MAX_MESSAGE_LEN.saturating_sub(self.function.len() + OTHER_FIELDS);
        if len > limit {
            return Err(CodecError::TooLarge { len, limit });
        }
        Ok(())
    }
}

/// The answer of a call; `None` when it had to wait in its worker for too long and was taken back, unexecuted.
async fn attended(underway: &mut Underway<CallResponse>) -> Option<Result<CallResponse, TransportError>> {
    if underway.can_share() {
        if let Ok(answer) = timeout(PATIENCE, underway.work()).await {
            return Some(answer);
        }
        if underway.recall().await {
            return None;
        }
    }
    Some(underway.work().await)
}

fn is_shutting_down(answer: &CallResponse) -> bool {
    matches!(&answer.outcome, Some(Outcome::Error(error)) if error.kind() == Kind::ShuttingDown)
}

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
    pool: Arc<str>,
    settler: Settler,
    function: Arc<str>,
    args: Bytes,
    kwargs: Bytes,
    deadline: Option<(Duration, Instant)>,
    sent: Instant,
    begun: Option<(WorkerId, Instant)>,
}

impl Attempt {
    fn new(request: Request<'_>) -> Self {
        let sent = Instant::now();
        let Request {
            pool,
            function,
            args,
            kwargs,
            deadline,
            ..
        } = request;
        // A deadline past the end of time is none.
        let deadline = deadline.and_then(|deadline| Some((deadline, sent.checked_add(deadline)?)));
        let settler = Settler::new(&pool.shared);
        Self {
            pool: pool.name().into(),
            settler,
            function,
            args,
            kwargs,
            deadline,
            sent,
            begun: None,
        }
    }

    /// Awaits something until the deadline; `None` when that passed first.
    pub(super) async fn within<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        match self.deadline {
            Some((_, at)) => timeout_at(at, work).await.ok(),
            None => Some(work.await),
        }
    }

    async fn checkout(&self, turn: Turn) -> Result<Lease, CallError> {
        match self.within(self.settler.dispatch().checkout(turn)).await {
            // Granted in the moment the deadline passed: what nobody waits for is not executed.
            Some(Ok(_)) if self.deadline.is_some_and(|(_, at)| at <= Instant::now()) => Err(self.overdue()),
            Some(granted) => granted.map_err(|refusal| CallError::refused(&self.pool, refusal)),
            None => Err(self.overdue()),
        }
    }

    fn begin(&mut self, lease: &mut Lease) -> u64 {
        let now = Instant::now();
        self.begun = Some((lease.seat().worker.id(), now));
        lease.begin(now)
    }

    fn call_request(&self, call_id: u64) -> CallRequest {
        let left = self
            .deadline
            .map(|(_, at)| at.saturating_duration_since(Instant::now()));
        CallRequest {
            call_id,
            function: self.function.as_ref().to_owned(),
            args: self.args.clone(),
            kwargs: self.kwargs.clone(),
            deadline_us: left.map(|left| u64::try_from(left.as_micros()).unwrap_or(u64::MAX)),
        }
    }

    fn answer(&self, lease: Lease, answer: CallResponse) -> Result<Bytes, CallError> {
        match answer.outcome {
            Some(Outcome::Value(value)) => Ok(value),
            Some(Outcome::Error(error)) => Err(self.failed(&lease, error.into())),
            None => Err(self.failed(
                &lease,
                RemoteError::protocol("the worker answered without an outcome"),
            )),
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

    /// Waits until the deadline to learn why a worker was lost. Cancel safe, until it has resolved.
    pub(super) async fn explain(&self, loss: &mut Loss) -> CallError {
        let Some(down) = self.within(&mut loss.down).await else {
            return self.overdue();
        };
        CallError::WorkerLost(Box::new(WorkerLost {
            function: Arc::clone(&self.function),
            worker: loss.worker,
            pid: loss.pid,
            slot: loss.slot,
            call_id: loss.call_id,
            ran: loss.ran,
            // Only a runtime that is being shut down drops the task, and then all that is known is this.
            down: down.unwrap_or_else(|_| Down {
                reason: DownReason::ChannelClosed,
                outcome: None,
                stderr_tail: String::new(),
            }),
        }))
    }

    pub(super) fn overdue(&self) -> CallError {
        let begun = self.begun.map_or_else(Instant::now, |(_, begun)| begun);
        CallError::DeadlineExceeded(Box::new(DeadlineExceeded {
            function: Arc::clone(&self.function),
            deadline: self.deadline.map_or(Duration::ZERO, |(deadline, _)| deadline),
            queued: begun - self.sent,
            ran: self.begun.map(|(worker, begun)| (worker, begun.elapsed())),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::Events, testing::FakeWorkerFactory};

    #[tokio::test]
    async fn arguments_that_no_message_can_hold_are_refused_before_anything_is_sent() {
        let factory = Arc::new(FakeWorkerFactory::new());
        let pool = Pool::builder(factory.clone(), Events::new("test")).workers(1);
        let pool = pool.start().await.unwrap();
        let mut request = pool.request("f");
        // Never written to, so it takes no memory.
        request.args = vec![0; MAX_MESSAGE_LEN - OTHER_FIELDS].into();
        let error = request.clone().send_raw().await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the arguments take 2147483519 bytes, a message can hold 2147483518"
        );
        assert!(!error.may_have_executed());
        assert!(request.stream::<()>().await.is_err());
        let worker = factory.worker(SlotId(0)).unwrap();
        assert!(worker.fake_client().requests().is_empty());
        pool.shutdown().await;
    }
}
