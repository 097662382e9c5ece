//! The byte stream under HTTP/2 on an inherited channel, tuned for calls between two processes of one machine.
//!
//! tokio's own `UnixStream` would do, at a price. It writes each time HTTP/2 flushes, which is once for the headers, once for
//! the data and once for the end of a call: the peer wakes up for the first of them, only to wait for the next.
//! [`ChannelStream`] collects what is written until the connection has nothing more to say: [`Coalesced`] polls the connection,
//! then sends what it wrote at once.

use std::{
    fmt,
    future::poll_fn,
    io::{self, IoSlice},
    os::unix::net::UnixStream,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::socket::{Inbox, Outbox};

/// Bytes collected before they are sent without waiting for the connection's turn to end. A larger write goes to the
/// socket as it is, uncopied.
const COLLECT: usize = 32 * 1024;

/// One end of a channel. Flushing it does nothing; [`Coalesced`] sends.
pub struct ChannelStream {
    inbox: Inbox,
    output: Output,
}

/// What has been written to a [`ChannelStream`] and not been sent.
#[derive(Clone)]
pub struct Output(Arc<Mutex<Outbox>>);

impl ChannelStream {
    /// Wraps a connected socket; the handle goes to [`Coalesced`].
    ///
    /// # Errors
    /// When the socket cannot be made non-blocking or registered.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O.
    pub fn new(socket: UnixStream) -> io::Result<(Self, Output)> {
        socket.set_nonblocking(true)?;
        let socket = Arc::new(socket);
        let output = Output(Arc::new(Mutex::new(Outbox::new(Arc::clone(&socket)))));
        let inbox = Inbox::new(socket)?;
        Ok((
            Self {
                inbox,
                output: output.clone(),
            },
            output,
        ))
    }
}

impl ChannelStream {
    /// Waits until something has come, or the end.
    ///
    /// # Errors
    /// When the socket fails.
    ///
    /// # Cancel safety
    /// Safe; nothing is lost.
    pub async fn readable(&mut self) -> io::Result<()> {
        if self.inbox.ahead().is_empty() {
            poll_fn(|cx| self.inbox.poll_more(cx)).await?;
        }
        Ok(())
    }
}

impl AsyncRead for ChannelStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.inbox.ahead().is_empty() {
            ready!(this.inbox.poll_more(cx))?;
        }
        let ahead = this.inbox.ahead();
        let (next, _) = ahead.split_at(ahead.len().min(buf.remaining()));
        buf.put_slice(next);
        let count = next.len();
        this.inbox.take(count);
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
        self.output.poll_take(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.output.lock().poll_send(cx))?;
        Poll::Ready(self.inbox.socket().shutdown(std::net::Shutdown::Write))
    }
}

impl fmt::Debug for ChannelStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelStream").finish_non_exhaustive()
    }
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, Outbox> {
        // Bytes are counted as sent in the same step as they are sent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes bytes: collects few, sends many.
    fn poll_take(&self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut outbox = self.lock();
        let total = bufs.iter().map(|buf| buf.len()).sum();
        if outbox.bytes.len() + total > COLLECT {
            ready!(outbox.poll_send(cx))?;
        }
        if total > COLLECT {
            return outbox.poll_past(cx, bufs);
        }
        bufs.iter().for_each(|buf| outbox.bytes.extend_from_slice(buf));
        Poll::Ready(Ok(total))
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").finish_non_exhaustive()
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
        self.output.lock().is_full()
    }
}

impl<F: Future + Unpin> Future for Coalesced<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let done = Pin::new(&mut self.connection).poll(cx);
        // Sending that has to wait wakes this future again; sending that fails is met by the connection's next read.
        let _ = self.output.lock().poll_send(cx);
        done
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

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
    async fn what_has_been_waited_for_is_still_to_be_read() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut stream, _output) = ChannelStream::new(ours).unwrap();
        (&theirs).write_all(b"all").unwrap();
        stream.readable().await.unwrap();
        stream.readable().await.unwrap();
        drop(theirs);
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, b"all");
        stream.readable().await.unwrap();
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
