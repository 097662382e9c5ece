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
    Ok((reader, FrameWriter(Outbox::new(socket))))
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

/// Writes messages. When the socket fails, it is shut down both ways: what has come can still be read, and then the end.
pub struct FrameWriter(Outbox);

impl FrameWriter {
    /// Sends a message behind those before it, as far as the socket takes it: `false` when [`poll_sent`](Self::poll_sent) has to see
    /// to the rest.
    ///
    /// # Errors
    /// When the socket fails, or the message is longer than [`MAX_LEN`]; nothing of it is sent then.
    pub fn send<M: Message>(&mut self, message: &M) -> io::Result<bool> {
        let len = message.encoded_len();
        let announced = u32::try_from(len)
            .ok()
            .filter(|_| len <= MAX_LEN)
            .ok_or_else(|| {
                let why = format!("a message of {len} bytes, where at most {MAX_LEN} are possible");
                io::Error::new(io::ErrorKind::InvalidInput, why)
            })?;
        let waits = self.0.is_full();
        let bytes = &mut self.0.bytes;
        bytes.reserve(PREFIX + len);
        bytes.put_u8(0);
        bytes.put_u32(announced);
        message.encode(bytes).expect("a vector has room");
        if waits {
            return Ok(false);
        }
        self.0.try_send().inspect_err(|_| self.0.shut_down())
    }

    /// Waits until everything has been sent.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = ready!(self.0.poll_send(cx));
        Poll::Ready(sent.inspect_err(|_| self.0.shut_down()))
    }
}

impl fmt::Debug for FrameWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameWriter")
            .field("is_full", &self.0.is_full())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
