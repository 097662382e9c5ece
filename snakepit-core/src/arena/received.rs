//! Values of a worker that refer to the arena.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use snakepit_proto::{
    arena::Side,
    v1::{Block, ValueInArena},
};

use super::Arena;
use crate::rpc::{
    CodecError, MAX_MESSAGE_LEN,
    codec::{self, Fill},
};

/// Memory of the arena that the host has a hold on. It stays, and stays what it is of, until this is dropped; what is in it is
/// the worker's to change.
#[derive(Debug)]
pub(crate) struct Held {
    arena: Arc<Arena>,
    side: Side,
    number: u32,
    bytes: Range<u64>,
}

impl Held {
    /// Takes over the hold that a reference came with.
    fn new(arena: &Arc<Arena>, block: &Block) -> Result<Self, String> {
        let bytes = block.offset..block.offset.saturating_add(block.len);
        let side = arena.mapping.layout().side_of(&bytes);
        let pinned = match side {
            // The worker sends an argument back. Pinned, it cannot become that of another call meanwhile.
            Some(Side::Host) => arena.blocks().pin(block.number, &bytes),
            Some(Side::Worker) => true,
            None => false,
        };
        match side.filter(|_| pinned) {
            Some(side) => Ok(Self {
                arena: Arc::clone(arena),
                side,
                number: block.number,
                bytes,
            }),
            None => Err(format!(
                "it refers to {} bytes at {} of the shared memory, where no block is",
                block.len, block.offset
            )),
        }
    }

    pub(crate) fn len(&self) -> usize {
        // What is mapped has a length.
        (self.bytes.end - self.bytes.start) as usize
    }

    /// Appends all of it.
    pub(crate) fn append_to(&self, out: &mut Vec<u8>) {
        self.arena.mapping.read(&self.bytes, out);
    }

    /// Copies from byte `at` on, as much as there is room for; false when there is less.
    pub(crate) fn read(&self, at: usize, out: &mut [u8]) -> bool {
        let start = self.bytes.start.saturating_add(at as u64);
        let end = start.saturating_add(out.len() as u64);
        let is_in = end <= self.bytes.end;
        if is_in {
            self.arena.mapping.read_into(&(start..end), out);
        }
        is_in
    }

    /// Where it begins.
    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.arena.mapping.at(&self.bytes)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Self {
            arena, side, number, ..
        } = self;
        arena.mapping.release(*side, *number);
        if *side == Side::Host {
            arena.blocks().unpin(*number, &arena.mapping.of(Side::Host));
        }
    }
}

/// A value as it came from a worker. Dropped, it gives back what it refers to.
#[derive(Debug)]
pub struct Received {
    value: Bytes,
    /// What it refers to; mostly nothing.
    held: Option<Box<[Held]>>,
}

impl From<Bytes> for Received {
    fn from(value: Bytes) -> Self {
        Self { value, held: None }
    }
}

impl Received {
    /// Takes over what a value refers to.
    ///
    /// # Errors
    /// What is wrong with it: a worker that follows the protocol sends no such one.
    pub(crate) fn new(arena: &Arc<Arena>, value: ValueInArena) -> Result<Self, String> {
        let ValueInArena { value, blocks } = value;
        let held = blocks.iter().map(|block| Held::new(arena, block));
        let held: Box<[Held]> = held.collect::<Result<_, _>>()?;
        let lens = held.iter().map(|held| held.len() as u64);
        let total = lens.fold(value.len() as u64, u64::saturating_add);
        // Blocks may overlap, so more may be referred to than there is: it would be copied.
        let most = (MAX_MESSAGE_LEN as u64).max(arena.mapping.layout().file_len());
        if total > most {
            return Err(format!("it takes {total} bytes, at most {most} can come"));
        }
        Ok(Self {
            value,
            held: Some(held),
        })
    }

    /// The value with everything in it.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(crate) fn inline(self) -> Result<Bytes, String> {
        let Some(held) = self.held else {
            return Ok(self.value);
        };
        codec::fill_in(&self.value, &mut Parts(&held), Fill::All).map(Bytes::from)
    }

    /// As [`inline`](Self::inline), for whoever expects a `T`.
    pub(crate) fn inlined<T>(self) -> Result<Bytes, CodecError> {
        self.inline().map_err(undecodable::<T>)
    }

    /// Decodes it. Bytes are copied into it first; arrays are copied when they are decoded, or stay where they are.
    ///
    /// # Errors
    /// When it is no `T`.
    pub(crate) fn decode<T: DeserializeOwned>(self) -> Result<T, CodecError> {
        let Some(held) = self.held else {
            return codec::decode_message(&self.value);
        };
        let filled = codec::fill_in(&self.value, &mut Parts(&held), Fill::Bytes);
        let message = filled.map_err(undecodable::<T>)?;
        codec::with_arrays(held, || codec::decode_message(&message.into()))
    }
}

fn undecodable<T>(message: String) -> CodecError {
    CodecError::Decode {
        type_name: std::any::type_name::<T>(),
        message,
    }
}

struct Parts<'a>(&'a [Held]);

impl codec::Parts for Parts<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn len_of(&self, part: usize) -> usize {
        self.0[part].len()
    }

    fn append(&mut self, part: usize, out: &mut Vec<u8>) {
        self.0[part].append_to(out);
    }
}
