//! Where calls are executed: they stay in their worker until they are told how to go on, and everything is written down.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use snakepit_core::{WorkerId, pool::CallError, testing::FakeBehaviour, worker::TransportError};
use snakepit_proto::v1::{
    CallError as RemoteError, CallRequest, CallResponse, call_error::Kind, call_response::Outcome,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

/// Names a call: its only argument, and its answer.
pub(crate) type Token = u32;

/// An item of a stream: whose it is, and which one.
pub(crate) type Item = (Token, u32);

/// How the execution of a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Answered,
    Failed,
    Refused,
    Broken,
    /// It was cancelled, or its worker went down.
    Dropped,
}

/// What was seen.
#[derive(Debug)]
pub(crate) enum Seen {
    /// A worker began to execute a call.
    Began(Token, WorkerId),
    Over(Token, How),
    /// A stream's caller got an item.
    Item(Token, Item),
    /// A caller has its outcome, of a stream its end, while so many workers were up.
    Outcome(Token, Result<Token, CallError>, usize),
}

#[derive(Debug, Default)]
struct Inner {
    seen: Vec<(Instant, Seen)>,
    running: BTreeMap<Token, Running>,
}

#[derive(Debug)]
struct Running {
    go_on: oneshot::Sender<How>,
    items: mpsc::UnboundedSender<Bytes>,
    yielded: u32,
    stream: bool,
}

/// Where calls are executed. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stage {
    inner: Arc<Mutex<Inner>>,
}

impl Stage {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    pub(crate) fn saw(&self, seen: Seen) {
        self.lock().seen.push((Instant::now(), seen));
    }

    /// What was seen since this was asked last.
    pub(crate) fn take_seen(&self) -> Vec<(Instant, Seen)> {
        std::mem::take(&mut self.lock().seen)
    }

    /// The calls that are being executed and have not been told how to go on.
    pub(crate) fn running(&self) -> Vec<Token> {
        self.lock().running.keys().copied().collect()
    }

    /// The streams among them.
    pub(crate) fn producing(&self) -> Vec<Token> {
        let inner = self.lock();
        let streams = inner.running.iter().filter(|(_, running)| running.stream);
        streams.map(|(token, _)| *token).collect()
    }

    /// Ends the execution of a call.
    pub(crate) fn go_on(&self, token: Token, how: How) {
        if let Some(running) = self.lock().running.remove(&token) {
            running.go_on.send(how).expect("it is being executed");
        }
    }

    /// Has a stream yield so many items.
    pub(crate) fn produce(&self, token: Token, count: u8) -> u32 {
        let mut inner = self.lock();
        let Some(running) = inner.running.get_mut(&token) else {
            return 0;
        };
        for _ in 0..count {
            let item: Item = (token, running.yielded);
            running.yielded += 1;
            running
                .items
                .send(rmp_serde::to_vec(&item).unwrap().into())
                .unwrap();
        }
        u32::from(count)
    }

    /// What the fake workers do with calls.
    pub(crate) fn behaviour(&self) -> FakeBehaviour {
        let stage = self.clone();
        FakeBehaviour::by_call(move |worker, request| {
            let stage = stage.clone();
            match request.function.split(' ').next() {
                Some("stream") => FakeBehaviour::Producer(Arc::new(move |request, items| {
                    Box::pin(stage.clone().execute(worker, request, items))
                })),
                Some("deaf") => FakeBehaviour::Deaf(Arc::new(move |request| {
                    let (items, _) = mpsc::unbounded_channel();
                    Box::pin(stage.clone().execute(worker, request, items))
                })),
                _ => FakeBehaviour::handler(move |request| {
                    let (items, _) = mpsc::unbounded_channel();
                    stage.clone().execute(worker, request, items)
                }),
            }
        })
    }

    async fn execute(
        self,
        worker: WorkerId,
        request: CallRequest,
        items: mpsc::UnboundedSender<Bytes>,
    ) -> Result<CallResponse, TransportError> {
        let (token,): (Token,) = rmp_serde::from_slice(&request.args).unwrap();
        let (go_on, how) = oneshot::channel();
        let running = Running {
            go_on,
            items,
            yielded: 0,
            stream: request.function.starts_with("stream"),
        };
        self.saw(Seen::Began(token, worker));
        let twice = self.lock().running.insert(token, running);
        assert!(twice.is_none(), "call {token} is executed twice at once");
        let mut execution = Execution {
            stage: self,
            token,
            how: How::Dropped,
        };
        execution.how = how.await.expect("nobody drops it");
        answer(execution.how, token, request.call_id)
    }
}

/// An execution that goes on; its end is seen when it is dropped.
struct Execution {
    stage: Stage,
    token: Token,
    how: How,
}

impl Drop for Execution {
    fn drop(&mut self) {
        self.stage.lock().running.remove(&self.token);
        self.stage.saw(Seen::Over(self.token, self.how));
    }
}

fn answer(how: How, token: Token, call_id: u64) -> Result<CallResponse, TransportError> {
    let error = |kind: Kind| {
        Outcome::Error(RemoteError {
            kind: kind.into(),
            message: token.to_string(),
            ..RemoteError::default()
        })
    };
    let outcome = match how {
        How::Answered => Outcome::Value(rmp_serde::to_vec(&token).unwrap().into()),
        How::Failed => error(Kind::Raised),
        How::Refused => error(Kind::ShuttingDown),
        How::Broken => {
            let message = token.to_string();
            return Err(TransportError { message });
        }
        How::Dropped => unreachable!("nobody is told to do that"),
    };
    Ok(CallResponse {
        call_id,
        outcome: Some(outcome),
    })
}
