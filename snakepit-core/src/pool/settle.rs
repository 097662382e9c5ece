//! Calls whose caller has left: they are cancelled, and their worker is given back only when they have stopped.

use std::{
    fmt,
    future::{poll_fn, ready},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use snakepit_proto::v1::{CallResponse, call_error::Kind, call_response::Outcome};
use tokio::{
    task::{JoinHandle, unconstrained},
    time::sleep,
};
use tokio_util::task::TaskTracker;

use super::{
    Shared,
    budget::{CancelOutcome, Cancelled},
    dispatch::{Dispatch, Returning},
    lease::Lease,
};
use crate::{
    event::EventKind,
    worker::{BoxFuture, Down, DownReason, Feed, ItemStream, TransportError, WorkerClient},
};

/// A cancel can overtake what it is for, since they travel on different connections; it is sent again.
pub(super) const CANCEL_AGAIN: Duration = Duration::from_millis(50);

/// What it takes to settle a call without its caller, and without keeping the pool alive.
#[derive(Clone, Debug)]
pub(super) struct Settler {
    dispatch: Arc<Dispatch>,
    tasks: TaskTracker,
    runtime: tokio::runtime::Handle,
    grace: Duration,
}

impl Settler {
    pub(super) fn new(shared: &Shared) -> Self {
        Self {
            dispatch: Arc::clone(&shared.dispatch),
            tasks: shared.settling.clone(),
            runtime: shared.runtime.clone(),
            grace: shared.settings.cancel_grace,
        }
    }

    pub(super) fn dispatch(&self) -> &Arc<Dispatch> {
        &self.dispatch
    }

    /// Learns why a worker's connection failed, also when whoever wants to know has left: the worker would be neither lent
    /// nor replaced otherwise.
    pub(super) fn lost(&self, lease: Lease, error: TransportError) -> JoinHandle<Down> {
        self.tasks.spawn_on(lease.lost(error), &self.runtime)
    }

    /// Takes a worker that is leaving out of service.
    pub(super) fn leaving(&self, lease: Lease) {
        self.runtime.spawn(lease.leaving());
    }

    fn spawn(&self, lease: Lease, call_id: u64, end: BoxFuture<Result<(), TransportError>>) -> Cancelled {
        let (grace, dispatch) = (self.grace, Arc::clone(&self.dispatch));
        let (told, cancelled) = Cancelled::new();
        let (slot, worker) = (lease.seat().slot, lease.seat().worker.id());
        let settled = async move {
            let outcome = settle(lease, call_id, end, grace).await;
            dispatch.events().emit(EventKind::CallCancelled {
                slot,
                worker,
                call_id,
                outcome,
            });
            told.send_replace(Some(outcome));
        };
        self.tasks.spawn_on(settled, &self.runtime);
        cancelled
    }
}

/// What is held while a call is in a worker.
struct Held<W> {
    lease: Lease,
    /// What is awaited, or read.
    work: W,
    /// Its input: nobody reads that any more when the call is over, however that came about.
    feed: Option<Feed>,
}

/// What the work of a call resolves to first.
pub(super) trait Begun: Send + 'static {
    /// Resolves when the call is over.
    fn read_out(
        self,
        client: Arc<dyn WorkerClient>,
    ) -> impl Future<Output = Result<(), TransportError>> + Send + 'static;
}

impl Begun for CallResponse {
    /// Gives a large result back to the worker, which would hold it for ever otherwise.
    async fn read_out(self, client: Arc<dyn WorkerClient>) -> Result<(), TransportError> {
        if let Some(Outcome::InArena(value)) = self.outcome {
            // Nobody wants it, nor what may be wrong with it.
            drop(client.receive(value));
        }
        Ok(())
    }
}

impl Begun for ItemStream {
    /// Grants nothing more; items that are under way are read and thrown away: the stream's end is the producer's.
    async fn read_out(self, _: Arc<dyn WorkerClient>) -> Result<(), TransportError> {
        let Self { mut items, credit } = self;
        drop(credit);
        while let Some(item) = items.recv().await {
            item?;
        }
        Ok(())
    }
}

/// A call in a worker. Dropped before it is finished, it is settled in the background.
pub(super) struct Underway<T: Begun> {
    settler: Settler,
    /// `None` once finished.
    held: Option<Held<BoxFuture<Result<T, TransportError>>>>,
    call_id: u64,
}

impl<T: Begun> Underway<T> {
    pub(super) fn new(
        settler: Settler,
        lease: Lease,
        call_id: u64,
        work: BoxFuture<Result<T, TransportError>>,
    ) -> Self {
        let feed = None;
        Self {
            settler,
            held: Some(Held { lease, work, feed }),
            call_id,
        }
    }

    /// The call has input, which is open for as long as it is under way.
    pub(super) fn fed(mut self, feed: Feed) -> Self {
        if let Some(held) = &mut self.held {
            held.feed = Some(feed);
        }
        self
    }

    /// What is awaited; once it has resolved, [`finish`](Self::finish).
    pub(super) async fn work(&mut self) -> Result<T, TransportError> {
        match &mut self.held {
            Some(held) => (&mut held.work).await,
            None => std::future::pending().await,
        }
    }

    /// Cancels the call, in the background.
    pub(super) fn abandon(&mut self) -> Cancelled {
        match self.held.take() {
            Some(Held { lease, work, .. }) => {
                let client = Arc::clone(&lease.seat().client);
                let end = Box::pin(async move { work.await?.read_out(client).await });
                self.settler.spawn(lease, self.call_id, end)
            }
            None => Cancelled::over(CancelOutcome::NeverBegan),
        }
    }

    /// What is awaited, as long as no other call can be before this one in the worker; `None` when one may be. The first poll sends
    /// it, and whoever comes later waits behind it.
    pub(super) async fn work_alone(&mut self) -> Option<Result<T, TransportError>> {
        let Held { lease, work, .. } = self.held.as_mut()?;
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if lease.shares() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// The worker, after the work has resolved.
    pub(super) fn finish(mut self) -> Lease {
        self.release().lease
    }

    fn release(&mut self) -> Held<BoxFuture<Result<T, TransportError>>> {
        match self.held.take() {
            Some(held) => held,
            None => unreachable!("whoever takes it takes self with it"),
        }
    }

    /// Goes on with the stream that the work resolved to.
    pub(super) fn into_stream(mut self, stream: ItemStream) -> StreamUnderway {
        let Held { lease, feed, .. } = self.release();
        let work = stream;
        StreamUnderway {
            settler: self.settler.clone(),
            held: Some(Held { lease, work, feed }),
            call_id: self.call_id,
        }
    }
}

impl Underway<CallResponse> {
    /// Takes the call back from its worker if it waits there behind another, and that is certain. It is over then, without a
    /// result.
    pub(super) async fn recall(&mut self) -> Option<Returning> {
        let Held { lease, work, .. } = self.held.as_mut()?;
        let has_not_begun = lease.waits_behind()
            && lease.seat().client.recall(self.call_id).await.is_ok()
            && lease.has_not_begun();
        if !has_not_begun {
            return None;
        }
        // Of a call that ended many calls ago, while the worker was asked, the journal knows nothing any more. Its answer is
        // here then: those of the calls after it, which made room for others, came later on the same connection.
        if let Some(answer) = at_once(work).await
            && !is_refusal(&answer)
        {
            *work = Box::pin(ready(answer));
            return None;
        }
        let Held { lease, .. } = self.held.take()?;
        let returning = lease.returning();
        lease.forgo();
        returning
    }
}

impl<T: Begun> fmt::Debug for Underway<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Underway")
            .field("call_id", &self.call_id)
            .finish_non_exhaustive()
    }
}

impl<T: Begun> Drop for Underway<T> {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// A stream in a worker. Dropped before its end, it is settled in the background.
pub(super) struct StreamUnderway {
    settler: Settler,
    /// `None` once finished.
    held: Option<Held<ItemStream>>,
    call_id: u64,
}

impl StreamUnderway {
    pub(super) fn call_id(&self) -> u64 {
        self.call_id
    }

    /// The stream, until it is finished.
    pub(super) fn stream(&mut self) -> Option<&mut ItemStream> {
        self.held.as_mut().map(|held| &mut held.work)
    }

    /// The worker, until the stream is finished.
    pub(super) fn lease(&self) -> Option<&Lease> {
        self.held.as_ref().map(|held| &held.lease)
    }

    /// Cancels what is left of the stream, in the background.
    pub(super) fn abandon(&mut self) -> Cancelled {
        if let Some(Held { lease, work, .. }) = self.held.take() {
            let end = work.read_out(Arc::clone(&lease.seat().client));
            self.settler.spawn(lease, self.call_id, Box::pin(end))
        } else {
            Cancelled::over(CancelOutcome::Stopped)
        }
    }

    /// The worker, after the stream has ended; `None` the second time.
    pub(super) fn finish(&mut self) -> Option<Lease> {
        self.held.take().map(|held| held.lease)
    }
}

impl fmt::Debug for StreamUnderway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamUnderway")
            .field("call_id", &self.call_id)
            .finish_non_exhaustive()
    }
}

impl Drop for StreamUnderway {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// What a future has come to, if it has.
async fn at_once<T>(work: &mut BoxFuture<T>) -> Option<T> {
    // A task that has used up its share of the time would be told that nothing is there.
    let look = unconstrained(work);
    tokio::pin!(look);
    poll_fn(|cx| match look.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Whether that is how a worker answers a call that was taken back.
fn is_refusal(answer: &Result<CallResponse, TransportError>) -> bool {
    let outcome = answer.as_ref().ok().and_then(|answer| answer.outcome.as_ref());
    matches!(outcome, Some(Outcome::Error(error)) if error.kind() == Kind::Cancelled)
}

/// Cancels a call until it ends; a worker in which it does not end is condemned.
async fn settle(
    lease: Lease,
    call_id: u64,
    mut end: BoxFuture<Result<(), TransportError>>,
    grace: Duration,
) -> CancelOutcome {
    let client = Arc::clone(&lease.seat().client);
    let cancel = async {
        loop {
            // Where it cannot be told whether the call has begun, its end is what tells that the cancel arrived.
            if client.cancel(call_id).await.is_ok() && lease.has_not_begun() {
                return;
            }
            sleep(CANCEL_AGAIN).await;
        }
    };
    tokio::select! {
        // A call that ended meanwhile needs no cancel.
        biased;
        ended = &mut end => {
            if let Err(error) = ended {
                lease.lost(error).await;
                return CancelOutcome::WorkerLost;
            }
            CancelOutcome::Stopped
        }
        () = sleep(grace) => {
            lease.condemn(DownReason::CallOverran { call_id, grace });
            CancelOutcome::WorkerReplaced
        }
        () = cancel => {
            lease.forgo();
            CancelOutcome::NeverBegan
        }
    }
}
