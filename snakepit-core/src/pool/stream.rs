//! What a stream yields.

use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use snakepit_proto::v1::{StreamResponse, call_error::Kind, stream_response::Message};

use super::{
    attempt::{Attempt, Loss},
    error::CallError,
    settle::StreamUnderway,
};
use crate::rpc::{RemoteError, codec};

/// The items of a stream, in order. Dropping it early stops the producer.
#[derive(Debug)]
pub struct Items<T> {
    attempt: Attempt,
    underway: StreamUnderway,
    credit: u32,
    /// Items taken since credit was granted last.
    taken: u32,
    /// The worker was lost; why is being found out.
    loss: Option<Loss>,
    item: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Items<T> {
    pub(super) fn new(attempt: Attempt, underway: StreamUnderway, credit: u32) -> Self {
        Self {
            attempt,
            underway,
            credit,
            taken: 0,
            loss: None,
            item: PhantomData,
        }
    }

    /// The next item; `None` at the end, and after an error.
    ///
    /// An item that is no `T` is an error after which the stream goes on.
    ///
    /// # Cancel safety
    /// Safe: no item is lost.
    pub async fn next(&mut self) -> Option<Result<T, CallError>> {
        if self.loss.is_some() {
            return self.lost().await;
        }
        let stream = self.underway.stream()?;
        let Some(received) = self.attempt.within(stream.items.recv()).await else {
            let cancelled = self.underway.abandon();
            return Some(Err(self.attempt.overdue(cancelled)));
        };
        match received {
            Some(Ok(StreamResponse { message, .. })) => match message {
                Some(Message::Item(item)) => {
                    self.taken += 1;
                    // Granting in halves keeps the producer busy with few messages.
                    if self.taken >= self.credit.div_ceil(2) {
                        // The worker may have ended the stream already and needs no credit then.
                        let _ = stream.credit.send(self.taken);
                        self.taken = 0;
                    }
                    Some(codec::decode_message(&item).map_err(CallError::from))
                }
                // Whoever received it knows the arena, and put it into an item.
                Some(Message::InArena(_)) | None => {
                    // Whatever it was meant to be, the call may still be running.
                    let lease = self.underway.lease()?;
                    let error = RemoteError::protocol("the worker sent a message without content");
                    let error = self.attempt.failed(lease, error);
                    self.underway.abandon();
                    Some(Err(error))
                }
                Some(Message::Error(error)) => {
                    let lease = self.underway.finish()?;
                    let leaving = error.kind() == Kind::ShuttingDown;
                    self.attempt.answered();
                    let error = self.attempt.failed(&lease, error.into());
                    if leaving {
                        self.attempt.leaving(lease);
                    }
                    Some(Err(error))
                }
            },
            Some(Err(error)) => {
                let lease = self.underway.finish()?;
                self.loss = Some(self.attempt.lost(lease, error));
                self.lost().await
            }
            None => {
                if self.underway.finish().is_some() {
                    self.attempt.answered();
                }
                None
            }
        }
    }

    /// Why the worker was lost, once. Cancel safe: it is taken up again by the next call.
    async fn lost(&mut self) -> Option<Result<T, CallError>> {
        let error = self.attempt.explain_for_good(self.loss.as_mut()?).await;
        self.loss = None;
        Some(Err(error))
    }

    /// The id of the call within its worker, as logs and `context` show it.
    pub fn call_id(&self) -> u64 {
        self.underway.call_id()
    }
}
