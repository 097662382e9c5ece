//! Running calls: on Python's main thread one at a time and in order, or on several threads side by side.

mod execute;
mod glue;
mod report;
mod stream;
mod task;

use std::{
    collections::HashMap,
    future::poll_fn,
    io,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use pyo3::prelude::*;
use snakepit_proto::{
    frames::FrameWriter,
    v1::{CallError, CallRequest, CallResponse, call_error::Kind, call_response::Outcome},
};
use tokio::{sync::MutexGuard, time::Instant};

pub(crate) use glue::Glue;
pub(crate) use task::TaskCall;

use crate::{
    codec::Encoded,
    jobs::{self, Consumer, Job},
    place::{Place, Runner},
    shared::Shared,
    slot::{CallInfo, Refusal},
    sys,
    timers::within,
};

/// Turns that the connection gets to send what there is before Python computes on.
const FLUSH_TURNS: usize = 8;

/// How long a call, or the next item of a stream, waits for what was said before to leave.
const ROOM_LIMIT: Duration = Duration::from_secs(1);

/// A function found by its wire name.
#[derive(Debug)]
struct Function {
    name: Arc<str>,
    callable: Py<PyAny>,
    /// What it returns belongs on the event loop, where there is one for calls.
    is_async: bool,
}

/// A call that has begun, and its function or why there is none.
struct Begun {
    place: Place,
    function: Result<Arc<Function>, Box<CallError>>,
}

/// What an engine needs besides where several calls run at the same time.
#[derive(Debug)]
pub(crate) struct Several {
    /// Called with the place of a call in the context that it runs in.
    pub(crate) enter: Py<PyAny>,
    /// Whether what a function returns belongs on the event loop that calls run on, where there is one.
    pub(crate) is_async: Option<Py<PyAny>>,
}

/// Runs calls.
#[derive(Debug)]
pub(crate) struct Engine {
    shared: Arc<Shared>,
    glue: Glue,
    /// Adapters and directories, until they are imported.
    from_command_line: Mutex<(Vec<String>, Vec<String>)>,
    /// What is needed besides where several calls run at the same time.
    several: OnceLock<Several>,
    /// Held by the call whose turn it is, from its beginning to its last item; waiters get it in order.
    turn: tokio::sync::Mutex<()>,
    functions: Mutex<HashMap<Box<str>, Arc<Function>>>,
}

impl Engine {
    /// `from_command_line` are adapters and directories that are imported before those of the first handshake.
    pub(crate) fn new(
        shared: Arc<Shared>,
        glue: Glue,
        from_command_line: (Vec<String>, Vec<String>),
    ) -> Self {
        Self {
            shared,
            glue,
            from_command_line: Mutex::new(from_command_line),
            several: OnceLock::new(),
            turn: tokio::sync::Mutex::default(),
            functions: Mutex::default(),
        }
    }

    /// From now on several calls run at the same time.
    pub(crate) fn run_several(&self, several: Several) {
        // Set once, when the concurrency is settled.
        let _ = self.several.set(several);
    }

    /// Runs a call for its one result, on the main thread.
    pub(crate) async fn call(&self, request: CallRequest) -> CallResponse {
        let outcome = match self.turn(request.call_id).await {
            Ok(_turn) => Python::attach(|py| self.unary(py, &request, Runner::Main)),
            Err(error) => Err(error),
        };
        response(request.call_id, outcome)
    }

    /// Runs a call for its one result, on the main thread, and sends the answer before the next call has its turn.
    ///
    /// # Errors
    /// When the answer cannot be sent.
    pub(crate) async fn answer(&self, request: CallRequest, answers: &mut FrameWriter) -> io::Result<()> {
        let turn = self.turn(request.call_id).await;
        let (turn, outcome) = match turn {
            Ok(turn) => {
                let outcome = Python::attach(|py| self.unary(py, &request, Runner::Main));
                (Some(turn), outcome)
            }
            Err(error) => (None, Err(error)),
        };
        let sent = answers
            .send(&response(request.call_id, outcome))
            .or_else(|error| {
                if error.kind() != io::ErrorKind::InvalidInput {
                    return Err(error);
                }
                let error = CallError {
                    kind: Kind::BadResult.into(),
                    message: format!("the result does not fit: {error}"),
                    ..CallError::default()
                };
                answers.send(&response(request.call_id, Err(Box::new(error))))
            })?;
        if !sent {
            // A host that reads nothing for so long has no claim to what it does not read.
            within(ROOM_LIMIT, poll_fn(|cx| answers.poll_sent(cx))).await;
        }
        self.shared.slot.answer_sent();
        drop(turn);
        poll_fn(|cx| answers.poll_sent(cx)).await
    }

    /// Runs a call on a thread that has nothing else to do.
    pub(crate) async fn run_on_thread(&self, job: Job, runner: Runner) {
        let Job {
            request, consumer, ..
        } = job;
        let admitted = self.admission().await;
        match consumer {
            // A caller that gave up while it waited is not executed.
            Consumer::Call(reply) if reply.is_closed() => {}
            Consumer::Call(reply) => {
                let outcome = admitted.and_then(|()| Python::attach(|py| self.unary(py, &request, runner)));
                jobs::reply(reply, response(request.call_id, outcome));
            }
            Consumer::Stream(credit, consumer) => {
                self.yield_items(request, &credit, &consumer, runner, admitted)
                    .await;
            }
        }
    }

    /// Waits for the adapters.
    async fn admission(&self) -> Result<(), Box<CallError>> {
        tokio::select! {
            biased;
            () = self.shared.until_prepared() => Ok(()),
            _ = self.shared.until_shutdown() => Err(refused(Refusal::ShuttingDown)),
        }
    }

    /// Waits for the adapters and for the calls before this one.
    async fn turn(&self, call_id: u64) -> Result<MutexGuard<'_, ()>, Box<CallError>> {
        self.admission().await?;
        if let Ok(turn) = self.turn.try_lock() {
            self.send_answers_first().await;
            return Ok(turn);
        }
        let turn = async {
            let turn = self.turn.lock().await;
            self.send_answers_first().await;
            turn
        };
        self.in_line(call_id, turn).await
    }

    /// Waits for a turn, unless the call is cancelled meanwhile.
    async fn in_line<T>(&self, call_id: u64, turn: impl Future<Output = T>) -> Result<T, Box<CallError>> {
        let ticket = Ticket {
            shared: &self.shared,
            number: self.shared.slot.wait(call_id),
        };
        let turn = turn.await;
        if ticket.redeem() {
            Err(refused(Refusal::Cancelled))
        } else {
            Ok(turn)
        }
    }

    /// Lets the connection, which lives on this very thread, send what has been answered: it must not wait for the next call.
    async fn send_answers_first(&self) {
        if !self.shared.identity.inherited {
            return;
        }
        // The connection's turn comes with the first yield; a bound, since there is none once it has ended.
        for _ in 0..FLUSH_TURNS {
            if !self.shared.slot.has_unsent_answer() {
                return;
            }
            tokio::task::yield_now().await;
            self.wait_for_room().await;
        }
    }

    /// Waits, within [`ROOM_LIMIT`], while the socket takes nothing.
    async fn wait_for_room(&self) {
        if self.shared.slot.is_full() {
            // A host that reads nothing for so long has no claim to what it does not read.
            within(ROOM_LIMIT, self.shared.slot.room()).await;
        }
    }

    /// Lets the connection send an item, and read a reset, before Python computes the next one: it may take long, and wait for
    /// what the caller does with this one.
    async fn send_item_first(&self) {
        tokio::task::yield_now().await;
        // As a rule one turn will do; the scheduler may take ours first once in a while.
        for _ in 0..FLUSH_TURNS {
            self.wait_for_room().await;
            if !self.shared.slot.has_unsent_item() {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Whether the connection lives on the thread that runs calls.
    fn is_inline(&self) -> bool {
        self.shared.identity.inherited && self.several.get().is_none()
    }

    /// The connection has taken an item of a stream that runs here.
    pub(crate) fn item_taken(&self) {
        if self.is_inline() {
            self.shared.slot.item_taken();
        }
    }

    fn unary(
        &self,
        py: Python<'_>,
        request: &CallRequest,
        runner: Runner,
    ) -> Result<Encoded, Box<CallError>> {
        let Begun { place, function } = self.begin(py, request, runner)?;
        let outcome = function
            .and_then(|function| self.invoke(py, place, &function, request))
            .and_then(|result| self.encode(py, place, result, "result"));
        self.end(py, place);
        outcome
    }

    fn end(&self, py: Python<'_>, place: Place) {
        if self.end_in_slot(place) {
            sys::clear_exception(py);
        }
    }

    /// Ends a call, and with it its input; true when an exception is left with its thread.
    fn end_in_slot(&self, place: Place) -> bool {
        let ended = self.shared.slot.end(place);
        if let Some(call_id) = ended.call_id {
            self.shared.host_calls.leave_input(call_id);
        }
        ended.exception_set
    }

    /// The user code of a call is over, for good or for now: from here on a cancel has nothing to stop.
    fn leave(&self, py: Python<'_>, place: Place) {
        if self.shared.slot.leave(place) {
            sys::clear_exception(py);
        }
    }

    /// Puts the call into the slot and finds its function, whose import is already part of the call. An error is a call that
    /// did not begin.
    fn begin(&self, py: Python<'_>, request: &CallRequest, runner: Runner) -> Result<Begun, Box<CallError>> {
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
            session: request.session,
        };
        let place = self.shared.slot.begin(info, runner).map_err(refused)?;
        let entered = self
            .enter_context(py, place)
            .and_then(|()| self.enter_session(py, place, request));
        let function = match entered {
            Ok(()) => match known {
                Some(known) => Ok(known),
                None => self.find(py, place, &request.function),
            },
            Err(error) => Err(error),
        };
        Ok(Begun { place, function })
    }

    fn enter_context(&self, py: Python<'_>, place: Place) -> Result<(), Box<CallError>> {
        let Some(Several { enter, .. }) = self.several.get() else {
            return Ok(());
        };
        match enter.call1(py, (place.number(),)) {
            Ok(_) => Ok(()),
            // A cancel.
            Err(error) => Err(self.report(py, place, &error)),
        }
    }

    fn enter_session(
        &self,
        py: Python<'_>,
        place: Place,
        request: &CallRequest,
    ) -> Result<(), Box<CallError>> {
        let Some(session) = request.session else {
            return Ok(());
        };
        match self.glue.enter_session.bind(py).call1((session,)) {
            Ok(_) => Ok(()),
            // A cancel.
            Err(error) => Err(self.report(py, place, &error)),
        }
    }

    fn known(&self, name: &str) -> Option<Arc<Function>> {
        self.functions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
    }

    fn find(&self, py: Python<'_>, place: Place, name: &str) -> Result<Arc<Function>, Box<CallError>> {
        let callable = self.resolve(py, place, name)?;
        let is_async = match self.several.get().and_then(|several| several.is_async.as_ref()) {
            Some(is_async) => is_async
                .bind(py)
                .call1((&callable,))
                .and_then(|answer| answer.extract())
                .map_err(|error| self.report(py, place, &error))?,
            None => false,
        };
        let function = Arc::new(Function {
            name: Arc::from(name),
            callable: callable.unbind(),
            is_async,
        });
        // What another thread found meanwhile is dropped without the lock: it may be user code's last handle on it.
        let _before = self
            .functions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.into(), Arc::clone(&function));
        Ok(function)
    }

    /// Imports adapters and publishes the outcome.
    pub(crate) fn prepare(&self, py: Python<'_>, adapters: &[String], paths: &[String]) -> bool {
        let started = Instant::now();
        let (mut all_adapters, mut all_paths) = std::mem::take(
            &mut *self
                .from_command_line
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        all_adapters.extend_from_slice(adapters);
        all_paths.extend_from_slice(paths);
        let outcome = self.import(py, &all_adapters, &all_paths, started);
        let succeeded = outcome.is_ok();
        // A name that failed to resolve before may resolve now, and a bare name may mean something else.
        let _before = std::mem::take(&mut *self.functions.lock().unwrap_or_else(PoisonError::into_inner));
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

fn response(call_id: u64, outcome: Result<Encoded, Box<CallError>>) -> CallResponse {
    let outcome = match outcome {
        Ok(value) => value.into_outcome(),
        Err(error) => Outcome::Error(*error),
    };
    CallResponse {
        call_id,
        outcome: Some(outcome),
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
