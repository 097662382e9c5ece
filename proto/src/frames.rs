//! Messages on a socket of their own, one behind the other.
//!
//! This is what the calls of a worker with the capability `calls` travel as: on the second socket of the [preamble](crate::preamble), a
//! [`CallRequest`](crate::v1::CallRequest) one way for each call, and its [`CallResponse`](crate::v1::CallResponse) the other way.
//! Each message is framed as gRPC frames it
//! ([Length-Prefixed-Message](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md)):
//!
//! ```text
//! offset  size  content
//! 0       1     whether the message is compressed: 0
//! 1       4     length of the message, big endian
//! 5             the message
//! ```
//!
//! There is no HTTP/2 around it, which is most of what a short call costs otherwise.

use std::{
    collections::VecDeque,
    fmt, io,
    os::unix::net::UnixStream,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{BufMut as _, Bytes};
use prost::Message;

use crate::socket::{Inbox, Outbox};

/// What is put before a message, in bytes.
pub const PREFIX: usize = 5;

/// The longest message that is written while others who send wait.
const SHORT: usize = 32 * 1024;

/// Bytes that are sent in one go.
const AT_ONCE: usize = 1024 * 1024;

/// The largest message, in bytes.
pub const MAX_LEN: usize = i32::MAX as usize;

/// The two directions of a connected socket.
///
/// # Errors
/// When the socket cannot be made non-blocking or registered.
///
/// # Panics
/// Outside of a tokio runtime with I/O.
pub fn split(socket: UnixStream) -> io::Result<(FrameReader, FrameWriter)> {
    socket.set_nonblocking(true)?;
    let socket = Arc::new(socket);
    let reader = FrameReader {
        inbox: Inbox::new(Arc::clone(&socket))?,
        large: None,
    };
    let writer = FrameWriter {
        outbox: Outbox::new(socket),
        behind: VecDeque::new(),
    };
    Ok((reader, writer))
}

/// Reads messages.
pub struct FrameReader {
    inbox: Inbox,
    large: Option<Large>,
}

/// A message that is too long to be read ahead: it is read to where it stays.
struct Large {
    bytes: Vec<u8>,
    len: usize,
}

impl FrameReader {
    /// The next message; none at the end of the stream. Buffers of a message that is longer than what is read ahead share its
    /// memory, those of others are copied out.
    ///
    /// # Errors
    /// When the socket fails, ends within a message, what comes is no message, or there is no memory for it.
    pub fn poll_next<M: Message + Default>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<M>>> {
        loop {
            if let Some(message) = self.take()? {
                return Poll::Ready(Ok(Some(message)));
            }
            let more = match &mut self.large {
                Some(large) => self.inbox.poll_into(cx, &mut large.bytes),
                None => self.inbox.poll_more(cx),
            };
            if ready!(more)? == 0 {
                let whole = self.large.is_none() && self.inbox.ahead().is_empty();
                return Poll::Ready(if whole {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                });
            }
        }
    }

    /// Whether something is there that [`poll_next`](Self::poll_next) has not taken, or has come by now. It costs a system call, and
    /// nobody is woken by what comes later: who waits polls.
    pub fn look(&mut self) -> bool {
        self.large.is_some() || !self.inbox.ahead().is_empty() || self.inbox.try_more()
    }

    /// The next message, if all of it is there.
    fn take<M: Message + Default>(&mut self) -> io::Result<Option<M>> {
        if let Some(mut large) = self.large.take_if(|large| large.bytes.len() >= large.len) {
            // The memory may have had room for more than was asked for.
            self.inbox.put_back(&large.bytes.split_off(large.len));
            return Ok(Some(M::decode(Bytes::from(large.bytes))?));
        }
        let ahead = self.inbox.ahead();
        let Some((&prefix, rest)) = ahead.split_first_chunk().filter(|_| self.large.is_none()) else {
            return Ok(None);
        };
        let len = announced(prefix)?;
        if let Some(message) = rest.get(..len) {
            let message = M::decode(message)?;
            self.inbox.take(PREFIX + len);
            return Ok(Some(message));
        }
        if PREFIX + len > self.inbox.capacity() {
            let mut bytes = Vec::new();
            // Whoever announces more than there is memory for must not be able to end this process.
            bytes.try_reserve_exact(len).map_err(|_| {
                io::Error::new(
                    io::ErrorKind::OutOfMemory,
                    format!("no memory for a message of {len} bytes"),
                )
            })?;
            bytes.extend_from_slice(rest);
            self.inbox.take(PREFIX + bytes.len());
            self.large = Some(Large { bytes, len });
        }
        Ok(None)
    }
}

/// The length that a prefix tells.
fn announced([compressed, len @ ..]: [u8; PREFIX]) -> io::Result<usize> {
    let len = u32::from_be_bytes(len) as usize;
    if compressed == 0 && len <= MAX_LEN {
        return Ok(len);
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        format!(
            "what came is no message: flag {compressed}, {len} bytes, where 0 and at most {MAX_LEN} are right"
        ),
    ))
}

impl fmt::Debug for FrameReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameReader")
            .field("ahead", &self.inbox.ahead().len())
            .finish_non_exhaustive()
    }
}

/// A message that takes a while to write, written with what is put before it; `None` for a short one, for which that is less than
/// memory of its own costs.
///
/// # Errors
/// When it is longer than [`MAX_LEN`].
pub fn write_ahead<M: Message>(message: &M) -> io::Result<Option<Vec<u8>>> {
    let len = message.encoded_len();
    (len > SHORT).then(|| frame(message)).transpose()
}

/// A message with what is put before it.
fn frame<M: Message>(message: &M) -> io::Result<Vec<u8>> {
    let mut frame = Vec::new();
    put(message, &mut frame)?;
    Ok(frame)
}

/// Writes a message behind what is there; nothing of one that is too long.
fn put<M: Message>(message: &M, frame: &mut Vec<u8>) -> io::Result<()> {
    let len = message.encoded_len();
    let announced = u32::try_from(len)
        .ok()
        .filter(|_| len <= MAX_LEN)
        .ok_or_else(|| {
            let why = format!("a message of {len} bytes, where at most {MAX_LEN} are possible");
            io::Error::new(io::ErrorKind::InvalidInput, why)
        })?;
    frame.reserve(PREFIX + len);
    frame.put_u8(0);
    frame.put_u32(announced);
    message.encode(frame).expect("a vector has room");
    Ok(())
}

/// Writes messages. When the socket fails, it is shut down both ways: what has come can still be read, and then the end.
pub struct FrameWriter {
    /// The first of those that have not left.
    outbox: Outbox,
    behind: VecDeque<Vec<u8>>,
}

impl FrameWriter {
    /// Sends a message behind those before it, as far as the socket takes it: `false` when
    /// [`poll_sent`](Self::poll_sent) has to see to the rest.
    ///
    /// # Errors
    /// `InvalidInput` when it is longer than [`MAX_LEN`], and then nothing has happened; else when the socket fails.
    pub fn send<M: Message>(&mut self, message: &M) -> io::Result<bool> {
        if self.outbox.is_full() {
            return self.send_written(frame(message)?);
        }
        put(message, &mut self.outbox.bytes)?;
        self.begin()
    }

    /// As [`send`](Self::send), of a message that was [written ahead](write_ahead).
    ///
    /// # Errors
    /// When the socket fails.
    pub fn send_written(&mut self, frame: Vec<u8>) -> io::Result<bool> {
        if self.outbox.is_full() {
            self.behind.push_back(frame);
            return Ok(false);
        }
        self.outbox.bytes = frame;
        self.begin()
    }

    fn begin(&mut self) -> io::Result<bool> {
        self.outbox
            .try_send(AT_ONCE)
            .inspect_err(|_| self.outbox.shut_down())
    }

    /// Waits until everything has been sent. Much of it takes several polls, so that others who send need not wait for all.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut left = AT_ONCE;
        loop {
            if let Err(error) = ready!(self.outbox.poll_send_of(cx, &mut left)) {
                self.outbox.shut_down();
                return Poll::Ready(Err(error));
            }
            match self.behind.pop_front() {
                Some(frame) => self.outbox.bytes = frame,
                None => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl fmt::Debug for FrameWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameWriter")
            .field("behind", &self.behind.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
