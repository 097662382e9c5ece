//! Calls of the host's functions that user code makes: which are under way, which wait for a place, and what became of them;
//! and the inputs of calls, whose items come the same way.
//!
//! Whoever makes one waits for it without the GIL (`native`); the control thread brings the answers, and needs no GIL to give
//! calls up. Every change is made under one short lock.

mod input;
mod inputs;
mod native;
mod requests;
mod value;
mod waiter;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    mem,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Poll, Waker},
};

pub(crate) use input::Input;
use inputs::{Inputs, Next, items_of};
pub(crate) use native::register;
pub(crate) use requests::Requests;
use snakepit_proto::v1::{
    HostError, HostRequest, HostResponse, host_error::Kind, host_request::Message,
    host_response::Outcome as Answer,
};
use tokio::time::Instant;
use value::{Request, Value};
use waiter::Waiter;

use crate::control::micros;

/// How long a call may take.
#[derive(Clone, Copy, Debug)]
struct Deadline {
    at: Instant,
    /// It is the surrounding call's. The host cancels that call then, and so the code is told, here as anywhere else.
    inherited: bool,
}

/// What became of a call.
#[derive(Debug)]
enum Outcome {
    Value(Value),
    Failed(HostError),
    /// The surrounding call was cancelled.
    Cancelled,
}

#[derive(Debug)]
enum Stage {
    /// Waits for the stream, or for one of the calls under way to end.
    Waiting(Request),
    UnderWay,
    /// The host has stopped it at the surrounding call's deadline, and cancels that call next.
    Stopped,
    Done(Outcome),
}

#[derive(Debug)]
struct Call {
    /// The surrounding call.
    call_id: Option<u64>,
    deadline: Option<Deadline>,
    waiter: Waiter,
    stage: Stage,
}

/// The stream to the host.
#[derive(Debug)]
enum Stream {
    /// There is none. A host may open one for the first call that has input.
    Absent,
    /// A host has named its functions and will open it.
    Expected,
    /// What waits for a request to send is woken by this.
    Open(Option<Waker>),
}

#[derive(Debug)]
struct State {
    functions: BTreeSet<String>,
    /// Calls that may be under way.
    limit: usize,
    stream: Stream,
    /// Which stream it is: what an earlier one still brings is of no interest.
    number: u64,
    last_id: u64,
    calls: HashMap<u64, Call>,
    /// Those that wait, in order; some may have been given up.
    queue: VecDeque<u64>,
    under_way: usize,
    /// Calls that were under way and that the host is still to be told to give up.
    withdrawn: Vec<u64>,
    inputs: Inputs,
}

/// The calls that were made up to a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SoFar(u64);

/// The calls of one worker process.
#[derive(Debug)]
pub(crate) struct HostCalls {
    state: Mutex<State>,
    /// Inputs that are open, so that calls without one need no lock.
    inputs: AtomicUsize,
}

impl HostCalls {
    pub(crate) fn new() -> Self {
        let state = Mutex::new(State {
            functions: BTreeSet::new(),
            limit: 1,
            stream: Stream::Absent,
            number: 0,
            last_id: 0,
            calls: HashMap::new(),
            queue: VecDeque::new(),
            under_way: 0,
            withdrawn: Vec::new(),
            inputs: Inputs::default(),
        });
        Self {
            state,
            inputs: AtomicUsize::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic ends the process (see `panic`), so a poisoned lock has no reader.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A host has named its functions; if there are any it opens the stream next.
    pub(crate) fn expect(&self, functions: Vec<String>, limit: u32) {
        let mut state = self.lock();
        state.functions = functions.into_iter().collect();
        state.limit = usize::try_from(limit.max(1)).unwrap_or(usize::MAX);
        if !state.functions.is_empty() && matches!(state.stream, Stream::Absent) {
            state.stream = Stream::Expected;
        }
    }

    /// Begins a stream, which replaces an earlier one; its number.
    pub(crate) fn open(&self) -> u64 {
        let mut state = self.lock();
        if matches!(state.stream, Stream::Open(_)) {
            state.fail_under_way("the host opened another stream");
            state.inputs.fail("the host opened another stream");
        }
        state.wake_stream();
        state.stream = Stream::Open(None);
        state.number += 1;
        state.number
    }

    /// The next request for a stream to send; `None` when the stream has ended.
    fn next(&self, number: u64, waker: &Waker) -> Poll<Option<HostRequest>> {
        let mut state = self.lock();
        if state.number != number || !matches!(state.stream, Stream::Open(_)) {
            return Poll::Ready(None);
        }
        if let Some(message) = state.next() {
            let message = Some(message);
            return Poll::Ready(Some(HostRequest { message }));
        }
        state.stream = Stream::Open(Some(waker.clone()));
        Poll::Pending
    }

    /// Takes an answer from a stream.
    pub(crate) fn answer(&self, number: u64, response: HostResponse) {
        let mut state = self.lock();
        if state.number != number {
            return give_back(response);
        }
        if let Some(Answer::Input(items)) = response.outcome {
            return state.inputs.receive(items);
        }
        let under_way = |call: &&mut Call| matches!(call.stage, Stage::UnderWay);
        // An answer to a call that was given up meanwhile finds nobody.
        let Some(call) = state.calls.get_mut(&response.id).filter(under_way) else {
            return give_back(response);
        };
        match response.outcome {
            Some(Answer::Value(value)) => call.end(Outcome::Value(value.into())),
            Some(Answer::InArena(value)) => call.end(Outcome::Value(value.into())),
            Some(Answer::Error(error)) if error.kind() == Kind::Deadline && call.inherits() => {
                call.stage = Stage::Stopped;
            }
            Some(Answer::Error(error)) => call.end(Outcome::Failed(error)),
            Some(Answer::Input(_)) | None => call.end(Outcome::Failed(failure(
                Kind::Failed,
                "the host answered nothing",
            ))),
        }
        state.under_way -= 1;
        state.wake_stream();
    }

    /// A stream has ended: its calls fail, and so do later ones until a host comes.
    pub(crate) fn lost(&self, number: u64) {
        let mut state = self.lock();
        if state.number == number && matches!(state.stream, Stream::Open(_)) {
            state.end_stream("the host takes no calls any more");
        }
    }

    /// The worker leaves.
    pub(crate) fn close(&self) {
        self.lock().end_stream("the worker is leaving");
    }

    /// Which calls have been made. Code that is interrupted by a cancel may go on to make others, which it is not for.
    pub(crate) fn so_far(&self) -> SoFar {
        SoFar(self.lock().last_id)
    }

    /// The call with this id was cancelled: what it had asked of the host is given up.
    pub(crate) fn cancel(&self, call_id: u64, so_far: SoFar) {
        let mut state = self.lock();
        state.cancel(so_far, |surrounding| surrounding == call_id);
        state.inputs.cancel(|input| input == call_id);
    }

    /// As [`Self::cancel`], for whatever call runs.
    pub(crate) fn cancel_running(&self, so_far: SoFar) {
        let mut state = self.lock();
        state.cancel(so_far, |_| true);
        state.inputs.cancel(|_| true);
    }

    /// A call with input begins.
    pub(crate) fn open_input(&self, call_id: u64, credit: u32) {
        self.lock().inputs.open(call_id, credit);
        self.inputs.fetch_add(1, Ordering::Relaxed);
    }

    /// The call was cancelled before its input was opened.
    pub(crate) fn cancel_input(&self, call_id: u64) {
        self.lock().inputs.cancel(|input| input == call_id);
    }

    /// Nobody reads a call's input any more. Costs nothing while no call has one.
    pub(crate) fn leave_input(&self, call_id: u64) {
        if self.inputs.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut state = self.lock();
        if state.inputs.leave(call_id) {
            self.inputs.fetch_sub(1, Ordering::Relaxed);
            state.wake_stream();
        }
    }

    /// The next item of a call's input; whoever has to wait is told, by the number that comes along.
    fn next_item(&self, call_id: u64, waiter: impl FnOnce(u64) -> Waiter) -> (u64, Next) {
        let mut state = self.lock();
        state.last_id += 1;
        let number = state.last_id;
        let next = state.inputs.next(call_id, || waiter(number));
        state.wake_stream();
        (number, next)
    }

    fn functions(&self) -> Vec<String> {
        self.lock().functions.iter().cloned().collect()
    }

    fn has_function(&self, name: &str) -> bool {
        self.lock().functions.contains(name)
    }

    /// Makes a call; `waiter` is told when there is an outcome to be [taken](Self::take).
    fn begin(
        &self,
        request: Request,
        deadline: Option<Deadline>,
        waiter: impl FnOnce(u64) -> Waiter,
    ) -> Result<u64, HostError> {
        let mut state = self.lock();
        if matches!(state.stream, Stream::Absent) {
            return Err(failure(Kind::Cancelled, "there is no host to answer it"));
        }
        state.last_id += 1;
        let id = state.last_id;
        let call = Call {
            call_id: request.call_id,
            deadline,
            waiter: waiter(id),
            stage: Stage::Waiting(request),
        };
        state.calls.insert(id, call);
        state.queue.push_back(id);
        state.wake_stream();
        Ok(id)
    }

    /// Takes the outcome of a call, once.
    fn take(&self, id: u64) -> Option<Outcome> {
        let mut state = self.lock();
        if !matches!(state.calls.get(&id)?.stage, Stage::Done(_)) {
            return None;
        }
        match state.calls.remove(&id)?.stage {
            Stage::Done(outcome) => Some(outcome),
            Stage::Waiting(_) | Stage::UnderWay | Stage::Stopped => None,
        }
    }

    /// Gives a call up; does nothing for one whose outcome was taken.
    fn abandon(&self, id: u64) {
        let mut state = self.lock();
        if let Some(call) = state.calls.remove(&id)
            && matches!(call.stage, Stage::UnderWay)
        {
            state.withdraw(id);
        }
    }
}

impl State {
    /// What the host is to be told next: first which calls it is to give up, whose places the later ones take.
    fn next(&mut self) -> Option<Message> {
        if let Some(id) = self.withdrawn.pop() {
            return Some(Message::Cancel(id));
        }
        if let Some(message) = self.inputs.message() {
            return Some(message);
        }
        while self.under_way < self.limit {
            let id = self.queue.pop_front()?;
            let Some(call) = self.calls.get_mut(&id) else {
                continue;
            };
            match mem::replace(&mut call.stage, Stage::UnderWay) {
                Stage::Waiting(request) => {
                    let left = |deadline: Deadline| deadline.at.saturating_duration_since(Instant::now());
                    let deadline_us = call.deadline.map(|deadline| micros(left(deadline)));
                    self.under_way += 1;
                    return Some(Message::Call(request.into_wire(id, deadline_us)));
                }
                done => call.stage = done,
            }
        }
        None
    }

    fn wake_stream(&mut self) {
        if let Stream::Open(waker) = &mut self.stream
            && let Some(waker) = waker.take()
        {
            waker.wake();
        }
    }

    /// Nobody waits any more for a call that was under way.
    fn withdraw(&mut self, id: u64) {
        self.under_way -= 1;
        self.withdrawn.push(id);
        self.wake_stream();
    }

    /// Those of an event loop end with their task, which is cancelled in Python.
    fn cancel(&mut self, so_far: SoFar, which: impl Fn(u64) -> bool) {
        let mut under_way = Vec::new();
        for (&id, call) in &mut self.calls {
            if id <= so_far.0 && call.waiter.is_thread() && call.call_id.is_some_and(&which) {
                match &call.stage {
                    Stage::Done(_) => continue,
                    Stage::UnderWay => under_way.push(id),
                    Stage::Waiting(_) | Stage::Stopped => {}
                }
                call.end(Outcome::Cancelled);
            }
        }
        for id in under_way {
            self.withdraw(id);
        }
    }

    fn fail_under_way(&mut self, why: &str) {
        for call in self.calls.values_mut() {
            if matches!(call.stage, Stage::UnderWay) {
                call.end(Outcome::Failed(failure(Kind::Cancelled, why)));
            }
        }
        self.under_way = 0;
        self.withdrawn.clear();
    }

    fn end_stream(&mut self, why: &str) {
        self.fail_under_way(why);
        self.inputs.fail(why);
        self.queue.clear();
        for call in self.calls.values_mut() {
            if matches!(call.stage, Stage::Waiting(_)) {
                call.end(Outcome::Failed(failure(Kind::Cancelled, why)));
            }
        }
        self.wake_stream();
        self.stream = Stream::Absent;
    }
}

impl Call {
    fn inherits(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline.inherited)
    }

    fn end(&mut self, outcome: Outcome) {
        self.stage = Stage::Done(outcome);
        self.waiter.wake();
    }
}

/// Nobody wants what the host sent.
fn give_back(response: HostResponse) {
    match response.outcome {
        Some(Answer::InArena(value)) => drop(Value::from(value)),
        Some(Answer::Input(items)) => drop(items_of(items)),
        Some(Answer::Value(_) | Answer::Error(_)) | None => {}
    }
}

fn failure(kind: Kind, message: impl Into<String>) -> HostError {
    HostError {
        kind: kind.into(),
        message: message.into(),
        causes: Vec::new(),
    }
}
