//! What a stream yields.

use std::{marker::PhantomData, mem};

use serde::de::DeserializeOwned;
use snakepit_proto::v1::{StreamResponse, call_error::Kind, stream_response::Message};

use super::{
    attempt::{Attempt, Loss},
    dispatch::{Returning, Turn},
    error::CallError,
    settle::{StreamUnderway, Underway},
};
use crate::{
    rpc::{RemoteError, codec},
    worker::ItemStream,
};

/// How far a stream has come.
#[derive(Debug)]
enum Stage {
    /// It waits for a worker: its first, or another one, as the last was leaving and did not begin it.
    Waiting {
        turn: Turn,
        _returning: Option<Returning>,
    },
    /// A worker was asked for it.
    Asked(Turn, Underway<ItemStream>),
    /// What it yields comes. `None` as the turn if it is not begun again.
    Comes(Option<Turn>, StreamUnderway),
    Over,
}

/// The items of a stream, in order. Dropping it early stops the producer.
#[derive(Debug)]
pub struct Items<T> {
    attempt: Attempt,
    stage: Stage,
    /// The last worker's number for it.
    call_id: u64,
    credit: u32,
    /// Items taken since credit was granted last.
    taken: u32,
    /// The worker was lost; why is being found out.
    loss: Option<Loss>,
    item: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Items<T> {
    /// A stream that some worker is to begin.
    pub(super) async fn begun(attempt: Attempt, turn: Turn, credit: u32) -> Result<Self, CallError> {
        let mut items = Self::at(
            attempt,
            Stage::Waiting {
                turn,
                _returning: None,
            },
            0,
            credit,
        );
        items.begin().await?;
        Ok(items)
    }

    /// One that its worker was asked for, and no other can be.
    pub(super) fn once(attempt: Attempt, underway: StreamUnderway, credit: u32) -> Self {
        let call_id = underway.call_id();
        Self::at(attempt, Stage::Comes(None, underway), call_id, credit)
    }

    fn at(attempt: Attempt, stage: Stage, call_id: u64, credit: u32) -> Self {
        Self {
            attempt,
            stage,
            call_id,
            credit,
            taken: 0,
            loss: None,
            item: PhantomData,
        }
    }

    /// Has a worker begin it, if none has. Cancel safe: it is taken up again where it was.
    async fn begin(&mut self) -> Result<(), CallError> {
        loop {
            match &mut self.stage {
                Stage::Waiting { turn, .. } => {
                    let turn = *turn;
                    let mut lease = match self.attempt.checkout(turn).await {
                        Ok(lease) => lease,
                        Err(error) => {
                            self.stage = Stage::Over;
                            return Err(error);
                        }
                    };
                    self.call_id = self.attempt.begin(&mut lease);
                    let request = self.attempt.call_request(self.call_id);
                    let client = &*lease.seat().client;
                    let work = self.attempt.call_stream(client, request, self.credit);
                    let underway = Underway::new(self.attempt.settler(), lease, self.call_id, work);
                    let again = Turn {
                        first: true,
                        accepted: true,
                        ..turn
                    };
                    self.stage = Stage::Asked(again, underway);
                }
                Stage::Asked(again, underway) => {
                    let again = *again;
                    let answer = self.attempt.within(underway.work()).await;
                    let Stage::Asked(_, mut underway) = mem::replace(&mut self.stage, Stage::Over) else {
                        unreachable!("nobody else changes it meanwhile")
                    };
                    match answer {
                        Some(Ok(stream)) => {
                            self.stage = Stage::Comes(Some(again), underway.into_stream(stream));
                        }
                        Some(Err(error)) => {
                            self.loss = Some(self.attempt.lost(underway.finish(), error));
                            return Err(self.lost().await);
                        }
                        None => return Err(self.attempt.overdue(underway.abandon())),
                    }
                }
                Stage::Comes(..) | Stage::Over => return Ok(()),
            }
        }
    }

    /// The next item; `None` at the end, and after an error.
    ///
    /// An item that is no `T` is an error after which the stream goes on.
    ///
    /// # Cancel safety
    /// Safe: no item is lost.
    pub async fn next(&mut self) -> Option<Result<T, CallError>> {
        loop {
            if self.loss.is_some() {
                return Some(Err(self.lost().await));
            }
            if let Err(error) = self.begin().await {
                return Some(Err(error));
            }
            let Stage::Comes(again, underway) = &mut self.stage else {
                return None;
            };
            let stream = underway.stream()?;
            let Some(received) = self.attempt.within(stream.items.recv()).await else {
                let cancelled = underway.abandon();
                return Some(Err(self.attempt.overdue(cancelled)));
            };
            match received {
                Some(Ok(StreamResponse { message, .. })) => match message {
                    Some(Message::Item(item)) => {
                        *again = None;
                        self.taken += 1;
                        // Granting in halves keeps the producer busy with few messages.
                        if self.taken >= self.credit.div_ceil(2) {
                            // The worker may have ended the stream already and needs no credit then.
                            let _ = stream.credit.send(self.taken);
                            self.taken = 0;
                        }
                        return Some(codec::decode_message(&item).map_err(CallError::from));
                    }
                    // Whoever received it knows the arena, and put it into an item.
                    Some(Message::InArena(_)) | None => {
                        // Whatever it was meant to be, the call may still be running.
                        let error = RemoteError::protocol("the worker sent a message without content");
                        let error = self.attempt.failed(underway.lease()?, error);
                        underway.abandon();
                        return Some(Err(error));
                    }
                    Some(Message::Error(error)) => {
                        let (lease, again) = (underway.finish()?, again.take());
                        let leaving = error.kind() == Kind::ShuttingDown;
                        if let Some(turn) = again.filter(|_| leaving) {
                            // Certainly not executed. That worker is leaving, so each turn takes another one.
                            self.stage = Stage::Waiting {
                                turn,
                                _returning: lease.returning(),
                            };
                            self.attempt.leaving(lease);
                            self.attempt.unexecuted();
                            continue;
                        }
                        self.attempt.answered();
                        let error = self.attempt.failed(&lease, error.into());
                        if leaving {
                            self.attempt.leaving(lease);
                        }
                        return Some(Err(error));
                    }
                },
                Some(Err(error)) => {
                    let lease = underway.finish()?;
                    self.loss = Some(self.attempt.lost(lease, error));
                }
                None => {
                    if underway.finish().is_some() {
                        self.attempt.answered();
                    }
                    return None;
                }
            }
        }
    }

    /// Why the worker was lost, once. Cancel safe: it is taken up again by the next call.
    async fn lost(&mut self) -> CallError {
        let Some(loss) = &mut self.loss else {
            unreachable!("asked for only when it was lost")
        };
        let error = self.attempt.explain_for_good(loss).await;
        self.loss = None;
        error
    }

    /// The id of the call within its worker, as logs and `context` show it. One that its worker refused as it was leaving has another
    /// one from then on.
    pub fn call_id(&self) -> u64 {
        self.call_id
    }
}
