//! Answers the calls that a worker makes of its host's functions.

use std::{
    collections::HashMap,
    future::poll_fn,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use snakepit_proto::v1::{
    HostCall as Request, HostResponse, host_error::Kind, host_response::Outcome as Answer,
};
use tokio::{
    sync::mpsc::UnboundedSender,
    task::AbortHandle,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{UNDER_WAY, panic_text, unwinding};
use crate::{
    clock::after,
    host::{HostCall, HostFunction, HostFunctions, Outcome, failure},
    id::WorkerId,
};

/// The calls under way. Each answers only if it is still among them when it is done.
#[derive(Default)]
pub(super) struct Running(Mutex<HashMap<u64, AbortHandle>>);

impl Running {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, AbortHandle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn give_up(&self, id: u64) {
        if let Some(task) = self.lock().remove(&id) {
            task.abort();
        }
    }
}

/// Takes the calls of one stream. Dropped, it gives up those under way.
pub(super) struct Desk {
    pub(super) functions: HostFunctions,
    pub(super) worker: WorkerId,
    /// Unbounded because what it holds is bounded by the calls under way.
    pub(super) answers: UnboundedSender<HostResponse>,
    pub(super) running: Arc<Running>,
}

impl Desk {
    pub(super) fn begin(&self, request: Request) -> Result<(), Status> {
        let id = request.id;
        let mut running = self.running.lock();
        if running.contains_key(&id) {
            return Err(Status::invalid_argument(format!(
                "host call {id} is under way already"
            )));
        }
        let refusal = if running.len() >= UNDER_WAY {
            failure(
                Kind::Busy,
                format!("{UNDER_WAY} host calls are under way, which is the limit"),
            )
        } else if let Some(function) = self.functions.get(&request.function) {
            let now = Instant::now();
            let over = CancellationToken::new();
            let call = HostCall {
                function: request.function,
                args: request.args,
                kwargs: request.kwargs,
                worker: self.worker,
                call_id: request.call_id,
                deadline: request
                    .deadline_us
                    .map(|left| after(now, Duration::from_micros(left))),
                over: over.clone(),
            };
            let (answers, others) = (self.answers.clone(), Arc::clone(&self.running));
            let task = tokio::spawn(async move {
                let _over = over.drop_guard();
                let outcome = run(call, &*function).await;
                if others.lock().remove(&id).is_some() {
                    respond(&answers, id, outcome);
                }
            });
            // The task finds itself here: it takes the lock that is held.
            running.insert(id, task.abort_handle());
            return Ok(());
        } else {
            failure(Kind::UnknownFunction, "the host has no such function")
        };
        respond(&self.answers, id, Err(refusal));
        Ok(())
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        for (_, task) in self.running.lock().drain() {
            task.abort();
        }
    }
}

fn respond(answers: &UnboundedSender<HostResponse>, id: u64, outcome: Outcome) {
    let outcome = Some(match outcome {
        Ok(value) => Answer::Value(value),
        Err(error) => Answer::Error(error),
    });
    // With the stream gone nobody waits.
    let _ = answers.send(HostResponse { id, outcome });
}

/// Runs a function within its deadline. Nothing it does reaches further than its own call.
async fn run(call: HostCall, function: &HostFunction) -> Outcome {
    let (worker, name, deadline) = (call.worker, call.function.clone(), call.deadline);
    let overdue = || failure(Kind::Deadline, "the deadline of the call passed");
    let mut work = pin!(async move { function(call).await });
    let work = poll_fn(|cx| unwinding(|| work.as_mut().poll(cx)));
    let outcome = match deadline {
        // It would be begun, otherwise, before the clock is looked at.
        Some(deadline) if deadline <= Instant::now() => return Err(overdue()),
        Some(deadline) => timeout_at(deadline, work).await.map_err(|_| overdue())?,
        None => work.await,
    };
    outcome.unwrap_or_else(|panic| {
        let text = panic_text(&*panic);
        tracing::error!(%worker, function = name, "a host function panicked: {text}");
        Err(failure(
            Kind::Failed,
            format!("the host function panicked: {text}"),
        ))
    })
}
