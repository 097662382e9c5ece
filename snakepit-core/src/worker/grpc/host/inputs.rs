//! The inputs of a worker's calls: each caller's stream, read as far as the worker asks for items.

use std::{
    collections::{HashMap, VecDeque},
    future::poll_fn,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use snakepit_proto::v1::{
    HostError, HostResponse, InputItems as Message, ItemBlocks, ValueInArena, host_error::Kind,
    host_response::Outcome,
};
use tokio::{
    runtime::Handle,
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
    task::AbortHandle,
};

use super::{panic_text, unwinding};
use crate::{
    arena::{Arena, for_worker},
    host::failure,
    worker::{Feed, Input, InputItems},
};

/// Bytes of an input that may be ahead of the function; a single item may be larger. Sixteen items of 1 MiB, so that an input of
/// large items is bounded in memory as well.
const AHEAD: usize = 16 << 20;
/// Bytes of items that go into a message before it is sent: enough to make small ones cheap.
const MESSAGE: usize = 64 << 10;

/// The inputs that are open.
#[derive(Debug)]
pub(super) struct Inputs {
    /// Where large buffers of items go.
    arena: Option<Arc<Arena>>,
    /// Reads the streams.
    runtime: Handle,
    readers: Mutex<Readers>,
}

#[derive(Debug)]
struct Readers {
    /// By the ids of their calls.
    open: HashMap<u64, Reader>,
    /// Unbounded because what it holds is bounded by what was granted. `None` once the worker asks for nothing any more.
    answers: Option<UnboundedSender<HostResponse>>,
}

/// The task that reads one stream. Dropped, it drops the stream.
#[derive(Debug)]
struct Reader {
    grants: UnboundedSender<u32>,
    task: AbortHandle,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Inputs {
    pub(super) fn new(
        answers: UnboundedSender<HostResponse>,
        arena: Option<Arc<Arena>>,
        runtime: Handle,
    ) -> Self {
        let readers = Mutex::new(Readers {
            open: HashMap::new(),
            answers: Some(answers),
        });
        Self {
            arena,
            runtime,
            readers,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Readers> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the input of a call.
    pub(super) fn open(self: &Arc<Self>, call_id: u64, input: Input) -> Feed {
        let mut readers = self.lock();
        // The call fails as well, and with it whoever waits for it.
        if let Some(answers) = readers.answers.clone() {
            let (grants, granted) = mpsc::unbounded_channel();
            let source = Source {
                items: input.into_items(),
                arena: self.arena.clone(),
            };
            let work = read(call_id, source, granted, answers);
            let task = self.runtime.spawn(work).abort_handle();
            readers.open.insert(call_id, Reader { grants, task });
        }
        Feed::new(Open {
            inputs: Arc::clone(self),
            call_id,
        })
    }

    /// The worker takes further items.
    pub(super) fn grant(&self, call_id: u64, items: u32) {
        if let Some(reader) = self.lock().open.get(&call_id) {
            // A stream that has ended has nothing to give.
            let _ = reader.grants.send(items);
        }
    }

    /// Nobody reads it any more.
    pub(super) fn leave(&self, call_id: u64) {
        let reader = self.lock().open.remove(&call_id);
        drop(reader);
    }

    /// Ends all inputs when it is dropped.
    pub(super) fn ends(self: &Arc<Self>) -> impl Drop + use<> {
        Ends(Arc::clone(self))
    }
}

/// One that is open for as long as its call.
#[derive(Debug)]
struct Open {
    inputs: Arc<Inputs>,
    call_id: u64,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.inputs.leave(self.call_id);
    }
}

struct Ends(Arc<Inputs>);

impl Drop for Ends {
    fn drop(&mut self) {
        let mut readers = self.0.lock();
        readers.answers = None;
        let open = mem::take(&mut readers.open);
        drop(readers);
        drop(open);
    }
}

/// How far a stream is ahead of the function, which tells what it has taken by granting as much.
#[derive(Debug, Default)]
struct Ahead {
    credit: u32,
    /// The sizes of the items that were not taken yet, oldest first.
    sizes: VecDeque<usize>,
    bytes: usize,
}

impl Ahead {
    fn grant(&mut self, items: u32) {
        self.credit = self.credit.saturating_add(items);
        let taken = self.sizes.len().min(items as usize);
        self.bytes -= self.sizes.drain(..taken).sum::<usize>();
    }

    fn may_go_on(&self) -> bool {
        self.credit > 0 && (self.bytes < AHEAD || self.sizes.is_empty())
    }

    fn go_on(&mut self, size: usize) {
        self.credit -= 1;
        self.sizes.push_back(size);
        self.bytes += size;
    }
}

/// A caller's stream, and where large buffers of its items go.
struct Source {
    items: InputItems,
    arena: Option<Arc<Arena>>,
}

/// What a stream gave.
enum Step {
    /// With the bytes that it takes.
    Item(ValueInArena, usize),
    /// Nothing yet.
    Later,
    End(Option<HostError>),
}

/// Reads a stream to its end, never further than was granted.
async fn read(
    call_id: u64,
    mut source: Source,
    mut granted: UnboundedReceiver<u32>,
    answers: UnboundedSender<HostResponse>,
) {
    let mut ahead = Ahead::default();
    loop {
        while !ahead.may_go_on() {
            let Some(more) = granted.recv().await else { return };
            ahead.grant(more);
        }
        while let Ok(more) = granted.try_recv() {
            ahead.grant(more);
        }
        let mut message = Message {
            call_id,
            ..Message::default()
        };
        let mut bytes = 0;
        while ahead.may_go_on() && bytes < MESSAGE && !message.end {
            // What is there already goes along with the first one.
            match source.step(message.items.is_empty()).await {
                Step::Item(ValueInArena { value, blocks }, len) => {
                    ahead.go_on(len);
                    bytes += len;
                    if !blocks.is_empty() {
                        // As many as were granted at most.
                        let item = message.items.len() as u32;
                        message.in_arena.push(ItemBlocks { item, blocks });
                    }
                    message.items.push(value);
                }
                Step::Later => break,
                Step::End(error) => (message.end, message.error) = (true, error),
            }
        }
        let end = message.end;
        let answer = HostResponse {
            id: 0,
            outcome: Some(Outcome::Input(message)),
        };
        // With the stream to the worker gone nobody waits.
        if answers.send(answer).is_err() || end {
            return;
        }
    }
}

impl Source {
    /// The next item, or that there is none yet unless it is to be waited for.
    async fn step(&mut self, wait: bool) -> Step {
        let Self { items, arena } = self;
        // An array that is made where it is put is the caller's code as well.
        let mut poll_next = |cx: &mut Context<'_>| {
            let next = items.as_mut().poll_next(cx);
            next.map(|next| {
                next.map(|item| item.map(|item| Step::Item(for_worker(arena.as_ref(), &item), item.len())))
            })
        };
        let next = poll_fn(|cx| match unwinding(|| poll_next(cx)) {
            Poll::Pending if !wait => Poll::Ready(None),
            poll => poll.map(Some),
        });
        match next.await {
            None => Step::Later,
            Some(Ok(Some(Ok(item)))) => item,
            Some(Ok(Some(Err(error)))) => Step::End(Some(error)),
            Some(Ok(None)) => Step::End(None),
            Some(Err(panic)) => {
                let text = panic_text(&*panic);
                tracing::error!("the stream of a call's input panicked: {text}");
                let message = format!("the caller's stream panicked: {text}");
                Step::End(Some(failure(Kind::Failed, message)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_ahead_by_its_credit_or_by_its_bytes() {
        let mut ahead = Ahead::default();
        assert!(!ahead.may_go_on());
        ahead.grant(2);
        ahead.go_on(1);
        ahead.go_on(AHEAD);
        assert!(!ahead.may_go_on(), "no credit");
        ahead.grant(1);
        assert!(!ahead.may_go_on(), "the large one was not taken");
        ahead.grant(1);
        assert!(ahead.may_go_on());
        ahead.go_on(2 * AHEAD);
        assert!(!ahead.may_go_on());
        ahead.grant(u32::MAX);
        assert_eq!((ahead.bytes, ahead.credit), (0, u32::MAX));
        assert!(ahead.may_go_on());
    }
}
