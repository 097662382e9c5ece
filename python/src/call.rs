//! Running calls on Python's main thread, one at a time and in order.

mod execute;
mod glue;
mod report;
mod stream;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use pyo3::prelude::*;
use snakepit_proto::v1::{CallError, CallRequest, CallResponse, call_error::Kind, call_response::Outcome};
use tokio::{sync::MutexGuard, time::Instant};

pub(crate) use glue::Glue;

use crate::{
    shared::Shared,
    slot::{CallInfo, Refusal},
};

/// A function found by its wire name.
#[derive(Debug)]
struct Function {
    name: Arc<str>,
    callable: Py<PyAny>,
}

/// Runs calls. Its methods are called on Python's main thread only.
#[derive(Debug)]
pub(crate) struct Engine {
    shared: Arc<Shared>,
    glue: Glue,
    /// Held by the call whose turn it is, from its beginning to its last item; waiters get it in order.
    turn: tokio::sync::Mutex<()>,
    functions: Mutex<HashMap<Box<str>, Arc<Function>>>,
}

impl Engine {
    pub(crate) fn new(shared: Arc<Shared>, glue: Glue) -> Self {
        Self {
            shared,
            glue,
            turn: tokio::sync::Mutex::default(),
            functions: Mutex::default(),
        }
    }

    /// Runs a call for its one result.
    pub(crate) async fn call(&self, request: CallRequest) -> CallResponse {
        let call_id = request.call_id;
        let outcome = match self.turn(call_id).await {
            Ok(_turn) => Python::attach(|py| self.unary(py, &request)),
            Err(error) => Err(error),
        };
        let outcome = match outcome {
            Ok(value) => Outcome::Value(Bytes::from(value)),
            Err(error) => Outcome::Error(*error),
        };
        CallResponse {
            call_id,
            outcome: Some(outcome),
        }
    }

    /// Waits for the adapters and for the calls before this one.
    async fn turn(&self, call_id: u64) -> Result<MutexGuard<'_, ()>, Box<CallError>> {
        tokio::select! {
            biased;
            () = self.shared.until_prepared() => {}
            _ = self.shared.until_shutdown() => return Err(refused(Refusal::ShuttingDown)),
        }
        if self.shared.identity.inherited {
            self.send_answers_first().await;
        }
        if let Ok(turn) = self.turn.try_lock() {
            return Ok(turn);
        }
        let ticket = Ticket {
            shared: &self.shared,
            number: self.shared.slot.wait(call_id),
        };
        let turn = self.turn.lock().await;
        if ticket.redeem() {
            Err(refused(Refusal::Cancelled))
        } else {
            Ok(turn)
        }
    }

    /// Lets the connection, which lives on this very thread, send what has been answered: it must not wait for the next call.
    async fn send_answers_first(&self) {
        // The connection's turn comes with the first yield; a bound, since there is none once it has ended.
        for _ in 0..8 {
            if !self.shared.slot.has_unsent_answer() {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    fn unary(&self, py: Python<'_>, request: &CallRequest) -> Result<Vec<u8>, Box<CallError>> {
        let function = self.begin(py, request)?;
        let outcome = function
            .and_then(|function| self.invoke(py, &function, request))
            .and_then(|result| self.encode(py, result, "result"));
        self.shared.slot.end();
        outcome
    }

    /// Puts the call into the slot and finds its function, whose import is already part of the call. The outer
    /// error is a call that did not begin.
    fn begin(
        &self,
        py: Python<'_>,
        request: &CallRequest,
    ) -> Result<Result<Arc<Function>, Box<CallError>>, Box<CallError>> {
        let known = self.known(&request.function);
        let name = known
            .as_ref()
            .map_or_else(|| Arc::from(&*request.function), |known| Arc::clone(&known.name));
        let deadline = request
            .deadline_us
            .and_then(|left| Instant::now().checked_add(Duration::from_micros(left)));
        let info = CallInfo {
            call_id: request.call_id,
            function: name,
            deadline,
        };
        self.shared.slot.begin(info).map_err(refused)?;
        Ok(match known {
            Some(known) => Ok(known),
            None => self.find(py, &request.function),
        })
    }

    fn known(&self, name: &str) -> Option<Arc<Function>> {
        self.functions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
    }

    fn find(&self, py: Python<'_>, name: &str) -> Result<Arc<Function>, Box<CallError>> {
        let callable = self.resolve(py, name)?.unbind();
        let function = Arc::new(Function {
            name: Arc::from(name),
            callable,
        });
        self.functions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.into(), Arc::clone(&function));
        Ok(function)
    }

    /// Imports adapters and publishes the outcome.
    pub(crate) fn prepare(&self, py: Python<'_>, adapters: &[String], paths: &[String]) -> bool {
        let started = Instant::now();
        let outcome = self.import(py, adapters, paths, started);
        let succeeded = outcome.is_ok();
        // A name that failed to resolve before may resolve now, and a bare name may mean something else.
        self.functions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        self.shared.set_prepared(outcome.map_err(|error| *error));
        succeeded
    }
}

/// A call's place among those that wait for their turn. Its caller may give up, which drops it.
struct Ticket<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Ticket<'_> {
    /// The turn has come; true when the call was cancelled meanwhile.
    fn redeem(self) -> bool {
        self.shared.slot.stop_waiting(self.number)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.shared.slot.stop_waiting(self.number);
    }
}

/// The error of a call that did not begin.
fn refused(refusal: Refusal) -> Box<CallError> {
    let (kind, message) = match refusal {
        Refusal::Cancelled => (Kind::Cancelled, "the call was cancelled before it began"),
        Refusal::ShuttingDown => (
            Kind::ShuttingDown,
            "the worker is shutting down and did not start the call",
        ),
    };
    Box::new(CallError {
        kind: kind.into(),
        message: message.to_owned(),
        ..CallError::default()
    })
}
