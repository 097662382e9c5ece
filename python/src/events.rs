//! Log records on their way to the host: a bounded buffer that never makes a logging thread wait.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use snakepit_proto::v1::{Event, LogRecord, event};
use tokio::sync::Notify;

/// Records kept for a subscriber that is slow or has not come yet: the start-up of a chatty library fits, and
/// at a typical 200 bytes each it costs under half a megabyte.
const CAPACITY: usize = 2048;

/// Where records go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sink {
    /// To standard error: nobody has shown interest in events.
    Stderr,
    /// Into the buffer: a host is there, which subscribes or will.
    Buffer,
}

#[derive(Debug)]
struct State {
    sink: Sink,
    queue: VecDeque<LogRecord>,
    dropped: u64,
    /// The subscription that may take records; an older one ends when a newer comes.
    subscription: u64,
    closed: bool,
}

/// The buffer between Python's logging and the `Events` stream.
#[derive(Debug)]
pub(crate) struct Events {
    state: Mutex<State>,
    changed: Notify,
}

impl Events {
    /// `host_expected` says that records are worth keeping before the first subscription.
    pub(crate) fn new(host_expected: bool) -> Self {
        let sink = if host_expected { Sink::Buffer } else { Sink::Stderr };
        let state = State {
            sink,
            queue: VecDeque::new(),
            dropped: 0,
            subscription: 0,
            closed: false,
        };
        Self {
            state: Mutex::new(state),
            changed: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A host has shown itself: keep records for it from now on.
    pub(crate) fn expect_host(&self) {
        self.lock().sink = Sink::Buffer;
    }

    /// Takes one record. False means that the caller writes it to standard error itself.
    pub(crate) fn push(&self, record: LogRecord) -> bool {
        let mut state = self.lock();
        if state.sink == Sink::Stderr || state.closed {
            return false;
        }
        if state.queue.len() == CAPACITY {
            state.dropped += 1;
            return true;
        }
        state.queue.push_back(record);
        drop(state);
        self.changed.notify_waiters();
        true
    }

    /// Begins a subscription; an earlier one ends.
    pub(crate) fn subscribe(&self) -> u64 {
        let mut state = self.lock();
        state.sink = Sink::Buffer;
        state.subscription += 1;
        let number = state.subscription;
        drop(state);
        self.changed.notify_waiters();
        number
    }

    /// The next event of a subscription; `None` when it has ended.
    pub(crate) async fn next(&self, subscription: u64) -> Option<Event> {
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            {
                let mut state = self.lock();
                if state.subscription != subscription {
                    return None;
                }
                if let Some(record) = state.queue.pop_front() {
                    return Some(Event {
                        event: Some(event::Event::Log(record)),
                    });
                }
                if state.dropped > 0 {
                    let dropped = std::mem::take(&mut state.dropped);
                    return Some(Event {
                        event: Some(event::Event::Dropped(dropped)),
                    });
                }
                if state.closed {
                    return None;
                }
            }
            changed.await;
        }
    }

    /// No more records: subscriptions end when they have taken what is left.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_waiters();
    }

    /// Writes what nobody took to standard error; the last thing before the process ends.
    pub(crate) fn spill(&self) {
        let left = std::mem::take(&mut self.lock().queue);
        for record in left {
            eprintln!("{}: {}", record.logger, record.message);
            if !record.exception.is_empty() {
                eprintln!("{}", record.exception);
            }
        }
    }
}
