//! Calls that yield items: a producer that is never ahead of its consumer's credit.

use pyo3::{
    prelude::*,
    types::{PyIterator, PyTuple},
};
use snakepit_proto::v1::{
    CallError, CallRequest, StreamResponse, call_error::Kind, stream_response::Message,
};
use tokio::sync::mpsc::{self, error::SendError};
use tonic::Status;

use super::{Begun, Engine};
use crate::{
    codec::Encoded,
    credit::Credit,
    jobs,
    place::{Place, Runner},
};

/// Where a stream's messages go.
type Consumer = mpsc::Sender<Result<StreamResponse, Status>>;

/// The iterator behind a stream.
struct Source {
    iterator: Py<PyAny>,
    is_async: bool,
}

/// What asking for an item gave.
enum Step {
    Item(Encoded),
    End,
    Failed(Box<CallError>),
}

/// Why the producer stopped waiting for credit.
enum Turn {
    Produce,
    Cancelled,
    Abandoned,
    /// No credit is left and the consumer closed its side.
    Starved,
}

impl Engine {
    /// Runs a call for its items, on the main thread.
    pub(crate) async fn stream(&self, request: CallRequest, credit: &Credit, consumer: &Consumer) {
        let turn = self.turn(request.call_id).await;
        let (_turn, admitted) = turn.map_or_else(|error| (None, Err(error)), |turn| (Some(turn), Ok(())));
        if request.input_credit > 0 && self.is_inline() {
            // Nor does the caller have to give anything before it knows that the stream has begun.
            self.shared.slot.item_taken();
            self.send_item_first().await;
        }
        self.yield_items(request, credit, consumer, Runner::Main, admitted)
            .await;
    }

    /// Runs a call that was admitted for its items; says what is wrong in any case.
    pub(super) async fn yield_items(
        &self,
        request: CallRequest,
        credit: &Credit,
        consumer: &Consumer,
        runner: Runner,
        admitted: Result<(), Box<CallError>>,
    ) {
        let call_id = request.call_id;
        let outcome = match admitted {
            Ok(()) => self.produce(request, credit, consumer, runner).await,
            Err(error) => Err(error),
        };
        end_stream(call_id, outcome.err(), credit, consumer).await;
    }

    async fn produce(
        &self,
        request: CallRequest,
        credit: &Credit,
        consumer: &Consumer,
        runner: Runner,
    ) -> Result<(), Box<CallError>> {
        // Its caller may have given up while it waited.
        if consumer.is_closed() {
            return Ok(());
        }
        let Begun { place, function } = Python::attach(|py| self.begin(py, &request, runner))?;
        let _end = End(self, place);
        let result = Python::attach(|py| {
            let result = function.and_then(|function| self.invoke(py, place, &function, &request));
            result.map(Bound::unbind)
        })?;
        self.produce_from(
            place,
            result,
            request.call_id,
            &request.function,
            credit,
            consumer,
        )
        .await
    }

    /// Yields the items of what a function returned.
    pub(super) async fn produce_from(
        &self,
        place: Place,
        result: Py<PyAny>,
        call_id: u64,
        function: &str,
        credit: &Credit,
        consumer: &Consumer,
    ) -> Result<(), Box<CallError>> {
        let source = Python::attach(|py| {
            let source = self.open(py, place, function, result.bind(py));
            self.leave(py, place);
            source
        })?;
        loop {
            match self.wait_for_credit(place, credit, consumer).await {
                Turn::Produce => {}
                Turn::Cancelled => {
                    self.close(place, &source);
                    return Err(cancelled("the call was cancelled between two items"));
                }
                Turn::Abandoned => {
                    self.close(place, &source);
                    return Ok(());
                }
                Turn::Starved => {
                    self.close(place, &source);
                    return Err(starved());
                }
            }
            if !self.shared.slot.enter(place) {
                self.close(place, &source);
                return Err(cancelled("the call was cancelled between two items"));
            }
            let step = Python::attach(|py| {
                let step = self.step(py, place, &source);
                self.leave(py, place);
                step
            });
            match step {
                Step::Item(item) => {
                    let message = Some(item.into_message());
                    let response = StreamResponse { call_id, message };
                    if self.is_inline() {
                        self.shared.slot.item_queued();
                    }
                    if let Err(SendError(unsent)) = consumer.send(Ok(response)).await {
                        jobs::take_item_back(unsent);
                        self.close(place, &source);
                        return Ok(());
                    }
                }
                Step::End => return Ok(()),
                Step::Failed(error) => {
                    self.close(place, &source);
                    return Err(error);
                }
            }
            self.send_item_first().await;
        }
    }

    async fn wait_for_credit(&self, place: Place, credit: &Credit, consumer: &Consumer) -> Turn {
        tokio::select! {
            biased;
            () = consumer.closed() => Turn::Abandoned,
            () = self.told_to_stop(place) => Turn::Cancelled,
            spent = credit.spend() => if spent { Turn::Produce } else { Turn::Starved },
        }
    }

    /// Waits for the cancel of a call.
    async fn told_to_stop(&self, place: Place) {
        loop {
            let told = self.shared.slot.cancelled.notified();
            let mut told = std::pin::pin!(told);
            // Enabled before the flag is read: a cancel between the two is not missed.
            told.as_mut().enable();
            if self.shared.slot.is_cancelled(place) {
                return;
            }
            told.await;
        }
    }

    /// An iterator over what a function returned.
    fn open(
        &self,
        py: Python<'_>,
        place: Place,
        function: &str,
        result: &Bound<'_, PyAny>,
    ) -> Result<Source, Box<CallError>> {
        let opened = self.glue.open_stream.bind(py).call1((result,));
        match opened.and_then(|opened| opened.extract::<Option<(Py<PyAny>, bool)>>()) {
            Ok(Some((iterator, is_async))) => Ok(Source { iterator, is_async }),
            Ok(None) => Err(yields_nothing(function, result)),
            Err(error) => Err(self.report(py, place, &error)),
        }
    }

    fn step(&self, py: Python<'_>, place: Place, source: &Source) -> Step {
        let iterator = source.iterator.bind(py);
        let next = if source.is_async {
            let answer = self.glue.step_async.bind(py).call1((iterator,));
            answer.and_then(|answer| match answer.cast_into::<PyTuple>() {
                Ok(item) => item.get_item(0).map(Some),
                Err(_) => Ok(None),
            })
        } else {
            match iterator.cast::<PyIterator>() {
                Ok(iterator) => iterator.clone().next().transpose(),
                Err(error) => Err(error.into()),
            }
        };
        let forked = match &next {
            Ok(_) => Ok(iterator.clone()),
            Err(error) => Err(error.clone_ref(py)),
        };
        self.stay_in_parent(py, &forked);
        match next {
            Ok(Some(item)) => match self.encode(py, place, item, "item") {
                Ok(item) => Step::Item(item),
                Err(error) => Step::Failed(error),
            },
            Ok(None) => Step::End,
            Err(error) => Step::Failed(self.report(py, place, &error)),
        }
    }

    /// Runs the generator's clean-up. What it raises has nobody to go to but standard error.
    fn close(&self, place: Place, source: &Source) {
        Python::attach(|py| {
            self.shared.slot.enter_cleanup(place);
            let closed = self
                .glue
                .close_stream
                .bind(py)
                .call1((&source.iterator, source.is_async));
            self.stay_in_parent(py, &closed);
            self.leave(py, place);
            if let Err(error) = closed {
                error.write_unraisable(py, Some(source.iterator.bind(py)));
            }
        });
    }
}

/// Ends the call in the slot on every way out.
struct End<'a>(&'a Engine, Place);

impl Drop for End<'_> {
    fn drop(&mut self) {
        // User code was left before, and with it an exception that was not raised.
        self.0.end_in_slot(self.1);
    }
}

/// Says what went wrong with a stream, if anything did, and that it is over.
pub(super) async fn end_stream(
    call_id: u64,
    error: Option<Box<CallError>>,
    credit: &Credit,
    consumer: &Consumer,
) {
    if let Some(error) = error {
        let message = Some(Message::Error(*error));
        // A consumer that is gone needs no error.
        let _ = consumer.send(Ok(StreamResponse { call_id, message })).await;
    }
    credit.end();
}

/// The error of a stream of a function that returned something without items.
pub(super) fn yields_nothing(function: &str, result: &Bound<'_, PyAny>) -> Box<CallError> {
    let name = result
        .get_type()
        .name()
        .map_or_else(|_| "?".to_owned(), |name| name.to_string());
    let message = format!(
        "{function} returned a {name}, which yields no items; a function with one result is called by send (on the command line without \
         --stream)"
    );
    Box::new(CallError {
        kind: Kind::BadResult.into(),
        message,
        ..CallError::default()
    })
}

/// The error of a stream that was left before its end.
pub(super) fn starved() -> Box<CallError> {
    cancelled("the consumer took all it had granted credit for and closed its side")
}

fn cancelled(message: &str) -> Box<CallError> {
    Box::new(CallError {
        kind: Kind::Cancelled.into(),
        message: message.to_owned(),
        ..CallError::default()
    })
}
