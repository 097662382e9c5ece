//! The checkout guard: a worker lent to one call, or out for its health check.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    dispatch::{Aim, At, Dispatch, Returning},
    limits::Permit,
    seat::Seat,
};
use crate::{
    clock::within,
    id::SessionId,
    worker::{Down, DownReason, TransportError},
};

/// A connection that failed is followed by the news of why within this time, or the worker is ended.
const NEWS: Duration = Duration::from_secs(2);

/// A worker that is leaving has left within this time, stop hooks included, or is ended.
const LEAVES: Duration = Duration::from_secs(5);

/// A worker lent to one call; dropping it gives the worker back.
#[derive(Debug)]
pub(super) struct Lease {
    /// `None` once it must not give the worker back.
    dispatch: Option<Arc<Dispatch>>,
    seat: Arc<Seat>,
    /// The session whose calls it is counted among.
    session: Option<SessionId>,
    /// The call, once it was sent.
    call_id: Option<u64>,
    /// To execute a function that is limited; given back with the worker.
    permit: Option<Permit>,
    /// What it is lent for.
    check: bool,
}

impl Lease {
    /// Made under the pool's lock.
    pub(super) fn new(dispatch: Arc<Dispatch>, seat: Arc<Seat>, aim: Option<Aim>) -> Self {
        seat.lend();
        let of_session = aim.filter(|aim| matches!(aim.at, At::Mode(_)));
        Self {
            dispatch: Some(dispatch),
            seat,
            session: of_session.map(|aim| aim.session),
            call_id: None,
            permit: None,
            check: false,
        }
    }

    /// Of a worker that the pool has taken out for its health check.
    pub(super) fn for_check(dispatch: Arc<Dispatch>, seat: Arc<Seat>) -> Self {
        Self {
            dispatch: Some(dispatch),
            seat,
            session: None,
            call_id: None,
            permit: None,
            check: true,
        }
    }

    /// Takes the permit for what is executed.
    pub(super) fn permitted(mut self, permit: Option<Permit>) -> Self {
        self.permit = permit;
        self
    }

    /// Whether the call may have to wait in the worker for another one.
    pub(super) fn shares(&self) -> bool {
        self.seat.concurrency() == 1 && self.seat.is_shared()
    }

    /// Whether the call waits in the worker for another one. Which of them came first is the worker's to say: they were
    /// sent by different tasks.
    pub(super) fn waits_behind(&self) -> bool {
        self.seat.is_shared() && self.has_not_begun()
    }

    /// The call is sent now; returns its id.
    pub(super) fn begin(&mut self, now: Instant) -> u64 {
        let call_id = self.seat.begin(now);
        self.call_id = Some(call_id);
        if self.seat.is_last(call_id)
            && let Some(dispatch) = &self.dispatch
        {
            dispatch.look_for_due();
        }
        call_id
    }

    /// Whether the call has certainly not begun; `false` also when that cannot be told.
    pub(super) fn has_not_begun(&self) -> bool {
        self.call_id
            .is_some_and(|call_id| self.seat.worker.has_begun(call_id) == Some(false))
    }

    /// The id of the call, once it was sent.
    pub(super) fn call_id(&self) -> Option<u64> {
        self.call_id
    }

    pub(super) fn seat(&self) -> &Arc<Seat> {
        &self.seat
    }

    /// Undoes the lending, under the pool's lock, as if it had never been.
    pub(super) fn defuse(mut self) {
        self.dispatch = None;
        self.seat.take_back();
    }

    /// The call goes on without this worker; made before the worker is given back.
    pub(super) fn returning(&self) -> Option<Returning> {
        self.dispatch.as_ref().map(Dispatch::returning)
    }

    /// The call was taken back from the worker and never runs.
    pub(super) fn forgo(mut self) {
        if let Some(call_id) = self.call_id.take() {
            self.seat.forgo(call_id);
        }
    }

    /// The worker's connection failed: learns why, and makes sure that it is not called again.
    pub(super) fn lost(self, error: TransportError) -> impl Future<Output = Down> + Send + 'static {
        // Not lent again from here on, however late its starter hears of it and whenever the future is polled.
        self.seat.retire();
        async move {
            let worker = &self.seat.worker;
            if let Some(down) = within(NEWS, worker.down()).await {
                return down;
            }
            worker.condemn(DownReason::ChannelFailed {
                message: error.message,
            });
            worker.down().await
        }
    }

    /// The worker said that it is leaving: it is not lent again, and made to leave when it does not.
    pub(super) fn leaving(self) -> impl Future<Output = ()> + Send + 'static {
        // Before the call asks for another worker: this one may have room for it.
        self.seat.retire();
        let worker = Arc::clone(&self.seat.worker);
        // This call does not run on it: a shutdown that comes meanwhile need not wait for it, and ends it like any other.
        drop(self);
        async move {
            if within(LEAVES, worker.down()).await.is_none() {
                worker.condemn(DownReason::StayedOn);
            }
        }
    }

    /// Declares the worker unfit; its starter replaces it.
    pub(super) fn condemn(self, reason: DownReason) {
        self.seat.retire();
        self.seat.worker.condemn(reason);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(dispatch) = self.dispatch.take() {
            if let Some(call_id) = self.call_id.take() {
                let ran = self.seat.finish(call_id, Instant::now());
                dispatch.latencies().ran.record(ran);
            }
            self.permit = None;
            if self.check {
                return dispatch.back_from_check(Arc::clone(&self.seat));
            }
            dispatch.give_back(Arc::clone(&self.seat), self.session);
        }
    }
}
