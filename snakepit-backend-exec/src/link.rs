//! The host's end of the socket to the guardian.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType, recvmsg,
        sendmsg, socketpair,
    },
};
use tokio::{io::unix::AsyncFd, sync::Notify};

use crate::{
    sys,
    wire::{Event, LEN, MAX_FDS, Message, Request},
};

/// The pause where the kernel has no room for a message for a reason that it does not announce the end of, as
/// `ETOOMANYREFS`, unix(7).
const NO_ROOM: Duration = Duration::from_millis(5);

/// A message and the descriptors that go with it.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) message: Message<Request>,
    pub(crate) fds: Vec<Arc<OwnedFd>>,
}

impl From<Message<Request>> for Packet {
    fn from(message: Message<Request>) -> Self {
        Self {
            message,
            fds: Vec::new(),
        }
    }
}

/// What came.
#[derive(Debug)]
pub(crate) enum Received {
    Event(Message<Event>, Vec<OwnedFd>),
    /// The guardian has closed its end, or is gone.
    End,
    /// Nothing that a guardian says.
    Nonsense,
}

/// The socket. Messages that it has no room for wait in order, so that posting one never waits: each process has a
/// handful of messages at most, and the processes being started at a time are bounded.
#[derive(Debug)]
pub(crate) struct Link {
    socket: AsyncFd<OwnedFd>,
    /// The same socket, watched for room only while something waits for it: else each message that the guardian takes would
    /// wake this process, and the guardian would be the one to do so.
    writing: OwnedFd,
    outbox: Mutex<VecDeque<Packet>>,
    filled: Notify,
}

/// Both ends of a new socket.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

impl Link {
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            writing: socket.try_clone()?,
            socket: sys::watch_readable(socket)?,
            outbox: Mutex::default(),
            filled: Notify::new(),
        })
    }

    fn outbox(&self) -> MutexGuard<'_, VecDeque<Packet>> {
        // Each use leaves it whole.
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a message, now or as soon as there is room.
    pub(crate) fn post(&self, packet: impl Into<Packet>) {
        let packet = packet.into();
        let mut outbox = self.outbox();
        if outbox.is_empty() && matches!(self.send(&packet), Sent::Yes | Sent::Gone) {
            return;
        }
        outbox.push_back(packet);
        self.filled.notify_one();
    }

    /// Whether nothing waits to be sent.
    pub(crate) fn is_drained(&self) -> bool {
        self.outbox().is_empty()
    }

    /// Sends what waits, for as long as it is polled.
    pub(crate) async fn flush(&self) -> io::Error {
        loop {
            if self.is_drained() {
                self.filled.notified().await;
            }
            if let Err(error) = self.drain().await {
                return error;
            }
        }
    }

    async fn drain(&self) -> io::Result<()> {
        let room = sys::watch_writable(self.writing.as_fd())?;
        loop {
            let mut ready = room.writable().await?;
            let answer = {
                let mut outbox = self.outbox();
                let answer = outbox.front().map(|packet| self.send(packet));
                if matches!(answer, Some(Sent::Yes | Sent::Gone)) {
                    outbox.pop_front();
                }
                answer
            };
            match answer {
                Some(Sent::Yes | Sent::Gone) => {}
                Some(Sent::Full) => ready.clear_ready(),
                Some(Sent::NoRoom) => tokio::time::sleep(NO_ROOM).await,
                None => return Ok(()),
            }
        }
    }

    fn send(&self, packet: &Packet) -> Sent {
        let bytes = packet.message.encode();
        let fds: Vec<BorrowedFd<'_>> = packet.fds.iter().map(|fd| fd.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            let fits = control.push(SendAncillaryMessage::ScmRights(&fds));
            debug_assert!(fits, "no message has more than {MAX_FDS} descriptors");
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            return match sendmsg(
                self.socket.get_ref(),
                &[IoSlice::new(&bytes)],
                &mut control,
                flags,
            ) {
                Ok(_) => Sent::Yes,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => Sent::Full,
                Err(Errno::TOOMANYREFS | Errno::NOBUFS | Errno::NOMEM) => Sent::NoRoom,
                // The reader notices, and whoever waits for an answer is told.
                Err(error) => {
                    tracing::debug!(%error, "a message to the guardian is lost");
                    Sent::Gone
                }
            };
        }
    }

    /// The next message.
    ///
    /// # Cancel safety
    /// Safe; nothing is lost.
    pub(crate) async fn receive(&self) -> io::Result<Received> {
        loop {
            let mut ready = self.socket.readable().await?;
            match self.try_receive() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                other => return other,
            }
        }
    }

    fn try_receive(&self) -> io::Result<Received> {
        // One byte of room more than a message has tells a longer one.
        let mut bytes = [0; LEN + 1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = loop {
            match recvmsg(
                self.socket.get_ref(),
                &mut [IoSliceMut::new(&mut bytes)],
                &mut control,
                flags,
            ) {
                // Told once, before what is still to be read, when the other end closed with something unread.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                other => break other?,
            }
        };
        // CTRUNC is no nonsense: it also says that this process has no descriptors left to take what was sent.
        if received.flags.contains(ReturnFlags::TRUNC) {
            return Ok(Received::Nonsense);
        }
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(sent) = message {
                fds.extend(sent);
            }
        }
        if received.bytes == 0 {
            return Ok(Received::End);
        }
        Ok(match Message::decode(&bytes[..received.bytes]) {
            Some(message) => Received::Event(message, fds),
            None => Received::Nonsense,
        })
    }

    /// End-of-file for the guardian, whoever else holds this end.
    pub(crate) fn close(&self) {
        // The only failure is that it is closed already.
        let _ = rustix::net::shutdown(self.socket.get_ref(), Shutdown::Both);
    }
}

/// What became of an attempt to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Yes,
    Full,
    NoRoom,
    Gone,
}
