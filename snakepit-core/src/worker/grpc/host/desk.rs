//! Answers the calls that a worker makes of its host's functions.

use std::{
    collections::HashMap,
    future::poll_fn,
    mem,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use snakepit_proto::{
    MAX_HOST_VALUE,
    v1::{
        ArgumentBlocks, Block, HostCall as Request, HostError, HostResponse, ValueInArena, host_error::Kind,
        host_response::Outcome as Answer,
    },
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
    arena::{Arena, for_worker},
    clock::after,
    host::{HostCall, HostFunction, HostFunctions, failure},
    id::WorkerId,
    worker::Received,
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
    /// Where large buffers of results go, and of arguments are.
    pub(super) arena: Option<Arc<Arena>>,
    /// Unbounded because what it holds is bounded by the calls under way.
    pub(super) answers: UnboundedSender<HostResponse>,
    pub(super) running: Arc<Running>,
}

impl Desk {
    pub(super) fn begin(&self, mut request: Request) -> Result<(), Status> {
        let id = request.id;
        let arguments = Arguments::new(self.arena.as_ref(), &mut request)?;
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
            let mut call = HostCall {
                function: request.function,
                args: Bytes::new(),
                kwargs: Bytes::new(),
                worker: self.worker,
                call_id: request.call_id,
                deadline: request
                    .deadline_us
                    .map(|left| after(now, Duration::from_micros(left))),
                over: over.clone(),
            };
            let (answers, others) = (self.answers.clone(), Arc::clone(&self.running));
            let arena = self.arena.clone();
            let task = tokio::spawn(async move {
                let _over = over.drop_guard();
                let outcome = match arguments.inline() {
                    Ok((args, kwargs)) => {
                        (call.args, call.kwargs) = (args, kwargs);
                        run(call, &*function, arena.as_ref()).await
                    }
                    Err(why) => Err(failure(Kind::BadArguments, why)),
                };
                if others.lock().remove(&id).is_some() {
                    respond(&answers, id, outcome);
                } else if let (Ok(value), Some(arena)) = (outcome, &arena) {
                    // Nobody gets it, and gives its holds back.
                    drop(Received::new(arena, value));
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

/// The arguments of a call as they came. Dropped, what they refer to is given back.
struct Arguments {
    args: Received,
    kwargs: Received,
}

impl Arguments {
    /// Takes them out of a request.
    fn new(arena: Option<&Arc<Arena>>, request: &mut Request) -> Result<Self, Status> {
        let blocks = request.blocks.take().unwrap_or_default();
        let lens = blocks.args.iter().chain(&blocks.kwargs).map(|block| block.len);
        if lens.fold(0, u64::saturating_add) > MAX_HOST_VALUE as u64 {
            return Err(Status::invalid_argument(format!(
                "the arguments of a host call take more than {MAX_HOST_VALUE} bytes"
            )));
        }
        let take = |value: &mut Bytes, blocks: Vec<Block>| {
            let value = mem::take(value);
            match arena {
                _ if blocks.is_empty() => Ok(value.into()),
                Some(arena) => Received::new(arena, ValueInArena { value, blocks }),
                None => Err("they refer to shared memory, and the worker was sent none".to_owned()),
            }
        };
        let ArgumentBlocks { args, kwargs } = blocks;
        let taken = take(&mut request.args, args).and_then(|args| {
            Ok(Self {
                args,
                kwargs: take(&mut request.kwargs, kwargs)?,
            })
        });
        taken.map_err(|why| Status::invalid_argument(format!("the arguments of a host call are none: {why}")))
    }

    fn inline(self) -> Result<(Bytes, Bytes), String> {
        Ok((self.args.inline()?, self.kwargs.inline()?))
    }
}

fn respond(answers: &UnboundedSender<HostResponse>, id: u64, outcome: Result<ValueInArena, HostError>) {
    let outcome = Some(match outcome {
        Ok(value) if value.blocks.is_empty() => Answer::Value(value.value),
        Ok(value) => Answer::InArena(value),
        Err(error) => Answer::Error(error),
    });
    // With the stream gone nobody waits.
    let _ = answers.send(HostResponse { id, outcome });
}

/// Runs a function within its deadline. Nothing it does reaches further than its own call.
async fn run(
    call: HostCall,
    function: &HostFunction,
    arena: Option<&Arc<Arena>>,
) -> Result<ValueInArena, HostError> {
    let (worker, name, deadline) = (call.worker, call.function.clone(), call.deadline);
    let overdue = || failure(Kind::Deadline, "the deadline of the call passed");
    // An array of the result that is made where it is put is the function's as well.
    let mut work = pin!(async move { Ok(for_worker(arena, &function(call).await?)) });
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
