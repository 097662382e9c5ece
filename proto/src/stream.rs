//! The byte stream under HTTP/2 on an inherited channel, tuned for calls between two processes of one machine.
//!
//! tokio's own `UnixStream` would do, at two prices per call. It listens for writability all the time, and on a Unix
//! socket that is news each time the *peer* reads: a wake-up for nothing after every message sent. And it writes each
//! time HTTP/2 flushes, which is once for the headers, once for the data and once for the end of a call: the peer
//! wakes up for the first of them, only to wait for the next.
//!
//! [`ChannelStream`] listens for writability only when the socket is full, and collects what is written until the
//! connection has nothing more to say: [`Coalesced`] polls the connection, then sends what it wrote at once. It reads ahead into
//! memory of its own, since the memory it is given would have to be cleared first, all of it for each short message.

use std::{
    fmt, io,
    io::{IoSlice, Write as _},
    os::{fd::AsRawFd, unix::net::UnixStream},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use rustix::{buffer::spare_capacity, io::Errno};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, unix::AsyncFd};

/// Bytes collected before they are sent without waiting for the connection's turn to end. A larger write goes to the
/// socket as it is, uncopied.
const COLLECT: usize = 32 * 1024;

/// Bytes read ahead, where the other end sends as much: few reads for a large message, which is still in the processor's cache
/// when it is copied on. Memory that no message has reached costs nothing.
const AHEAD: usize = 64 * 1024;

/// One end of a channel. Flushing it does nothing; [`Coalesced`] sends.
pub struct ChannelStream {
    reader: AsyncFd<Arc<UnixStream>>,
    /// What was read ahead, and how much of it is taken.
    ahead: Vec<u8>,
    taken: usize,
    output: Output,
}

/// What has been written to a [`ChannelStream`] and not been sent.
#[derive(Clone)]
pub struct Output(Arc<Mutex<Unsent>>);

struct Unsent {
    socket: Arc<UnixStream>,
    /// What is collected, and how much of it has gone.
    bytes: Vec<u8>,
    sent: usize,
    /// Present while the socket is full; a descriptor of its own, so that the reader is not told.
    full: Option<AsyncFd<UnixStream>>,
}

impl ChannelStream {
    /// Wraps a connected socket; the handle goes to [`Coalesced`].
    ///
    /// # Errors
    /// When the socket cannot be made non-blocking, duplicated or registered.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O.
    pub fn new(socket: UnixStream) -> io::Result<(Self, Output)> {
        socket.set_nonblocking(true)?;
        let socket = Arc::new(socket);
        let unsent = Unsent {
            socket: Arc::clone(&socket),
            bytes: Vec::new(),
            sent: 0,
            full: None,
        };
        let output = Output(Arc::new(Mutex::new(unsent)));
        let reader = watch(socket, Interest::READABLE)?;
        Ok((
            Self {
                reader,
                ahead: Vec::with_capacity(AHEAD),
                taken: 0,
                output: output.clone(),
            },
            output,
        ))
    }
}

impl ChannelStream {
    /// Reads once, into memory that is all taken; nothing at the end of the stream.
    fn poll_read_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ahead.clear();
        self.taken = 0;
        loop {
            let mut ready = ready!(self.reader.poll_read_ready(cx))?;
            match rustix::io::read(&**self.reader.get_ref(), spare_capacity(&mut self.ahead)) {
                Ok(read) => {
                    // A short read has emptied the socket: the next one would only say so. At the end of the stream
                    // it stays ready.
                    if 0 < read && read < self.ahead.capacity() {
                        ready.clear_ready();
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }
}

#[expect(
    deprecated,
    reason = "its replacement is unsafe, for types whose descriptor may change; a socket's does not"
)]
fn watch<S: AsRawFd>(socket: S, interest: Interest) -> io::Result<AsyncFd<S>> {
    AsyncFd::with_interest(socket, interest)
}

impl AsyncRead for ChannelStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.taken == this.ahead.len() {
            ready!(this.poll_read_ahead(cx))?;
        }
        let rest = &this.ahead[this.taken..];
        let (next, _) = rest.split_at(rest.len().min(buf.remaining()));
        buf.put_slice(next);
        this.taken += next.len();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ChannelStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.output.lock().poll_take(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.output.poll_send(cx))?;
        Poll::Ready(self.reader.get_ref().shutdown(std::net::Shutdown::Write))
    }
}

impl fmt::Debug for ChannelStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelStream").finish_non_exhaustive()
    }
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, Unsent> {
        // Bytes are counted as sent in the same step as they are sent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what has been written.
    fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.lock().poll_send(cx)
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").finish_non_exhaustive()
    }
}

impl Unsent {
    /// Takes bytes: collects few, sends many.
    fn poll_take(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let total = bufs.iter().map(|buf| buf.len()).sum();
        if self.bytes.len() + total <= COLLECT {
            bufs.iter().for_each(|buf| self.bytes.extend_from_slice(buf));
            return Poll::Ready(Ok(total));
        }
        ready!(self.poll_send(cx))?;
        if total <= COLLECT {
            bufs.iter().for_each(|buf| self.bytes.extend_from_slice(buf));
            return Poll::Ready(Ok(total));
        }
        self.poll_socket(cx, |mut socket, _| socket.write_vectored(bufs))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.bytes.len() {
            let sent = ready!(self.poll_socket(cx, |mut socket, unsent| socket.write(unsent)))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += sent;
        }
        self.bytes.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    fn listen(&self) -> io::Result<AsyncFd<UnixStream>> {
        watch(self.socket.try_clone()?, Interest::WRITABLE)
    }

    /// Writes to the socket; waits when it is full, and listens for room only then.
    fn poll_socket(
        &mut self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(&UnixStream, &[u8]) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let guard = match &self.full {
                Some(full) => Some(ready!(full.poll_write_ready(cx))?),
                None => None,
            };
            match write(&self.socket, &self.bytes[self.sent..]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match guard {
                    Some(mut guard) => guard.clear_ready(),
                    None => match self.listen() {
                        Ok(full) => self.full = Some(full),
                        // Out of descriptors, say: what cannot be listened for is looked for, turn by turn.
                        Err(_) => {
                            cx.waker().wake_by_ref();
                            return Poll::Pending;
                        }
                    },
                },
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => {
                    self.full = None;
                    return Poll::Ready(done);
                }
            }
        }
    }
}

/// A connection whose messages leave together: after each turn of the connection, what it wrote is sent.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Coalesced<F> {
    connection: F,
    output: Output,
}

impl<F: Future + Unpin> Coalesced<F> {
    /// Polls `connection`, which writes to the stream that `output` belongs to.
    pub fn new(connection: F, output: Output) -> Self {
        Self { connection, output }
    }

    /// The connection.
    pub fn get_mut(&mut self) -> &mut F {
        &mut self.connection
    }

    /// Whether the socket has not taken all that was written by the last turn.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let unsent = self.output.lock();
        unsent.full.is_some() || !unsent.bytes.is_empty()
    }
}

impl<F: Future + Unpin> Future for Coalesced<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let done = Pin::new(&mut self.connection).poll(cx);
        // Sending that has to wait wakes this future again; sending that fails is met by the connection's next read.
        let _ = self.output.poll_send(cx);
        done
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_is_written_in_a_turn_leaves_in_one_piece() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut stream, output) = ChannelStream::new(ours).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let mut buffer = [0; 16];
        let connection = Box::pin(async {
            stream.write_all(b"head").await.unwrap();
            stream.flush().await.unwrap();
            stream.write_all(b"body").await.unwrap();
            stream.flush().await.unwrap();
            assert_eq!(
                (&theirs).read(&mut buffer).unwrap_err().kind(),
                io::ErrorKind::WouldBlock
            );
        });
        Coalesced::new(connection, output).await;
        assert_eq!((&theirs).read(&mut buffer).unwrap(), 8);
        assert_eq!(&buffer[..8], b"headbody");
    }

    #[tokio::test]
    async fn megabytes_pass_both_ways_through_full_sockets() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let [mut left, mut right] = [ours, theirs].map(|socket| {
            let (stream, output) = ChannelStream::new(socket).unwrap();
            Some((stream, output))
        });
        let data: Vec<u8> = (0..5_000_000_u32).map(|at| at as u8).collect();
        let run = |end: &mut Option<(ChannelStream, Output)>| {
            let (mut stream, output) = end.take().unwrap();
            let data = data.clone();
            let connection = Box::pin(async move {
                let (mut reader, mut writer) = tokio::io::split(&mut stream);
                let mut received = vec![0; data.len()];
                let write = async {
                    for chunk in data.chunks(70_001) {
                        writer.write_all(chunk).await.unwrap();
                        writer.write_all(b"").await.unwrap();
                    }
                    writer.shutdown().await.unwrap();
                };
                let read = async { reader.read_exact(&mut received).await.unwrap() };
                tokio::join!(write, read);
                received == data
            });
            tokio::spawn(Coalesced::new(connection, output))
        };
        let (left, right) = (run(&mut left), run(&mut right));
        assert!(left.await.unwrap() && right.await.unwrap());
    }

    #[tokio::test]
    async fn what_was_read_ahead_is_there_without_the_socket() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut stream, _output) = ChannelStream::new(ours).unwrap();
        (&theirs).write_all(b"one two ").unwrap();
        let mut word = [0; 4];
        stream.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"one ");
        (&theirs).write_all(b"three").unwrap();
        drop(theirs);
        stream.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"two ");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"three");
    }

    #[tokio::test]
    async fn the_end_of_the_stream_is_seen() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut stream, _output) = ChannelStream::new(ours).unwrap();
        (&theirs).write_all(b"last").unwrap();
        drop(theirs);
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, b"last");
    }
}
