//! What a worker notes of its calls and of itself, readable without it.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create},
    io::pread,
};
use snakepit_proto::preamble::journal;

/// The host's end of a worker's journal; see [`snakepit_proto::preamble::journal`].
#[derive(Debug)]
pub(crate) struct Journal(OwnedFd);

impl Journal {
    /// An empty journal, sealed so that a worker cannot shrink what others read.
    ///
    /// # Errors
    /// What memfd_create(2), ftruncate(2) or fcntl(2) answers.
    pub(crate) fn new() -> io::Result<Self> {
        let fd = memfd_create(
            "snakepit-journal",
            MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
        )?;
        ftruncate(&fd, journal::LEN as u64)?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(Self(fd))
    }

    /// Whether the call is among the last that began. Asked of a call that is under way, the answer is exact: fewer others
    /// can have begun since than the journal has entries.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub(crate) fn names(&self, call_id: u64) -> io::Result<bool> {
        let entries: [u8; journal::BEATS] = self.read(0)?;
        Ok(entries
            .chunks_exact(size_of::<u64>())
            .any(|entry| entry == call_id.to_ne_bytes()))
    }

    /// How often the worker's control thread has beaten.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub(crate) fn beats(&self) -> io::Result<u64> {
        Ok(u64::from_ne_bytes(self.read(journal::BEATS as u64)?))
    }

    fn read<const LEN: usize>(&self, from: u64) -> io::Result<[u8; LEN]> {
        let mut bytes = [0; LEN];
        if pread(&self.0, &mut bytes, from)? < LEN {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(bytes)
    }
}

impl AsFd for Journal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_names_what_was_noted_and_cannot_be_shrunk() {
        let journal = Journal::new().unwrap();
        assert!(!journal.names(7).unwrap());
        rustix::io::pwrite(&journal.0, &7_u64.to_ne_bytes(), 8).unwrap();
        assert!(journal.names(7).unwrap());
        assert!(!journal.names(8).unwrap());
        assert_eq!(journal.beats().unwrap(), 0);
        rustix::io::pwrite(&journal.0, &8_u64.to_ne_bytes(), 64).unwrap();
        assert_eq!(journal.beats().unwrap(), 8);
        assert!(!journal.names(8).unwrap());
        assert!(ftruncate(&journal.0, 0).is_err());
    }
}
