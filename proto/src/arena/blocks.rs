//! The account that an owner keeps of its half.

use std::{collections::BTreeMap, ops::Range};

use super::{KEEP, Layout, NUMBERS, Side, space::Space};

/// What an account needs of the memory that it is about.
pub trait Memory {
    /// How many holds the other side has on a block. Any answer does no harm to the account.
    fn holds(&self, number: u32) -> u32;

    /// Nobody has a hold on a block.
    fn clear(&self, number: u32);

    /// Gives the pages of bytes that nobody uses back to the system.
    fn give_back(&self, bytes: Range<u64>);
}

/// A block that is in use.
#[derive(Debug)]
struct Live {
    /// The bytes that were asked for.
    bytes: Range<u64>,
    /// The room they have.
    room: Range<u64>,
    /// Uses of its owner.
    pins: u32,
    /// Whether its owner has filled it.
    shown: bool,
}

/// The blocks of a half. Kept by its owner, in memory of its own.
#[derive(Debug)]
pub struct Blocks {
    space: Space,
    live: Vec<Option<Live>>,
    vacant: Vec<u32>,
    /// The numbers of live blocks, by where they begin.
    begins: BTreeMap<u64, u32>,
    /// Blocks that the other side alone has holds on.
    lingering: Vec<u32>,
}

impl Blocks {
    /// No blocks, in the half of `side`.
    pub fn new(layout: Layout, side: Side) -> Self {
        Self {
            space: Space::new(layout.half(side)),
            live: Vec::new(),
            vacant: Vec::new(),
            begins: BTreeMap::new(),
            lingering: Vec::new(),
        }
    }

    /// Bytes of the half that are in use, as of when that was last looked at.
    pub fn taken(&self) -> u64 {
        self.space.taken()
    }

    /// Makes a block of `len` bytes, pinned once; `None` when there is no room. Its content is whatever was there before.
    /// Nobody else can pin or find it before it is [shown](Self::show).
    pub fn make(&mut self, len: u64, memory: &impl Memory) -> Option<(u32, Range<u64>)> {
        self.reclaim(memory);
        let number = match self.vacant.pop() {
            Some(number) => number,
            None => u32::try_from(self.live.len())
                .ok()
                .filter(|next| *next < NUMBERS)?,
        };
        let Some(room) = self.space.take(len) else {
            if (number as usize) < self.live.len() {
                self.vacant.push(number);
            }
            return None;
        };
        let bytes = room.start..room.start + len;
        let live = Some(Live {
            bytes: bytes.clone(),
            room,
            pins: 1,
            shown: false,
        });
        match self.live.get_mut(number as usize) {
            Some(place) => *place = live,
            None => self.live.push(live),
        }
        self.begins.insert(bytes.start, number);
        memory.clear(number);
        Some((number, bytes))
    }

    fn live(&mut self, number: u32) -> Option<&mut Live> {
        self.live.get_mut(number as usize)?.as_mut()
    }

    /// Whoever made a block has filled it.
    pub fn show(&mut self, number: u32) {
        if let Some(live) = self.live(number) {
            live.shown = true;
        }
    }

    /// Keeps a block that is in use, and has these bytes, from being used for anything else; `false` when there is none.
    pub fn pin(&mut self, number: u32, bytes: &Range<u64>) -> bool {
        let Some(live) = self.live(number) else {
            return false;
        };
        let is_in =
            live.bytes.start <= bytes.start && bytes.start <= bytes.end && bytes.end <= live.bytes.end;
        let may_be_used = live.shown && is_in;
        if may_be_used {
            live.pins += 1;
        }
        may_be_used
    }

    /// The number of the block in which these bytes are.
    pub fn find(&self, bytes: &Range<u64>) -> Option<u32> {
        let (_, number) = self.begins.range(..=bytes.start).next_back()?;
        let live = self.live.get(*number as usize)?.as_ref()?;
        (live.shown && bytes.end <= live.bytes.end).then_some(*number)
    }

    /// Undoes one [`make`](Self::make) or [`pin`](Self::pin).
    pub fn unpin(&mut self, number: u32, memory: &impl Memory) {
        let Some(live) = self.live(number) else { return };
        live.pins = live.pins.saturating_sub(1);
        if live.pins > 0 {
            return;
        }
        if memory.holds(number) == 0 {
            self.free(number);
        } else if !self.lingering.contains(&number) {
            self.lingering.push(number);
        }
    }

    /// Frees blocks that the other side has given back meanwhile.
    pub fn reclaim(&mut self, memory: &impl Memory) {
        for number in std::mem::take(&mut self.lingering) {
            match self.live(number) {
                Some(live) if live.pins > 0 => {}
                Some(_) if memory.holds(number) > 0 => self.lingering.push(number),
                Some(_) => self.free(number),
                None => {}
            }
        }
    }

    /// Gives the pages of freed blocks back that nobody needed since the last time, but for [`KEEP`] bytes. Called now and then.
    pub fn tidy(&mut self, memory: &impl Memory) {
        self.reclaim(memory);
        self.space.tidy(KEEP, |bytes| memory.give_back(bytes));
    }

    fn free(&mut self, number: u32) {
        let Some(live) = self.live.get_mut(number as usize).and_then(Option::take) else {
            return;
        };
        self.begins.remove(&live.bytes.start);
        self.vacant.push(number);
        self.space.free(live.room);
    }
}

#[cfg(test)]
mod tests;
