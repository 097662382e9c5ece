//! Messages with descriptors, over a socket.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use crate::{
    failure::{At, Failure, errno},
    sys::{
        self, Poll,
        constants::{EAGAIN, ECONNRESET},
    },
    wire::{Kind, LEN, MAX_FDS, Message, Step},
};

/// What came with a message. Whatever is not taken out is closed.
pub(crate) struct Fds {
    fds: [Option<OwnedFd>; MAX_FDS],
    truncated: bool,
}

impl Fds {
    fn borrowed(&self) -> [Option<BorrowedFd<'_>>; MAX_FDS] {
        self.fds.each_ref().map(|fd| fd.as_ref().map(AsFd::as_fd))
    }

    /// Exactly the first `N`, when exactly so many came.
    pub(crate) fn exactly<const N: usize>(mut self) -> Option<[OwnedFd; N]> {
        let complete = !self.truncated && self.count() == N;
        // The kernel fills them from the front.
        let mut fds = self.fds.iter_mut().filter_map(Option::take);
        let taken: [Option<OwnedFd>; N] = std::array::from_fn(|_| fds.next());
        if !complete || taken.iter().any(Option::is_none) {
            return None;
        }
        Some(taken.map(|fd| fd.expect("checked above")))
    }

    pub(crate) fn count(&self) -> usize {
        self.fds.iter().flatten().count()
    }

    /// Some were lost, as when this process may not have as many.
    pub(crate) fn are_truncated(&self) -> bool {
        self.truncated
    }
}

/// What a socket had to offer.
pub(crate) enum Incoming<K> {
    Message(Message<K>, Fds),
    /// A packet that is no message; what came with it is closed.
    Nonsense,
    /// Nothing, by now.
    Nothing,
    /// The other end is gone.
    End,
}

/// Takes the next packet, and waits for it only if asked to.
pub(crate) fn receive<K: Kind>(socket: impl AsFd, wait: bool) -> Incoming<K> {
    // One byte more than a message has, so that a longer packet is seen to be one.
    let mut buffer = [0; LEN + 1];
    match sys::receive::<MAX_FDS>(&socket, &mut buffer, wait) {
        Ok(received) if received.len == 0 && has_ended(&socket) => Incoming::End,
        Ok(received) => match Message::decode(&buffer[..received.len]) {
            Some(message) => Incoming::Message(
                message,
                Fds {
                    fds: received.fds,
                    truncated: received.truncated,
                },
            ),
            None => Incoming::Nonsense,
        },
        // Out of memory, or interrupted: the socket stays readable, and this is called again. So it does after ECONNRESET,
        // which is told once when the other end closed with something unread, before what it had said.
        Err(_) => Incoming::Nothing,
    }
}

/// An empty packet reads as the end does.
fn has_ended(socket: impl AsFd) -> bool {
    let mut polls = [Poll::readable(Some(socket.as_fd()))];
    sys::poll(&mut polls, Some(0));
    polls[0].has_ended()
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Yes,
    /// The socket is full.
    Full,
    /// Something else is short; it may work again later.
    Later,
    /// Nobody is at the other end.
    Gone,
}

/// Sends a message and never waits.
pub(crate) fn send<K: Kind, const N: usize>(
    socket: impl AsFd,
    message: &Message<K>,
    fds: [Option<BorrowedFd<'_>>; N],
) -> Sent {
    match sys::send(socket, &message.encode(), fds) {
        Ok(()) => Sent::Yes,
        Err(error) if errno(&error) == EAGAIN => Sent::Full,
        Err(error) if is_gone(&error) => Sent::Gone,
        Err(_) => Sent::Later,
    }
}

/// Sends a message on with everything that came with it, and never waits; whether somebody is at the other end.
pub(crate) fn pass_on<K: Kind>(socket: impl AsFd, message: &Message<K>, fds: &Fds) -> Result<bool, Failure> {
    match sys::send(socket, &message.encode(), fds.borrowed()) {
        Ok(()) => Ok(true),
        Err(error) if is_gone(&error) => Ok(false),
        Err(error) => Err(error).at(Step::Plumbing),
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::NotConnected
    ) || errno(error) == ECONNRESET
}
