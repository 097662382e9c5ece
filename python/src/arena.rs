//! The worker's side of the memory that it shares with its host; see [`snakepit_proto::arena`].
//!
//! Large arguments are seen where the host has put them; large results are put where the host finds them, or are there
//! already: an array that came as an argument, or that `snakepit.empty` made, is referred to and not copied.

mod block;
mod mapping;

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    os::fd::OwnedFd,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

pub(crate) use block::Block;
use mapping::Mapping;
use pyo3::prelude::*;
use snakepit_proto::{
    arena::{Blocks, INLINE_LIMIT, Side},
    v1,
};

static ARENA: OnceLock<Arena> = OnceLock::new();

/// The arena of this process, if its host sent one. A child of fork has none: whoever made it keeps the account.
pub(crate) fn arena() -> Option<&'static Arena> {
    ARENA.get().filter(|arena| arena.pid == std::process::id())
}

/// Whether the host sent an arena, and it could be mapped.
pub(crate) fn is_mapped() -> bool {
    ARENA.get().is_some()
}

/// Maps the arena for the life of the process.
///
/// # Errors
/// What fstat(2) or mmap(2) answers; `InvalidData` for a file that is none.
pub(crate) fn map(fd: &OwnedFd) -> io::Result<()> {
    let mapping = Mapping::new(fd)?;
    let arena = Arena {
        blocks: Mutex::new(Blocks::new(mapping.layout(), Side::Worker)),
        taken: Mutex::default(),
        pid: std::process::id(),
        mapping,
    };
    // A process has one channel, and so one arena.
    let _ = ARENA.set(arena);
    Ok(())
}

/// The worker's side of an arena.
#[derive(Debug)]
pub(crate) struct Arena {
    mapping: Mapping,
    blocks: Mutex<Blocks>,
    /// The host's blocks that Python has, by where they begin.
    taken: Mutex<BTreeMap<u64, Taken>>,
    pid: u32,
}

/// A block of the host.
#[derive(Debug)]
struct Taken {
    number: u32,
    end: u64,
    /// Objects that are it.
    objects: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Arena {
    /// Takes a hold on a block of the host, for an object.
    ///
    /// # Errors
    /// When it is no block of the host.
    pub(crate) fn take(&self, block: &v1::Block) -> Result<Block, String> {
        let bytes = block.offset..block.offset.saturating_add(block.len);
        if self.mapping.layout().side_of(&bytes) != Some(Side::Host)
            || !self.mapping.hold(Side::Host, block.number)
        {
            return Err(format!(
                "refers to {} bytes at {} of the shared memory, where the host has none",
                block.len, block.offset
            ));
        }
        let mut taken = lock(&self.taken);
        let entry = taken.entry(bytes.start).or_insert(Taken {
            number: block.number,
            end: bytes.end,
            objects: 0,
        });
        entry.objects += 1;
        Ok(Block::new(Side::Host, block.number, bytes))
    }

    /// An uninitialised block of ours, for an object; `None`, counted, when there is no room.
    pub(crate) fn make(&self, len: u64) -> Option<Block> {
        let memory = self.mapping.of(Side::Worker);
        let mut blocks = lock(&self.blocks);
        let Some((number, bytes)) = blocks.make(len, &memory) else {
            self.mapping.fell_back();
            return None;
        };
        blocks.show(number);
        Some(Block::new(Side::Worker, number, bytes))
    }

    /// An object that was made by [`take`](Self::take) or [`make`](Self::make) is gone.
    fn object_gone(&self, side: Side, number: u32, bytes: &Range<u64>) {
        match side {
            Side::Host => {
                let mut taken = lock(&self.taken);
                if let Some(entry) = taken.get_mut(&bytes.start) {
                    entry.objects -= 1;
                    if entry.objects == 0 {
                        taken.remove(&bytes.start);
                    }
                }
                drop(taken);
                self.mapping.release(side, number);
            }
            Side::Worker => lock(&self.blocks).unpin(number, &self.mapping.of(side)),
        }
    }

    /// A reference, with a hold, to memory that begins here, if that is in a block which some object has.
    pub(crate) fn reference(&self, start: *const u8, len: usize) -> Option<v1::Block> {
        let bytes = self.mapping.bytes_at(start, len)?;
        match self.mapping.layout().side_of(&bytes)? {
            Side::Host => {
                let taken = lock(&self.taken);
                let (_, entry) = taken.range(..=bytes.start).next_back()?;
                let is_in = bytes.end <= entry.end && self.mapping.hold(Side::Host, entry.number);
                is_in.then(|| wire(entry.number, &bytes))
            }
            Side::Worker => {
                let blocks = lock(&self.blocks);
                let number = blocks.find(&bytes)?;
                self.mapping
                    .hold(Side::Worker, number)
                    .then(|| wire(number, &bytes))
            }
        }
    }

    /// Fills a block of its own with `len` bytes, and refers to it, with a hold; `None`, counted, when there is no room.
    pub(crate) fn put(&self, len: usize, fill: impl FnOnce(*mut u8)) -> Option<v1::Block> {
        let block = self.make(len as u64)?;
        fill(self.mapping.pointer(block.bytes()));
        self.mapping.hold(Side::Worker, block.number());
        Some(wire(block.number(), block.bytes()))
    }

    /// Takes back the holds of references that nobody will get.
    pub(crate) fn take_back(&self, blocks: &[v1::Block]) {
        for block in blocks {
            let bytes = block.offset..block.offset + block.len;
            if let Some(side) = self.mapping.layout().side_of(&bytes) {
                self.mapping.release(side, block.number);
            }
        }
    }

    /// Copies out of a block of the host.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub(crate) fn copied<'py>(
        &self,
        py: Python<'py>,
        block: &v1::Block,
    ) -> Result<PyResult<Bound<'py, PyAny>>, String> {
        let block = self.take(block)?;
        Ok(Bound::new(py, block).and_then(|block| {
            let bytes = py.get_type::<pyo3::types::PyBytes>();
            bytes.call1((block,))
        }))
    }
}

fn wire(number: u32, bytes: &Range<u64>) -> v1::Block {
    v1::Block {
        number,
        offset: bytes.start,
        len: bytes.end - bytes.start,
    }
}

/// References whose holds are ours: they came with a value of the host, or go along with one for it. Dropped, the holds are
/// given back.
#[derive(Debug, Default)]
pub(crate) struct Holds(Vec<v1::Block>);

impl From<Vec<v1::Block>> for Holds {
    fn from(blocks: Vec<v1::Block>) -> Self {
        Self(blocks)
    }
}

impl Holds {
    /// Adds one; its number.
    pub(crate) fn push(&mut self, block: v1::Block) -> u32 {
        self.0.push(block);
        // More of them than the half has blocks cannot be.
        (self.0.len() - 1) as u32
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What they are on.
    pub(crate) fn blocks(&self) -> &[v1::Block] {
        &self.0
    }

    /// They reach the host, or are [taken back](take_back).
    pub(crate) fn into_wire(mut self) -> Vec<v1::Block> {
        std::mem::take(&mut self.0)
    }
}

impl Drop for Holds {
    fn drop(&mut self) {
        take_back(&self.0);
    }
}

/// Takes back the holds of references that nobody will get.
pub(crate) fn take_back(blocks: &[v1::Block]) {
    if !blocks.is_empty()
        && let Some(arena) = arena()
    {
        arena.take_back(blocks);
    }
}

/// Gives pages back that results do not need any more. Called now and then.
pub(crate) fn tidy() {
    if let Some(arena) = arena() {
        lock(&arena.blocks).tidy(&arena.mapping.of(Side::Worker));
    }
}

/// A block for `snakepit.empty`; `None` where a plain array does as well, or there is no room.
#[pyfunction]
fn make_block(size: usize) -> Option<Block> {
    arena().filter(|_| size >= INLINE_LIMIT)?.make(size as u64)
}

/// Adds the functions to the module.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Block>()?;
    module.add_function(wrap_pyfunction!(make_block, module)?)
}
