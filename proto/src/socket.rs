//! A socket between two processes of one machine: read ahead, and listened to for room only while it is full.
//!
//! tokio's own `UnixStream` listens for writability all the time, and on a Unix socket that is news each time the *peer* reads: a
//! wake-up for nothing after every message sent. And memory that it reads into is cleared first, all of it for each short message.

use std::{
    io::{self, IoSlice},
    os::{fd::AsRawFd, unix::net::UnixStream},
    sync::Arc,
    task::{Context, Poll, ready},
};

use rustix::{
    buffer::spare_capacity,
    io::Errno,
    net::{SendAncillaryBuffer, SendFlags, send, sendmsg},
};
use tokio::io::{Interest, unix::AsyncFd};

/// Bytes read ahead, where the other end sends as much: few reads for a large message, which is still in the processor's cache
/// when it is copied on. Memory that no message has reached costs nothing.
const AHEAD: usize = 64 * 1024;

#[expect(
    deprecated,
    reason = "its replacement is unsafe, for types whose descriptor may change; a socket's does not"
)]
fn watch<S: AsRawFd>(socket: S, interest: Interest) -> io::Result<AsyncFd<S>> {
    AsyncFd::with_interest(socket, interest)
}

/// What is read.
pub(crate) struct Inbox {
    socket: AsyncFd<Arc<UnixStream>>,
    /// What was read ahead, and how much of it is taken.
    bytes: Vec<u8>,
    taken: usize,
}

impl Inbox {
    /// Of a socket that does not block.
    pub(crate) fn new(socket: Arc<UnixStream>) -> io::Result<Self> {
        Ok(Self {
            socket: watch(socket, Interest::READABLE)?,
            bytes: Vec::with_capacity(AHEAD),
            taken: 0,
        })
    }

    pub(crate) fn socket(&self) -> &UnixStream {
        self.socket.get_ref()
    }

    /// What was read and not taken.
    pub(crate) fn ahead(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    pub(crate) fn take(&mut self, count: usize) {
        self.taken += count;
    }

    /// What was taken too much; nothing else is ahead.
    pub(crate) fn put_back(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// How much may be ahead.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Reads once, behind what is ahead; 0 at the end of the stream, or when there is no room.
    pub(crate) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.make_room();
        poll_read(&self.socket, cx, &mut self.bytes)
    }

    /// Reads what has come by now, behind what is ahead, whatever the runtime knows of it; whether something has. The end and errors
    /// are left to who polls.
    pub(crate) fn try_more(&mut self) -> bool {
        self.make_room();
        let read = rustix::io::read(&**self.socket.get_ref(), spare_capacity(&mut self.bytes));
        read.is_ok_and(|read| read > 0)
    }

    fn make_room(&mut self) {
        if self.taken > 0 {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
    }

    /// Reads once, past what is ahead, into the room that a buffer has.
    pub(crate) fn poll_into(&mut self, cx: &mut Context<'_>, into: &mut Vec<u8>) -> Poll<io::Result<usize>> {
        poll_read(&self.socket, cx, into)
    }
}

fn poll_read(
    socket: &AsyncFd<Arc<UnixStream>>,
    cx: &mut Context<'_>,
    into: &mut Vec<u8>,
) -> Poll<io::Result<usize>> {
    loop {
        let mut ready = ready!(socket.poll_read_ready(cx))?;
        match rustix::io::read(&**socket.get_ref(), spare_capacity(into)) {
            Ok(read) => {
                // A short read has emptied the socket: the next one would only say so. At the end of the stream it stays ready.
                if read > 0 && into.len() < into.capacity() {
                    ready.clear_ready();
                }
                return Poll::Ready(Ok(read));
            }
            Err(Errno::AGAIN) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            Err(error) => return Poll::Ready(Err(error.into())),
        }
    }
}

/// What is to be written. A peer that is gone is an error, and no SIGPIPE, whatever the program made of that.
pub(crate) struct Outbox {
    socket: Arc<UnixStream>,
    /// What is collected, and how much of it has gone.
    pub(crate) bytes: Vec<u8>,
    sent: usize,
    /// Present while the socket is full; a descriptor of its own, so that the reader is not told.
    full: Option<AsyncFd<UnixStream>>,
}

impl Outbox {
    /// Of a socket that does not block.
    pub(crate) fn new(socket: Arc<UnixStream>) -> Self {
        Self {
            socket,
            bytes: Vec::new(),
            sent: 0,
            full: None,
        }
    }

    /// Whether something is left to be sent.
    pub(crate) fn is_full(&self) -> bool {
        self.full.is_some() || !self.bytes.is_empty()
    }

    /// Sends what the socket takes at once, of so many bytes; whether that was all. Who is not content with that polls.
    pub(crate) fn try_send(&mut self, most: usize) -> io::Result<bool> {
        let end = self.bytes.len().min(self.sent.saturating_add(most));
        while self.sent < end {
            match send_some(&self.socket, &self.bytes[self.sent..end]) {
                Ok(sent) => self.sent += sent,
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        let all = self.sent == self.bytes.len();
        if all {
            self.clear();
        }
        Ok(all)
    }

    /// Sends what is collected.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send_of(cx, &mut usize::MAX.clone())
    }

    /// As [`poll_send`](Self::poll_send); after so many bytes it is somebody else's turn.
    pub(crate) fn poll_send_of(&mut self, cx: &mut Context<'_>, left: &mut usize) -> Poll<io::Result<()>> {
        while self.sent < self.bytes.len() {
            if *left == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let end = self.bytes.len().min(self.sent.saturating_add(*left));
            let unsent = &self.bytes[self.sent..end];
            let sent = ready!(poll_room(&self.socket, &mut self.full, cx, |socket| {
                send_some(socket, unsent)
            }))?;
            self.sent += sent;
            *left -= sent;
        }
        self.clear();
        Poll::Ready(Ok(()))
    }

    /// Sends as much as the socket takes, past what is collected.
    pub(crate) fn poll_past(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        poll_room(&self.socket, &mut self.full, cx, |socket| {
            sendmsg(
                socket,
                bufs,
                &mut SendAncillaryBuffer::default(),
                SendFlags::NOSIGNAL,
            )
        })
    }

    /// Ends it for both ends.
    pub(crate) fn shut_down(&self) {
        // Whatever the matter is with the socket, there is no more to be done about it.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }

    fn clear(&mut self) {
        self.bytes.clear();
        // A large message need not be paid for until the next one.
        self.bytes.shrink_to(AHEAD);
        self.sent = 0;
    }
}

fn send_some(socket: &UnixStream, bytes: &[u8]) -> rustix::io::Result<usize> {
    rustix::io::retry_on_intr(|| send(socket, bytes, SendFlags::NOSIGNAL))
}

/// Writes to the socket; waits when it is full, and listens for room only then.
fn poll_room(
    socket: &UnixStream,
    full: &mut Option<AsyncFd<UnixStream>>,
    cx: &mut Context<'_>,
    mut write: impl FnMut(&UnixStream) -> rustix::io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        let guard = match &full {
            Some(full) => Some(ready!(full.poll_write_ready(cx))?),
            None => None,
        };
        match write(socket) {
            Err(Errno::AGAIN) => match guard {
                Some(mut guard) => guard.clear_ready(),
                None => match socket
                    .try_clone()
                    .and_then(|socket| watch(socket, Interest::WRITABLE))
                {
                    Ok(listening) => *full = Some(listening),
                    // Out of descriptors, say: what cannot be listened for is looked for, turn by turn.
                    Err(_) => {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                },
            },
            Err(Errno::INTR) => {}
            done => {
                *full = None;
                return Poll::Ready(done.map_err(io::Error::from));
            }
        }
    }
}
