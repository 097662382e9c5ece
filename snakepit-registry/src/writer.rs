//! The thread that writes a store.
//!
//! Requests that arrive while it writes are gathered, applied together, and answered after one blocking flush. sled's
//! `flush_async` is not used: concurrent calls of it deadlock in 0.34 (spacejam/sled#1308).

use std::{
    io,
    sync::{Arc, mpsc},
    thread,
};

use tokio::sync::oneshot;

use crate::store::{Change, Store, StoreError};

/// What a batch came to. One failure is every asker's.
pub(crate) type Answer = Result<(), Arc<StoreError>>;

/// What the thread writes to.
pub(crate) trait Sink: Send + 'static {
    /// Makes the changes and returns when they would survive us.
    fn apply(&mut self, changes: &[Change]) -> Result<(), StoreError>;
}

impl Sink for Store {
    fn apply(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        Store::apply(self, changes)
    }
}

struct Request {
    change: Change,
    answer: oneshot::Sender<Answer>,
}

/// The sending end. The thread ends when this is dropped and what was asked for is done.
#[derive(Debug)]
pub(crate) struct Writer {
    requests: mpsc::Sender<Request>,
    /// Ends with the thread.
    done: mpsc::Receiver<()>,
}

impl Writer {
    /// Starts the thread.
    pub(crate) fn start(sink: impl Sink) -> io::Result<Self> {
        let (requests, inbox) = mpsc::channel();
        let (alive, done) = mpsc::channel();
        thread::Builder::new()
            .name("snakepit-ledger".to_owned())
            .spawn(move || {
                run(sink, &inbox);
                drop(alive);
            })?;
        Ok(Self { requests, done })
    }

    /// Hands over a change; requests are done in the order of these calls.
    pub(crate) fn send(&self, change: Change) -> oneshot::Receiver<Answer> {
        let (answer, answered) = oneshot::channel();
        // A thread that is gone drops the request, which whoever waits sees.
        let _ = self.requests.send(Request { change, answer });
        answered
    }

    /// Ends the thread: what was asked for is done, the store is closed. `false` when that takes longer than `bound`.
    pub(crate) fn close(self, bound: std::time::Duration) -> bool {
        drop(self.requests);
        self.done.recv_timeout(bound) == Err(mpsc::RecvTimeoutError::Disconnected)
    }
}

fn run(mut sink: impl Sink, inbox: &mpsc::Receiver<Request>) {
    while let Ok(first) = inbox.recv() {
        let (changes, answers): (Vec<_>, Vec<_>) = std::iter::once(first)
            .chain(inbox.try_iter())
            .map(|request| (request.change, request.answer))
            .unzip();
        let outcome = sink.apply(&changes).map_err(Arc::new);
        for answer in answers {
            // Whoever does not wait any more does not need it.
            let _ = answer.send(outcome.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use snakepit_core::WorkerId;

    use super::*;

    /// Counts batches, each of which waits for a permission.
    struct Counting {
        batches: Arc<AtomicUsize>,
        permissions: mpsc::Receiver<()>,
        seen: Vec<u64>,
    }

    impl Sink for Counting {
        fn apply(&mut self, changes: &[Change]) -> Result<(), StoreError> {
            self.permissions.recv().map_err(|_| StoreError::NoVersion)?;
            self.batches.fetch_add(1, Ordering::Relaxed);
            self.seen.extend(changes.iter().map(|change| change.worker.0));
            assert!(self.seen.is_sorted(), "in the order of the requests");
            Ok(())
        }
    }

    fn change(worker: u64) -> Change {
        Change {
            worker: WorkerId(worker),
            row: None,
        }
    }

    #[tokio::test]
    async fn requests_that_come_during_a_write_share_the_next_one() {
        let batches = Arc::new(AtomicUsize::new(0));
        let (permit, permissions) = mpsc::channel();
        let writer = Writer::start(Counting {
            batches: Arc::clone(&batches),
            permissions,
            seen: Vec::new(),
        })
        .unwrap();
        let answers: Vec<_> = (0..100).map(|worker| writer.send(change(worker))).collect();
        for _ in 0..100 {
            permit.send(()).unwrap();
        }
        for answer in answers {
            answer.await.unwrap().unwrap();
        }
        // The thread may take any number of them as the first batch; all others are the second one.
        assert!(batches.load(Ordering::Relaxed) <= 2, "{batches:?}");
        drop(permit);
        assert!(writer.close(Duration::from_secs(60)));
    }

    #[tokio::test]
    async fn a_failure_is_told_to_everybody_who_asked() {
        let (permit, permissions) = mpsc::channel();
        let writer = Writer::start(Counting {
            batches: Arc::default(),
            permissions,
            seen: Vec::new(),
        })
        .unwrap();
        let answers = [writer.send(change(1)), writer.send(change(2))];
        drop(permit);
        for answer in answers {
            assert!(answer.await.unwrap().is_err());
        }
    }

    #[test]
    fn a_thread_that_hangs_does_not_hold_up_the_close() {
        let (_permit, permissions) = mpsc::channel();
        let writer = Writer::start(Counting {
            batches: Arc::default(),
            permissions,
            seen: Vec::new(),
        })
        .unwrap();
        let answer = writer.send(change(1));
        assert!(!writer.close(Duration::from_millis(10)));
        drop(answer);
    }
}
