//! A call whose caller streams items to it.

use std::{error::Error, sync::Arc};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use snakepit_proto::v1::CallRequest;
use tokio_stream::Stream;

use super::{
    attempt::Attempt,
    error::CallError,
    request::Request,
    settle::{Begun, Underway},
    stream::Items,
    unary::is_shutting_down,
};
use crate::{
    id::WorkerId,
    worker::{BoxFuture, Input, Received, TransportError, WorkerClient},
};

/// Items that a caller's stream may be ahead of the function. Default 16, as for what a function yields.
const CREDIT: u32 = 16;

/// Why a call with input was not made. It was not executed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputRefused {
    /// A call that may be executed again would need its input again.
    #[error(
        "{function} cannot be called with input and be idempotent: what was read of its input is gone; leave `idempotent` \
         out, and make a new call with a new stream when a worker is lost"
    )]
    Idempotent {
        /// The function.
        function: Arc<str>,
    },
    /// The worker's program does not take input.
    #[error(
        "{function} cannot be called with input: the program of {worker} does not have the capability `input`"
    )]
    Unsupported {
        /// The function.
        function: Arc<str>,
        /// The worker.
        worker: WorkerId,
    },
}

/// A call with input being prepared: its function gets an iterator over the items as its first positional argument.
///
/// The caller's stream is polled by a task of the runtime that started the pool, as far as the function asks for items and the
/// credit goes. It is dropped as soon as nobody reads it any more: the call is over, the function has left the iterator, the
/// caller has left, the worker is gone.
#[derive(Debug)]
#[must_use = "a request does nothing until it is sent"]
pub struct InputRequest<'a> {
    request: Request<'a>,
    input: Input,
    credit: u32,
}

impl<'a> Request<'a> {
    /// Streams items to the function, which gets an iterator over them as its first positional argument, before
    /// [`args`](Self::args).
    ///
    /// The call is executed at most once, and never again: it cannot be [`idempotent`](Self::idempotent). It does not count
    /// for [`poison_limit`](super::PoolSettings::poison_limit), since no two inputs are known to be the same.
    pub fn input<S>(self, items: S) -> InputRequest<'a>
    where
        S: Stream<Item: Serialize> + Send + 'static,
    {
        InputRequest::new(self, Input::new(items))
    }

    /// As [`input`](Self::input), for a stream that can fail: the first error is the last item, and is raised in Python as a
    /// `snakepit.InputError` with the error's message and its chain of sources.
    pub fn try_input<S, T, E>(self, items: S) -> InputRequest<'a>
    where
        S: Stream<Item = Result<T, E>> + Send + 'static,
        T: Serialize,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        InputRequest::new(self, Input::fallible(items))
    }
}

impl<'a> InputRequest<'a> {
    fn new(request: Request<'a>, input: Input) -> Self {
        Self {
            request,
            input,
            credit: CREDIT,
        }
    }

    /// Sets how many items the caller's stream may be ahead of the function; at least 1. About 16 MiB of them may be, or a
    /// single one that is larger. Default 16.
    pub fn input_credit(self, items: u32) -> Self {
        Self {
            credit: items.max(1),
            ..self
        }
    }

    /// Makes the call and decodes its result.
    ///
    /// # Errors
    /// See [`CallError`]. A stream that fails, or panics, and an item that cannot be represented are exceptions in Python,
    /// and come back as such.
    ///
    /// # Cancel safety
    /// Dropping the future drops the caller's stream and cancels the call.
    pub async fn send<R: DeserializeOwned>(self) -> Result<R, CallError> {
        Ok(self.receive().await?.decode()?)
    }

    /// Makes the call and returns its result, MessagePack encoded, with everything in it.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    pub async fn send_raw(self) -> Result<Bytes, CallError> {
        Ok(self.receive().await?.inlined::<Bytes>()?)
    }

    async fn receive(self) -> Result<Received, CallError> {
        let (mut attempt, mut underway) = self.begin(Attempt::call).await?;
        match attempt.within(underway.work()).await {
            Some(Ok(answer)) => {
                let leaving = is_shutting_down(&answer);
                let lease = underway.finish();
                let answered = attempt.answer(&lease, answer);
                if leaving {
                    attempt.leaving(lease);
                }
                answered
            }
            Some(Err(error)) => {
                let mut loss = attempt.lost(underway.finish(), error);
                Err(attempt.explain_for_good(&mut loss).await)
            }
            None => Err(attempt.overdue(underway.abandon())),
        }
    }

    /// Makes the call and returns what it yields, item by item, while it reads. The two directions have credits of their
    /// own: [`Request::credit`] is for what it yields. The deadline holds for the whole stream.
    ///
    /// # Errors
    /// When no worker was to be had, or the arguments are too large. What goes wrong later is an item.
    ///
    /// # Cancel safety
    /// As [`send`](Self::send). Dropping the [`Items`] drops the caller's stream too.
    pub async fn stream<T: DeserializeOwned>(self) -> Result<Items<T>, CallError> {
        let credit = self.request.credit;
        let (mut attempt, mut underway) = self
            .begin(move |attempt, client, request| attempt.call_stream(client, request, credit))
            .await?;
        match attempt.within(underway.work()).await {
            Some(Ok(stream)) => Ok(Items::once(attempt, underway.into_stream(stream), credit)),
            Some(Err(error)) => {
                let mut loss = attempt.lost(underway.finish(), error);
                Err(attempt.explain_for_good(&mut loss).await)
            }
            None => Err(attempt.overdue(underway.abandon())),
        }
    }

    /// Has a worker begin the call.
    async fn begin<T: Begun>(
        self,
        call: impl FnOnce(&Attempt, &dyn WorkerClient, CallRequest) -> BoxFuture<Result<T, TransportError>>,
    ) -> Result<(Attempt, Underway<T>), CallError> {
        let Self {
            request,
            input,
            credit,
        } = self;
        let function = Arc::clone(&request.function);
        if request.idempotent {
            return Err(InputRefused::Idempotent { function }.into());
        }
        request.check_len()?;
        let turn = request.turn(false);
        let mut attempt = Attempt::of_its_own_kind(request);
        let mut lease = attempt.checkout(turn).await?;
        let call_id = attempt.begin(&mut lease);
        let worker = Arc::clone(&lease.seat().worker);
        let Ok(feed) = worker.feed(call_id, input) else {
            lease.forgo();
            let worker = worker.id();
            return Err(InputRefused::Unsupported { function, worker }.into());
        };
        let request = CallRequest {
            input_credit: credit,
            ..attempt.call_request(call_id)
        };
        let work = call(&attempt, &*lease.seat().client, request);
        let underway = Underway::new(attempt.settler(), lease, call_id, work).fed(feed);
        Ok((attempt, underway))
    }
}
