//! The host's side of the memory that it shares with a worker; see [`snakepit_proto::arena`].
//!
//! Large arguments are copied into it once, when the worker is known, and Python sees them where they are. Large results are
//! copied out of it once, when they are decoded, or stay there as a `SharedArray`: what a worker can still write is never a slice
//! of safe code. A worker that is gone takes nothing with it, since the memory stays for as long as the host has it mapped.

mod mapping;
mod received;

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use mapping::Mapping;
pub(crate) use mapping::Writing;
pub(crate) use received::Held;
pub use received::Received;
use snakepit_proto::{
    arena::{Blocks, Side},
    v1::{ArgumentBlocks, Block, ValueInArena},
};

use crate::rpc::codec::{Encoded, Part};

/// How the memory that a worker shares with the host is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ArenaUse {
    /// Bytes that there are for arguments, and as many for results.
    pub size: u64,
    /// Bytes of arguments, items of inputs and results of host functions that calls use, or that the worker's code has kept.
    pub arguments: u64,
    /// Calls whose arguments found no room and went in the message instead; items of inputs, and results of host functions, likewise.
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
            blocks: ArgumentBlocks::default(),
        };
        let ArgumentBlocks {
            args: for_args,
            kwargs: for_kwargs,
        } = &mut placed.blocks;
        for (from, to) in [(args, for_args), (kwargs, for_kwargs)] {
            for part in from.aside() {
                let Some(block) = self.make(part.len()) else {
                    self.fell_back.fetch_add(1, Ordering::Relaxed);
                    return None;
                };
                // Before it is written, which may panic.
                to.push(block);
                self.write(&block, part);
            }
        }
        Some(placed)
    }

    /// As [`place`](Self::place), for a value that belongs to no call: the worker has a hold on each block.
    fn hand_over(self: &Arc<Self>, value: &Encoded) -> Option<Vec<Block>> {
        let placed = self.place(value, &Encoded::default())?;
        let blocks = placed.blocks.args.clone();
        for block in &blocks {
            self.mapping.hold(Side::Host, block.number);
        }
        Some(blocks)
    }

    fn make(&self, len: usize) -> Option<Block> {
        let len = len as u64;
        let memory = self.mapping.of(Side::Host);
        let (number, bytes) = self.blocks().make(len, &memory)?;
        Some(Block {
            number,
            offset: bytes.start,
            len,
        })
    }

    /// Writes a block that was just made, and shows it.
    fn write(&self, block: &Block, part: &Part) {
        // Nobody else in this process can look at it before it is shown.
        let mut memory = self.mapping.writing(block.offset..block.offset + block.len);
        match part {
            Part::Bytes(bytes) => assert!(memory.write(0, bytes), "the block is as long as the data"),
            Part::Pieces(pieces) => {
                for (at, piece) in pieces.iter() {
                    assert!(memory.write(at, piece), "the block is as long as all pieces");
                }
            }
            Part::Filled(filler) => filler.write_to(memory),
        }
        self.blocks().show(block.number);
    }
}

/// A value on its way to a worker, which gives back the holds that it comes with: its large buffers are in the arena if there is one,
/// and room in it, else in the value. Whoever does not send it gives the holds back, by dropping it as [`Received`]; of a worker that is
/// lost they need not be, as the arena goes with it.
pub(crate) fn for_worker(arena: Option<&Arc<Arena>>, value: &Encoded) -> ValueInArena {
    let arena = arena.filter(|_| value.has_aside());
    match arena.and_then(|arena| arena.hand_over(value)) {
        Some(blocks) => ValueInArena {
            value: value.bytes.clone(),
            blocks,
        },
        None => ValueInArena {
            value: value.inline(),
            blocks: Vec::new(),
        },
    }
}

/// Arguments of a call in the arena. Kept until the call is over in its worker, which by then has a hold on what it keeps.
#[derive(Debug)]
pub(crate) struct Placed {
    arena: Arc<Arena>,
    /// Where they are.
    pub(crate) blocks: ArgumentBlocks,
}

impl Drop for Placed {
    fn drop(&mut self) {
        let memory = self.arena.mapping.of(Side::Host);
        let mut blocks = self.arena.blocks();
        for block in self.blocks.args.iter().chain(&self.blocks.kwargs) {
            blocks.unpin(block.number, &memory);
        }
    }
}

#[cfg(test)]
mod tests;
