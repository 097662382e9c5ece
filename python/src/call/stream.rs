//! Calls that yield items: a producer that is never ahead of its consumer's credit.

use std::sync::Arc;

use bytes::Bytes;
use pyo3::{
    prelude::*,
    types::{PyIterator, PyTuple},
};
use snakepit_proto::v1::{
    CallError, CallRequest, StreamResponse, call_error::Kind, stream_response::Message,
};
use tokio::sync::mpsc;
use tonic::Status;

use super::{Engine, Function};
use crate::credit::Credit;

/// Where a stream's messages go.
type Consumer = mpsc::Sender<Result<StreamResponse, Status>>;

/// The iterator behind a stream.
struct Source {
    iterator: Py<PyAny>,
    is_async: bool,
}

/// What asking for an item gave.
enum Step {
    Item(Vec<u8>),
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
    /// Runs a call for its items.
    pub(crate) async fn stream(&self, request: CallRequest, credit: &Credit, consumer: &Consumer) {
        let call_id = request.call_id;
        let error = match self.turn(call_id).await {
            Ok(_turn) => self.produce(request, credit, consumer).await.err(),
            Err(error) => Some(error),
        };
        if let Some(error) = error {
            let message = StreamResponse {
                call_id,
                message: Some(Message::Error(*error)),
            };
            // A consumer that is gone needs no error.
            let _ = consumer.send(Ok(message)).await;
        }
        credit.end();
    }

    async fn produce(
        &self,
        request: CallRequest,
        credit: &Credit,
        consumer: &Consumer,
    ) -> Result<(), Box<CallError>> {
        // Its caller may have given up while it waited.
        if consumer.is_closed() {
            return Ok(());
        }
        let function = Python::attach(|py| self.begin(py, &request))?;
        let _end = End(self);
        let source = Python::attach(|py| self.open(py, &function?, &request))?;
        self.shared.slot.leave();

        loop {
            match self.wait_for_credit(credit, consumer).await {
                Turn::Produce => {}
                Turn::Cancelled => {
                    self.close(&source);
                    return Err(cancelled("the call was cancelled between two items"));
                }
                Turn::Abandoned => {
                    self.close(&source);
                    return Ok(());
                }
                Turn::Starved => {
                    self.close(&source);
                    return Err(cancelled(
                        "the consumer took all it had granted credit for and closed its side",
                    ));
                }
            }
            if !self.shared.slot.enter() {
                self.close(&source);
                return Err(cancelled("the call was cancelled between two items"));
            }
            let step = Python::attach(|py| self.step(py, &source));
            self.shared.slot.leave();
            match step {
                Step::Item(item) => {
                    let message = Some(Message::Item(Bytes::from(item)));
                    let response = StreamResponse {
                        call_id: request.call_id,
                        message,
                    };
                    if consumer.send(Ok(response)).await.is_err() {
                        self.close(&source);
                        return Ok(());
                    }
                }
                Step::End => return Ok(()),
                Step::Failed(error) => {
                    self.close(&source);
                    return Err(error);
                }
            }
            // Lets the connection write the item, and read a reset, before Python computes the next one.
            tokio::task::yield_now().await;
        }
    }

    async fn wait_for_credit(&self, credit: &Credit, consumer: &Consumer) -> Turn {
        let told = self.shared.slot.cancelled.notified();
        let mut told = std::pin::pin!(told);
        // Enabled before the flag is read: a cancel between the two is not missed.
        told.as_mut().enable();
        if self.shared.slot.is_cancelled() {
            return Turn::Cancelled;
        }
        tokio::select! {
            biased;
            () = consumer.closed() => Turn::Abandoned,
            () = told => Turn::Cancelled,
            spent = credit.spend() => if spent { Turn::Produce } else { Turn::Starved },
        }
    }

    fn open(
        &self,
        py: Python<'_>,
        function: &Arc<Function>,
        request: &CallRequest,
    ) -> Result<Source, Box<CallError>> {
        let result = self.invoke(py, function, request)?;
        let opened = self
            .glue
            .open_stream
            .bind(py)
            .call1((&result,))
            .and_then(|opened| opened.extract::<Option<(Py<PyAny>, bool)>>());
        match opened {
            Ok(Some((iterator, is_async))) => Ok(Source { iterator, is_async }),
            Ok(None) => {
                let name = result
                    .get_type()
                    .name()
                    .map_or_else(|_| "?".to_owned(), |name| name.to_string());
                let message = format!(
                    "{} returned a {name}, which yields no items; use Call for a function with one result",
                    request.function
                );
                Err(Box::new(CallError {
                    kind: Kind::BadResult.into(),
                    message,
                    ..CallError::default()
                }))
            }
            Err(error) => Err(self.report(py, &error)),
        }
    }

    fn step(&self, py: Python<'_>, source: &Source) -> Step {
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
            Ok(Some(item)) => match self.encode(py, item, "item") {
                Ok(bytes) => Step::Item(bytes),
                Err(error) => Step::Failed(error),
            },
            Ok(None) => Step::End,
            Err(error) => Step::Failed(self.report(py, &error)),
        }
    }

    /// Runs the generator's clean-up. What it raises has nobody to go to but standard error.
    fn close(&self, source: &Source) {
        Python::attach(|py| {
            self.shared.slot.enter_cleanup();
            let closed = self
                .glue
                .close_stream
                .bind(py)
                .call1((&source.iterator, source.is_async));
            self.stay_in_parent(py, &closed);
            self.shared.slot.leave();
            if let Err(error) = closed {
                error.write_unraisable(py, Some(source.iterator.bind(py)));
            }
        });
    }
}

/// Ends the call in the slot on every way out.
struct End<'a>(&'a Engine);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.shared.slot.end();
    }
}

fn cancelled(message: &str) -> Box<CallError> {
    Box::new(CallError {
        kind: Kind::Cancelled.into(),
        message: message.to_owned(),
        ..CallError::default()
    })
}
