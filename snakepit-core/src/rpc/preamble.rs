//! Opens an inherited channel: the worker's gate.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use snakepit_proto::preamble::{LEN, Preamble};

/// Sends the preamble with the descriptors the worker is to have; the first is its control socket.
///
/// The channel must be fresh: its buffer then takes the few bytes at once and whole.
///
/// # Errors
/// What sendmsg(2) answers; `WriteZero` when the buffer did not take the preamble whole.
pub(crate) fn send_preamble(channel: &UnixStream, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let count = u16::try_from(descriptors.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let bytes = Preamble::new(count).encode();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let sent = sendmsg(
        channel.as_fd(),
        &[IoSlice::new(&bytes)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    if sent == LEN {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn a_preamble_arrives_whole() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (control, _kept) = UnixStream::pair().unwrap();
        send_preamble(&ours, &[control.as_fd()]).unwrap();
        let mut bytes = [0; LEN];
        theirs.read_exact(&mut bytes).unwrap();
        assert_eq!(Preamble::decode(bytes), Ok(Preamble::new(1)));
    }

    #[test]
    fn more_descriptors_than_fit_are_refused() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let fd = ours.as_fd();
        assert!(send_preamble(&ours, &[fd; 40]).is_err());
    }
}
