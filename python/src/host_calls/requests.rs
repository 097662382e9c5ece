//! The worker's half of the stream to the host.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use snakepit_proto::v1::HostRequest;
use tokio_stream::Stream;
use tonic::Status;

use crate::shared::Shared;

/// Requests as the connection takes them: a call leaves its queue only then, so that a host which does not read makes callers
/// wait and not the queue grow.
#[derive(Debug)]
pub(crate) struct Requests {
    shared: Arc<Shared>,
    number: u64,
}

impl Requests {
    /// Those of the stream with this number.
    pub(crate) const fn new(shared: Arc<Shared>, number: u64) -> Self {
        Self { shared, number }
    }
}

impl Stream for Requests {
    type Item = Result<HostRequest, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.shared.host_calls.next(self.number, cx.waker());
        next.map(|request| request.map(Ok))
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.shared.host_calls.lost(self.number);
    }
}
