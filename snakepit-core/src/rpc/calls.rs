//! Many calls over one stream of a connection.
//!
//! A unary call is a stream of HTTP/2: headers there and back, trailers, the state of a stream on both sides. Over a stream that
//! stays open a call is a message there and a message back (see ADR-015). The messages are framed as gRPC frames them: a byte
//! that says whether it is compressed, which it never is, its length in 32 bits, big endian, and the message.

use std::{
    collections::HashMap,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::{
    RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{HeaderMap, Method, Request, header};
use prost::Message as _;
use snakepit_proto::v1::{CallRequest, CallResponse};
use tokio::sync::oneshot;

use super::MAX_MESSAGE_LEN;
use crate::worker::TransportError;

/// The method that the stream is of.
const PATH: &str = "http://worker/snakepit.worker.v1.Worker/Calls";
/// What gRPC puts before a message.
const PREFIX: usize = 5;

type Answer = Result<CallResponse, TransportError>;

/// The caller's side of the stream. Clones share it.
#[derive(Clone)]
pub(crate) struct Calls {
    shared: Arc<Shared>,
}

struct Shared {
    /// `None` once it has ended.
    requests: Mutex<Option<SendStream<Bytes>>>,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
}

impl Shared {
    fn requests(&self) -> MutexGuard<'_, Option<SendStream<Bytes>>> {
        // Each use leaves it whole.
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing more is answered.
    fn end(&self, why: &str) {
        // What is sent from now on is refused; then those who have sent are told.
        drop(self.requests().take());
        let waiting = std::mem::take(&mut *self.waiting());
        for (_, answer) in waiting {
            // An error means that nobody waits any more.
            let _ = answer.send(Err(failed(why)));
        }
    }
}

fn failed(why: &str) -> TransportError {
    TransportError {
        message: format!("the stream of calls has ended: {why}"),
    }
}

impl Calls {
    /// Opens the stream. The answers have to be polled by the task that drives the connection, so that nothing is handed on
    /// between tasks.
    ///
    /// # Errors
    /// When the connection is closed.
    pub(super) fn open(sender: &mut SendRequest<Bytes>) -> Result<(Self, Answers), h2::Error> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(PATH)
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(())
            .expect("its parts are constants");
        let (response, requests) = sender.send_request(request, false)?;
        let shared = Arc::new(Shared {
            requests: Mutex::new(Some(requests)),
            waiting: Mutex::default(),
        });
        let answers = Answers {
            shared: Arc::clone(&shared),
            state: State::Opening(response),
            bytes: BytesMut::new(),
        };
        Ok((Self { shared }, answers))
    }

    /// Sends a call; the answer resolves when it is there. Dropping it gives up the answer, not the call.
    pub(crate) fn call(&self, request: &CallRequest) -> oneshot::Receiver<Answer> {
        let (answer, answered) = oneshot::channel();
        let length = request.encoded_len();
        let mut message = BytesMut::with_capacity(PREFIX + length);
        message.put_u8(0);
        // The pool has compared it with the longest message there may be.
        message.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        request.encode(&mut message).expect("there is room for it");
        self.shared.waiting().insert(request.call_id, answer);
        let sent = match &mut *self.shared.requests() {
            Some(requests) => requests
                .send_data(message.freeze(), false)
                .map_err(|error| error.to_string()),
            None => Err("it was closed before".to_owned()),
        };
        if let Err(why) = sent
            && let Some(answer) = self.shared.waiting().remove(&request.call_id)
        {
            // It cannot have been dropped yet.
            let _ = answer.send(Err(failed(&why)));
        }
        answered
    }
}

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calls")
            .field("waiting", &self.shared.waiting().len())
            .finish_non_exhaustive()
    }
}

/// Takes answers off the stream and hands them to whoever waits for them, until the stream ends.
pub(super) struct Answers {
    shared: Arc<Shared>,
    state: State,
    /// A message whose end is still to come.
    bytes: BytesMut,
}

enum State {
    Opening(ResponseFuture),
    Open(RecvStream),
}

impl Answers {
    /// Why the stream has ended.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        loop {
            match &mut self.state {
                State::Opening(response) => match ready!(Pin::new(response).poll(cx)) {
                    Ok(response) => {
                        // A refusal has its status in the headers, or no gRPC at all.
                        if !response.status().is_success() || response.headers().contains_key("grpc-status") {
                            let status = response.status();
                            return Poll::Ready(refusal(response.headers(), status.as_u16()));
                        }
                        self.state = State::Open(response.into_body());
                    }
                    Err(error) => return Poll::Ready(error.to_string()),
                },
                State::Open(stream) => match ready!(stream.poll_data(cx)) {
                    Some(Ok(data)) => {
                        // Fails only for more than was received.
                        let _ = stream.flow_control().release_capacity(data.len());
                        if let Err(why) = self.take(data) {
                            return Poll::Ready(why);
                        }
                    }
                    Some(Err(error)) => return Poll::Ready(error.to_string()),
                    None => return Poll::Ready("the worker has ended it".to_owned()),
                },
            }
        }
    }

    /// Hands out the messages that are complete with these bytes.
    fn take(&mut self, data: Bytes) -> Result<(), String> {
        let mut rest = if self.bytes.is_empty() {
            data
        } else {
            self.bytes.extend_from_slice(&data);
            match needed(&self.bytes)? {
                Some(length) if self.bytes.len() >= length => self.bytes.split().freeze(),
                Some(length) => {
                    self.bytes.reserve(length - self.bytes.len());
                    return Ok(());
                }
                None => return Ok(()),
            }
        };
        while let Some(length) = needed(&rest)?
            && rest.len() >= length
        {
            let message = rest.split_to(length).slice(PREFIX..);
            let answer = CallResponse::decode(message).map_err(|error| error.to_string())?;
            // Nobody waits for one whose caller has given up, or that was never asked for.
            if let Some(waiting) = self.shared.waiting().remove(&answer.call_id) {
                let _ = waiting.send(Ok(answer));
            }
        }
        if !rest.is_empty() {
            if let Some(length) = needed(&rest)? {
                self.bytes.reserve(length);
            }
            self.bytes.extend_from_slice(&rest);
        }
        Ok(())
    }
}

/// Bytes of the message that begins here, its prefix included; `None` while that cannot be told.
fn needed(bytes: &[u8]) -> Result<Option<usize>, String> {
    let Some(&[compressed, a, b, c, d]) = bytes.first_chunk::<PREFIX>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if compressed != 0 || length > MAX_MESSAGE_LEN {
        return Err(format!("what came is no answer: {compressed}, {length} bytes"));
    }
    Ok(Some(PREFIX + length))
}

fn refusal(headers: &HeaderMap, status: u16) -> String {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("none")
    };
    format!(
        "the worker refuses it: HTTP {status}, gRPC status {}, {}",
        text("grpc-status"),
        text("grpc-message")
    )
}

impl Future for Answers {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let why = ready!(self.poll_end(cx));
        self.shared.end(&why);
        Poll::Ready(())
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.shared.end("the connection is closed");
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, os::unix::net::UnixStream};

    use super::*;
    use crate::rpc::Connection;

    /// Answers one call and is gone, in a thread of its own, before the host has read any of it.
    fn answer_and_die(socket: UnixStream) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .unwrap();
        runtime.block_on(async {
            socket.set_nonblocking(true).unwrap();
            let socket = tokio::net::UnixStream::from_std(socket).unwrap();
            let mut connection = h2::server::handshake(socket).await.unwrap();
            let (request, mut respond) = connection.accept().await.unwrap().unwrap();
            let mut calls = request.into_body();
            let call = tokio::select! {
                call = calls.data() => call.unwrap().unwrap(),
                _ = connection.accept() => panic!("the host has left"),
            };
            let CallRequest { call_id, .. } = CallRequest::decode(&call[PREFIX..]).unwrap();
            let answer = CallResponse {
                call_id,
                outcome: None,
            };
            let mut message = vec![0, 0, 0, 0, answer.encoded_len() as u8];
            answer.encode(&mut message).unwrap();
            let mut answers = respond.send_response(http::Response::new(()), false).unwrap();
            answers.send_data(message.into(), false).unwrap();
            // A turn in which it is sent, and nothing comes.
            poll_fn(|cx| Poll::Ready(connection.poll_accept(cx).is_pending())).await;
        });
    }

    #[tokio::test]
    async fn an_answer_that_comes_with_the_end_of_the_worker_is_handed_out() {
        // What comes together differs from time to time.
        for call_id in 1..=30 {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let worker = std::thread::spawn(move || answer_and_die(theirs));
            let connection = Connection::open(ours).await.unwrap();
            let calls = connection.calls().await.unwrap();
            let answer = calls.call(&CallRequest {
                call_id,
                ..CallRequest::default()
            });
            // What the host has to say is said; what it is told, it hears when the worker is gone.
            while !worker.is_finished() {
                tokio::task::yield_now().await;
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            assert_eq!(answer.await.unwrap().unwrap().call_id, call_id);
        }
    }
}
