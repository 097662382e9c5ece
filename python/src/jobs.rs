//! Calls on their way from the thread that serves the connections to those that run them.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use snakepit_proto::v1::{
    CallRequest, CallResponse, StreamResponse, call_response::Outcome, stream_response::Message,
};
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc, oneshot};
use tonic::Status;

use crate::{arena, credit::Credit};

/// A call on its way.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) request: CallRequest,
    pub(crate) consumer: Consumer,
    /// Its right to run, where that is not the thread that takes it.
    pub(crate) turn: Option<OwnedSemaphorePermit>,
}

impl Job {
    /// Whether nobody waits for it any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        match &self.consumer {
            Consumer::Call(reply) => reply.is_closed(),
            Consumer::Stream(_, items) => items.is_closed(),
        }
    }
}

/// Who waits for what a call gives.
#[derive(Debug)]
pub(crate) enum Consumer {
    /// For one result.
    Call(oneshot::Sender<CallResponse>),
    /// For items.
    Stream(Arc<Credit>, mpsc::Sender<Result<StreamResponse, Status>>),
}

/// Answers a call whose caller may have gone meanwhile. What nobody gets of a result is not held for anybody.
pub(crate) fn reply(to: oneshot::Sender<CallResponse>, response: CallResponse) {
    if let Err(CallResponse {
        outcome: Some(Outcome::InArena(value)),
        ..
    }) = to.send(response)
    {
        arena::take_back(&value.blocks);
    }
}

/// Takes back what an item refers to that was not sent.
pub(crate) fn take_item_back(item: Result<StreamResponse, Status>) {
    if let Ok(StreamResponse {
        message: Some(Message::InArena(value)),
        ..
    }) = item
    {
        arena::take_back(&value.blocks);
    }
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Job>,
    /// Those who wait for a job, the last one to come on top.
    idle: Vec<oneshot::Sender<Job>>,
}

/// A queue with any number of takers. A job goes to the one that has waited for the shortest time, whose caches are the warmest. It
/// is unbounded because what it holds is already bounded by the streams that connections may have open.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    state: Mutex<State>,
    arrived: Notify,
}

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a job to somebody who waits; false when nobody does, and it is queued.
    pub(crate) fn push(&self, mut job: Job) -> bool {
        let mut state = self.lock();
        while let Some(taker) = state.idle.pop() {
            match taker.send(job) {
                Ok(()) => return true,
                Err(back) => job = back,
            }
        }
        state.queue.push_back(job);
        drop(state);
        self.arrived.notify_one();
        false
    }

    /// Takes the next job.
    ///
    /// Not cancel safe: a job that was handed over in that moment is lost, and its caller told that the worker is leaving.
    pub(crate) async fn next(&self) -> Job {
        loop {
            let job = {
                let mut state = self.lock();
                if let Some(job) = state.queue.pop_front() {
                    return job;
                }
                let (taker, job) = oneshot::channel();
                state.idle.push(taker);
                job
            };
            if let Ok(job) = job.await {
                return job;
            }
        }
    }

    /// Waits until a job was queued.
    pub(crate) async fn until_queued(&self) {
        while self.lock().queue.is_empty() {
            self.arrived.notified().await;
        }
    }
}
