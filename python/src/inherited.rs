//! Taking over the channel a host left on standard input.

use std::{
    fmt,
    io::{self, IoSliceMut, Read as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::net::UnixStream,
    },
};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use snakepit_proto::preamble::{self, Preamble};

use crate::{arena, sys};

/// The sockets of an inherited channel.
#[derive(Debug)]
pub(crate) struct Inherited {
    /// Serves `Worker`.
    pub(crate) data: UnixStream,
    /// Serves everything else.
    pub(crate) control: UnixStream,
    /// Calls without HTTP/2.
    pub(crate) calls: Option<UnixStream>,
    /// Where calls that begin are noted.
    pub(crate) journal: Option<sys::Journal>,
}

/// Why standard input is no channel.
#[derive(Debug)]
pub(crate) enum ChannelError {
    /// Not a socket, or it broke.
    Io(io::Error),
    /// Bytes that are no preamble of ours.
    Preamble(preamble::PreambleError),
    /// The peer closed in the middle of the preamble.
    Truncated,
    /// The preamble came without a control socket.
    NoControl,
    /// A signal handler of Python raised while waiting.
    Interrupted,
}

impl fmt::Display for ChannelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) if error.raw_os_error() == Some(libc::ENOTSOCK) => write!(
                f,
                "standard input is not a socket. A worker is started by a Snakepit host, or by hand with \
                 SNAKEPIT_CHANNEL=unix:PATH or SNAKEPIT_CHANNEL=tcp:HOST:PORT in its environment"
            ),
            Self::Io(error) => write!(f, "failed to read the preamble from standard input: {error}"),
            Self::Preamble(error) => write!(f, "{error}"),
            Self::Truncated => write!(f, "the host closed the channel in the middle of the preamble"),
            Self::NoControl => write!(f, "the preamble came without a control socket"),
            Self::Interrupted => write!(f, "interrupted while waiting for the host's preamble"),
        }
    }
}

/// Blocks until the host opens the gate. `None` means that it closed the channel without doing so.
///
/// `interrupted` is asked after every signal whether to give up.
///
/// # Errors
/// When standard input is not a channel of a compatible host.
pub(crate) fn accept(interrupted: impl Fn() -> bool) -> Result<Option<Inherited>, ChannelError> {
    let stdin = io::stdin();
    // A host may hand over a socket it made for asynchronous use; the gate is waited for by blocking.
    rustix::io::ioctl_fionbio(stdin.as_fd(), false).map_err(|error| ChannelError::Io(error.into()))?;

    let mut fixed = [0; preamble::LEN];
    let mut received = 0;
    let mut descriptors = Vec::new();
    while received < fixed.len() {
        match receive(stdin.as_fd(), &mut fixed[received..], &mut descriptors) {
            Ok(0) if received == 0 => return Ok(None),
            Ok(0) => return Err(ChannelError::Truncated),
            Ok(count) => received += count,
            Err(rustix::io::Errno::INTR) if interrupted() => return Err(ChannelError::Interrupted),
            Err(rustix::io::Errno::INTR) => {}
            // A host that dies resets the connection when bytes of ours were unread; to us it is its end.
            Err(rustix::io::Errno::CONNRESET) if received == 0 => return Ok(None),
            Err(error) => return Err(ChannelError::Io(error.into())),
        }
    }
    let preamble = Preamble::decode(fixed).map_err(ChannelError::Preamble)?;

    let mut data = UnixStream::from(move_high(stdin.as_fd()).map_err(ChannelError::Io)?);
    let mut body = vec![0; preamble.body_len as usize];
    data.read_exact(&mut body).map_err(ChannelError::Io)?;

    let mut descriptors = descriptors.into_iter();
    let control = descriptors.next().ok_or(ChannelError::NoControl)?;
    let control = UnixStream::from(move_high(control.as_fd()).map_err(ChannelError::Io)?);
    let calls = descriptors.next().map(|fd| move_high(fd.as_fd())).transpose();
    let calls = calls.map_err(ChannelError::Io)?.map(UnixStream::from);
    sys::null_stdin().map_err(ChannelError::Io)?;
    let journal = descriptors
        .next()
        .map(|fd| sys::Journal::map(&fd))
        .transpose()
        .map_err(ChannelError::Io)?;
    if let Some(Err(error)) = descriptors.next().map(|fd| arena::map(&fd)) {
        // A limit of the address space, say: it is quicker with it, and complete without.
        eprintln!(
            "snakepit: cannot map the memory shared with the host, values will go in messages: {error}"
        );
    }
    Ok(Some(Inherited {
        data,
        control,
        calls,
        journal,
    }))
}

/// One `recvmsg`; keeps the descriptors that arrive.
fn receive(
    socket: std::os::fd::BorrowedFd<'_>,
    into: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(
        socket,
        &mut [IoSliceMut::new(into)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(arrived) = part {
            descriptors.extend(arrived);
        }
    }
    Ok(message.bytes)
}

/// Duplicates a descriptor to a high number, close-on-exec: user code that opens, closes and passes on small
/// numbers, as scripts do, does not meet it.
fn move_high(fd: std::os::fd::BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const PREFERRED: i32 = 700;
    rustix::io::fcntl_dupfd_cloexec(fd, PREFERRED)
        .or_else(|_| rustix::io::fcntl_dupfd_cloexec(fd, 3))
        .map_err(io::Error::from)
}

impl Inherited {
    /// The descriptors' numbers.
    pub(crate) fn descriptors(&self) -> Vec<i32> {
        [&self.data, &self.control]
            .into_iter()
            .chain(&self.calls)
            .map(|socket| socket.as_raw_fd())
            .collect()
    }
}
