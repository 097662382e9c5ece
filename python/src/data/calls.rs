//! Many calls over one stream, one after the other.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use snakepit_proto::v1::{CallRequest, CallResponse};
use tokio::sync::watch;
use tokio_stream::Stream;
use tonic::{Status, Streaming};

use super::named;
use crate::call::Engine;

type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The answers to the calls of a stream. The next call is taken off the stream when the one before it has been answered.
pub(crate) struct Calls {
    engine: Arc<Engine>,
    requests: Streaming<CallRequest>,
    running: Option<Pending<CallResponse>>,
    leaving: Pending<()>,
}

impl Calls {
    pub(super) fn new(
        engine: Arc<Engine>,
        requests: Streaming<CallRequest>,
        mut leaving: watch::Receiver<bool>,
    ) -> Self {
        Self {
            engine,
            requests,
            running: None,
            leaving: Box::pin(async move {
                // An error means that the connection is being closed.
                let _ = leaving.wait_for(|leaving| *leaving).await;
            }),
        }
    }
}

impl Stream for Calls {
    type Item = Result<CallResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(running) = &mut this.running {
                let response = ready!(running.as_mut().poll(cx));
                this.running = None;
                return Poll::Ready(Some(Ok(response)));
            }
            match Pin::new(&mut this.requests).poll_next(cx) {
                Poll::Ready(Some(Ok(request))) => {
                    let engine = Arc::clone(&this.engine);
                    this.running = Some(Box::pin(async move { engine.call(named(request)).await }));
                }
                Poll::Ready(Some(Err(status))) => return Poll::Ready(Some(Err(status))),
                Poll::Ready(None) => return Poll::Ready(None),
                // What is there is answered before the stream ends.
                Poll::Pending => {
                    ready!(this.leaving.as_mut().poll(cx));
                    return Poll::Ready(None);
                }
            }
        }
    }
}
