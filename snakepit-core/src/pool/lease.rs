//! The checkout guard: a worker lent to one call.

use std::{sync::Arc, time::Duration};

use super::dispatch::{Dispatch, Seat};
use crate::{
    clock::within,
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
}

impl Lease {
    pub(super) fn new(dispatch: Arc<Dispatch>, seat: Arc<Seat>) -> Self {
        Self {
            dispatch: Some(dispatch),
            seat,
        }
    }

    pub(super) fn seat(&self) -> &Seat {
        &self.seat
    }

    /// The worker, without giving it back.
    pub(super) fn defuse(mut self) -> Arc<Seat> {
        self.dispatch = None;
        Arc::clone(&self.seat)
    }

    /// The worker's connection failed: learns why, and makes sure that it is not called again.
    pub(super) async fn lost(self, error: TransportError) -> Down {
        // Not lent again from here on, however late its starter hears of it.
        self.seat.retire();
        let worker = &self.seat.worker;
        if let Some(down) = within(NEWS, worker.down()).await {
            return down;
        }
        worker.condemn(DownReason::ChannelFailed {
            message: error.message,
        });
        worker.down().await
    }

    /// The worker said that it is leaving: it is not lent again, and made to leave when it does not.
    pub(super) async fn leaving(self) {
        self.seat.retire();
        let worker = Arc::clone(&self.seat.worker);
        // Nothing runs on it: a shutdown that comes meanwhile need not wait for it, and ends it like any other.
        drop(self);
        if within(LEAVES, worker.down()).await.is_none() {
            worker.condemn(DownReason::StayedOn);
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
            self.seat.finish();
            dispatch.give_back(Arc::clone(&self.seat));
        }
    }
}
