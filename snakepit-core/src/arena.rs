//! The host's side of the memory that it shares with a worker; see [`snakepit_proto::arena`].
//!
//! Large arguments are copied into it once, when the worker is known, and Python sees them where they are. Large results are
//! copied out of it once, when the answer has come: what a worker can still write is never shown to safe code. A worker
//! that is gone takes nothing with it, since the memory stays for as long as the host has it mapped.

mod mapping;

use std::{
    io,
    ops::Range,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use mapping::Mapping;
use snakepit_proto::{
    arena::{Blocks, Side},
    v1::{Block, ValueInArena},
};

use crate::rpc::{
    MAX_MESSAGE_LEN,
    codec::{self, Encoded},
};

/// How the memory that a worker shares with the host is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ArenaUse {
    /// Bytes that there are for arguments, and as many for results.
    pub size: u64,
    /// Bytes of arguments that calls use, or that the worker's code has kept.
    pub arguments: u64,
    /// Calls whose arguments found no room and went in the message instead.
    pub arguments_fell_back: u64,
    /// Arrays and bytes of results that found no room, as the worker counts them.
    pub results_fell_back: u64,
}

/// The host's side of an arena.
#[derive(Debug)]
pub(crate) struct Arena {
    mapping: Mapping,
    blocks: Mutex<Blocks>,
    fell_back: AtomicU64,
}

impl Arena {
    /// An arena with room for `half` bytes each way, and the descriptor to send to the worker.
    ///
    /// # Errors
    /// What memfd_create(2), ftruncate(2), fcntl(2) or mmap(2) answers; `InvalidInput` for a size that is out of range.
    pub(crate) fn new(half: u64) -> io::Result<(Self, OwnedFd)> {
        let (mapping, fd) = Mapping::new(half)?;
        let arena = Self {
            blocks: Mutex::new(Blocks::new(mapping.layout(), Side::Host)),
            mapping,
            fell_back: AtomicU64::new(0),
        };
        Ok((arena, fd))
    }

    fn blocks(&self) -> MutexGuard<'_, Blocks> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it is used.
    pub(crate) fn usage(&self) -> ArenaUse {
        let half = self.mapping.layout().half(Side::Host);
        let mut blocks = self.blocks();
        blocks.reclaim(&self.mapping.of(Side::Host));
        ArenaUse {
            size: half.end - half.start,
            arguments: blocks.taken(),
            arguments_fell_back: self.fell_back.load(Ordering::Relaxed),
            results_fell_back: self.mapping.fell_back(),
        }
    }

    /// Gives pages back that arguments do not need any more. Called now and then.
    pub(crate) fn tidy(&self) {
        self.blocks().tidy(&self.mapping.of(Side::Host));
    }

    /// Copies what was kept aside of a call's arguments into blocks; `None`, counted, when they do not all fit.
    pub(crate) fn place(self: &Arc<Self>, args: &Encoded, kwargs: &Encoded) -> Option<Placed> {
        let mut placed = Placed {
            arena: Arc::clone(self),
            args: Vec::with_capacity(args.aside.len()),
            kwargs: Vec::with_capacity(kwargs.aside.len()),
        };
        for (from, to) in [
            (&args.aside, &mut placed.args),
            (&kwargs.aside, &mut placed.kwargs),
        ] {
            for data in from {
                match self.put(data) {
                    Some(block) => to.push(block),
                    None => {
                        self.fell_back.fetch_add(1, Ordering::Relaxed);
                        return None;
                    }
                }
            }
        }
        Some(placed)
    }

    fn put(&self, data: &[u8]) -> Option<Block> {
        let memory = self.mapping.of(Side::Host);
        let (number, bytes) = self.blocks().make(data.len() as u64, &memory)?;
        // Nobody else in this process can look at it before it is shown.
        self.mapping.write(&bytes, data);
        self.blocks().show(number);
        Some(Block {
            number,
            offset: bytes.start,
            len: data.len() as u64,
        })
    }

    /// Copies a value out, with everything that it refers to, and gives the worker its blocks back.
    ///
    /// # Errors
    /// What is wrong with the value: a worker that follows the protocol sends no such one.
    pub(crate) fn take(&self, value: &ValueInArena) -> Result<Bytes, String> {
        let taken = self.copy_out(value);
        for block in &value.blocks {
            self.give_back(block);
        }
        taken
    }

    fn copy_out(&self, value: &ValueInArena) -> Result<Bytes, String> {
        let total = value.blocks.iter().fold(value.value.len() as u64, |sum, block| {
            sum.saturating_add(block.len)
        });
        if total > MAX_MESSAGE_LEN as u64 {
            return Err(format!(
                "the value takes {total} bytes, at most {MAX_MESSAGE_LEN} can come"
            ));
        }
        codec::fill_in(&value.value, &mut Referred(self, &value.blocks)).map(Bytes::from)
    }

    /// Appends the content of a block.
    fn append(&self, block: &Block, out: &mut Vec<u8>) -> Result<(), String> {
        let bytes = bytes_of(block);
        match self.mapping.layout().side_of(&bytes) {
            // The worker sends an argument back. Pinned, it cannot become that of another call meanwhile.
            Some(Side::Host) if self.blocks().pin(block.number, &bytes) => {
                self.mapping.read(&bytes, out);
                self.blocks().unpin(block.number, &self.mapping.of(Side::Host));
                Ok(())
            }
            Some(Side::Worker) => {
                self.mapping.read(&bytes, out);
                Ok(())
            }
            Some(Side::Host) | None => Err(format!(
                "it refers to {} bytes at {} of the shared memory, where no block is",
                block.len, block.offset
            )),
        }
    }

    fn give_back(&self, block: &Block) {
        if let Some(side) = self.mapping.layout().side_of(&bytes_of(block)) {
            self.mapping.release(side, block.number);
        }
    }
}

fn bytes_of(block: &Block) -> Range<u64> {
    block.offset..block.offset.saturating_add(block.len)
}

/// What the references in a value stand for.
struct Referred<'a>(&'a Arena, &'a [Block]);

impl codec::Parts for Referred<'_> {
    fn len(&self) -> usize {
        self.1.len()
    }

    fn len_of(&self, part: usize) -> usize {
        // Their sum was checked.
        usize::try_from(self.1[part].len).unwrap_or(usize::MAX)
    }

    fn append(&mut self, part: usize, out: &mut Vec<u8>) -> Result<(), String> {
        self.0.append(&self.1[part], out)
    }
}

/// Arguments of a call in the arena. Kept until the call is over in its worker, which by then has a hold on what it keeps.
#[derive(Debug)]
pub(crate) struct Placed {
    arena: Arc<Arena>,
    /// What the positional arguments refer to.
    pub(crate) args: Vec<Block>,
    /// What the keyword arguments refer to.
    pub(crate) kwargs: Vec<Block>,
}

impl Drop for Placed {
    fn drop(&mut self) {
        let memory = self.arena.mapping.of(Side::Host);
        let mut blocks = self.arena.blocks();
        for block in self.args.iter().chain(&self.kwargs) {
            blocks.unpin(block.number, &memory);
        }
    }
}

#[cfg(test)]
mod tests;
