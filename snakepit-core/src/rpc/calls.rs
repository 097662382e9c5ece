//! Many calls over one socket.
//!
//! A call is a message there and a message back, and nothing else (see ADR-019): no stream of HTTP/2, and no hand-over between
//! tasks on the way there. [`snakepit_proto::frames`] describes what goes over the socket.

use std::{
    convert::Infallible,
    fmt,
    future::poll_fn,
    io,
    os::unix::net::UnixStream,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use snakepit_proto::{
    frames::{self, FrameReader, FrameWriter},
    v1::{CallRequest, CallResponse},
};
use tokio::sync::{Notify, oneshot};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::worker::TransportError;

type Answer = Result<CallResponse, TransportError>;

/// The host's end of the socket. Clones share it; the last one that is dropped closes it.
#[derive(Clone)]
pub(crate) struct Calls {
    shared: Arc<Shared>,
    closed: CancellationToken,
    _driver: Arc<AbortOnDropHandle<()>>,
}

struct Shared {
    /// `None` once nothing more is answered.
    requests: Mutex<Option<FrameWriter>>,
    /// Calls under way: as many as the worker runs at a time, and a few ahead.
    waiting: Mutex<Vec<(u64, oneshot::Sender<Answer>)>>,
    /// Woken when the socket is full and something is left to be sent.
    rest: Notify,
}

impl Shared {
    fn requests(&self) -> MutexGuard<'_, Option<FrameWriter>> {
        // Each use leaves it whole.
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<(u64, oneshot::Sender<Answer>)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever waits for the answer to a call.
    fn take(&self, call_id: u64) -> Option<oneshot::Sender<Answer>> {
        let mut waiting = self.waiting();
        let at = waiting.iter().position(|(id, _)| *id == call_id)?;
        Some(waiting.swap_remove(at).1)
    }

    /// Hands answers to those who wait for them; why that has come to an end.
    async fn hand_out(&self, mut answers: FrameReader) -> String {
        loop {
            match poll_fn(|cx| answers.poll_next::<CallResponse>(cx)).await {
                // Nobody waits for one whose caller has given up, or that was never asked for.
                Ok(Some(answer)) => {
                    if let Some(waiting) = self.take(answer.call_id) {
                        let _ = waiting.send(Ok(answer));
                    }
                }
                Ok(None) => return "the worker has closed it".to_owned(),
                Err(error) => return error.to_string(),
            }
        }
    }

    /// Sends what a full socket did not take at once.
    async fn send_rest(&self) -> Infallible {
        loop {
            self.rest.notified().await;
            let sent = poll_fn(|cx| match &mut *self.requests() {
                Some(requests) => requests.poll_sent(cx),
                None => io::Result::Ok(()).into(),
            });
            if let Err(error) = sent.await {
                // The end comes to who reads, behind the answers that have come.
                tracing::debug!(%error, "cannot send a call");
            }
        }
    }
}

/// Tells those who wait that nothing more is answered, also when the runtime drops the task that reads.
struct End {
    shared: Arc<Shared>,
    why: String,
    closed: CancellationToken,
}

impl End {
    fn because(mut self, why: String) {
        self.why = why;
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // What is sent from now on is refused; then those who have sent are told.
        drop(self.shared.requests().take());
        let waiting = std::mem::take(&mut *self.shared.waiting());
        for (_, answer) in waiting {
            // An error means that nobody waits any more.
            let _ = answer.send(Err(failed(&self.why)));
        }
        self.closed.cancel();
    }
}

fn failed(why: &str) -> TransportError {
    TransportError {
        message: format!("the socket of calls has ended: {why}"),
    }
}

impl Calls {
    /// Begins to read answers.
    ///
    /// # Errors
    /// When the socket cannot be registered.
    pub(crate) fn open(socket: UnixStream) -> io::Result<Self> {
        let (answers, requests) = frames::split(socket)?;
        let shared = Arc::new(Shared {
            requests: Mutex::new(Some(requests)),
            waiting: Mutex::default(),
            rest: Notify::new(),
        });
        let closed = CancellationToken::new();
        let end = End {
            shared: Arc::clone(&shared),
            why: "the host has left it".to_owned(),
            closed: closed.clone(),
        };
        let driver = tokio::spawn(async move {
            let why = tokio::select! {
                // Answers are what there is to do nearly always.
                biased;
                why = end.shared.hand_out(answers) => why,
                never = end.shared.send_rest() => match never {},
            };
            end.because(why);
        });
        Ok(Self {
            shared,
            closed,
            _driver: Arc::new(AbortOnDropHandle::new(driver)),
        })
    }

    /// Sends a call; the answer resolves when it is there. Dropping it gives up the answer, not the call.
    pub(crate) fn call(&self, request: &CallRequest) -> oneshot::Receiver<Answer> {
        let (answer, answered) = oneshot::channel();
        let written = match frames::write_ahead(request) {
            Ok(written) => written,
            Err(error) => {
                // It cannot have been dropped yet.
                let _ = answer.send(Err(TransportError {
                    message: error.to_string(),
                }));
                return answered;
            }
        };
        self.shared.waiting().push((request.call_id, answer));
        let sent = match &mut *self.shared.requests() {
            Some(requests) => match written {
                Some(written) => requests.send_written(written),
                None => requests.send(request),
            }
            .map_err(|error| error.to_string()),
            None => Err("it was closed before".to_owned()),
        };
        match sent {
            Ok(true) => {}
            Ok(false) => self.shared.rest.notify_one(),
            Err(why) => {
                if let Some(answer) = self.shared.take(request.call_id) {
                    // It cannot have been dropped yet.
                    let _ = answer.send(Err(failed(&why)));
                }
            }
        }
        answered
    }

    /// Resolves when nothing more is answered.
    pub(crate) async fn closed(&self) {
        self.closed.cancelled().await;
    }
}

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calls")
            .field("waiting", &self.shared.waiting().len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, thread};

    use super::*;

    fn request(call_id: u64, len: usize) -> CallRequest {
        CallRequest {
            call_id,
            args: vec![7; len].into(),
            ..CallRequest::default()
        }
    }

    /// A worker in a thread of its own, which answers so many calls in the opposite order and is gone.
    fn worker(socket: UnixStream, count: usize) -> thread::JoinHandle<Vec<CallRequest>> {
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .build()
                .unwrap();
            runtime.block_on(async {
                let (mut requests, mut answers) = frames::split(socket).unwrap();
                let mut read: Vec<CallRequest> = Vec::new();
                while read.len() < count {
                    read.push(poll_fn(|cx| requests.poll_next(cx)).await.unwrap().unwrap());
                }
                for request in read.iter().rev() {
                    let answer = CallResponse {
                        call_id: request.call_id,
                        outcome: None,
                    };
                    answers.send(&answer).unwrap();
                }
                poll_fn(|cx| answers.poll_sent(cx)).await.unwrap();
                read
            })
        })
    }

    #[tokio::test]
    async fn an_answer_that_comes_with_the_end_of_the_worker_is_handed_out() {
        for call_id in 1..=30 {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let calls = Calls::open(ours).unwrap();
            let worker = worker(theirs, 1);
            let answer = calls.call(&request(call_id, 0));
            // What the host is told, it hears when the worker is gone.
            worker.join().unwrap();
            assert_eq!(answer.await.unwrap().unwrap().call_id, call_id);
            calls.closed().await;
        }
    }

    #[tokio::test]
    async fn answers_go_to_those_who_asked_also_through_a_full_socket() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let calls = Calls::open(ours).unwrap();
        let sent: Vec<_> = (1..=5).map(|id| request(id, 300_000)).collect();
        let mut answers: Vec<_> = sent.iter().map(|request| calls.call(request)).collect();
        // One that gives up is nobody's answer.
        drop(answers.remove(2));
        let worker = worker(theirs, sent.len());
        for (answer, call_id) in answers.into_iter().zip([1, 2, 4, 5]) {
            assert_eq!(answer.await.unwrap().unwrap().call_id, call_id);
        }
        assert_eq!(worker.join().unwrap(), sent);
    }

    #[tokio::test]
    async fn the_end_of_the_socket_is_told_to_those_who_wait_and_those_who_come() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let calls = Calls::open(ours).unwrap();
        // More than the socket holds: it waits to be sent.
        let waits = calls.call(&request(1, 3_000_000));
        drop(theirs);
        let why = waits.await.unwrap().unwrap_err().to_string();
        assert!(why.contains("the socket of calls has ended"), "{why}");
        calls.closed().await;
        let why = calls.call(&request(2, 0)).await.unwrap().unwrap_err().to_string();
        assert!(why.contains("closed before"), "{why}");
    }

    #[tokio::test]
    async fn what_is_no_answer_ends_it() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let calls = Calls::open(ours).unwrap();
        let waits = calls.call(&request(1, 0));
        io::Write::write_all(&mut &theirs, &[9; 5]).unwrap();
        let why = waits.await.unwrap().unwrap_err().to_string();
        assert!(why.contains("no message"), "{why}");
    }

    #[tokio::test]
    async fn the_last_handle_closes_the_socket() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let calls = Calls::open(ours).unwrap();
        let (copy, waits) = (calls.clone(), calls.call(&request(1, 0)));
        drop(calls);
        assert!(!copy.closed.is_cancelled());
        drop(copy);
        assert!(waits.await.unwrap().is_err());
        let mut read = Vec::new();
        theirs.read_to_end(&mut read).unwrap();
    }
}
