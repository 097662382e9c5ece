//! The arena: memory that a host and one worker share, for arrays and bytes that are too large for a message.
//!
//! It is one memory file, made by the host, sealed against every change of its size and sent along with the
//! [`preamble`](crate::preamble). Each side owns one half, places what it sends there, and is the only one who keeps account
//! of it ([`Blocks`]); messages then carry references (`Block` in the .proto file). What the account says is never read from
//! shared memory, so nothing that the other side writes can lead an owner astray.
//!
//! ```text
//! offset           size          content
//! 0                8             results that found no room, counted by the worker
//! 4 KiB            4 x NUMBERS   hold counters of the host's blocks
//! 20 KiB           4 x NUMBERS   hold counters of the worker's blocks
//! 64 KiB           half          the host's half: arguments
//! 64 KiB + half    half          the worker's half: results
//! ```
//!
//! All numbers in the file are native-endian. A **hold** is the right to read a block that somebody else owns. Who reads a
//! block of the other side for longer than the call takes one by adding 1 to its counter, and subtracts 1 in the end. A
//! reference in an answer comes with a hold, which the host gives back when it has read the block. An owner reuses a block
//! when no call of its own uses it and its counter is 0. A wrong counter keeps a block for too long or gives it away too
//! early, and both harm the one who wrote it.

mod blocks;
mod intervals;
mod space;

use std::ops::Range;

pub use blocks::{Blocks, Memory};

/// Values of this many bytes and more go through the arena. Smaller ones are as fast inside of the message.
pub const INLINE_LIMIT: usize = 64 << 10;

/// Blocks begin at multiples of this: a multiple of every page size in use, and of what vector instructions like.
pub const GRAIN: u64 = 64 << 10;

/// Blocks that a side can have at the same time.
pub const NUMBERS: u32 = 4096;

/// Freed memory that a side keeps for good to use again, in bytes. Pages beyond go back to the system when they were not needed for
/// a while.
pub const KEEP: u64 = 16 << 20;

/// The largest half, in bytes: both fit into the address space of any process several times.
pub const MAX_HALF: u64 = 1 << 40;

const CONTROL: u64 = 64 << 10;
const COUNTERS: u64 = 4 << 10;

/// Where the worker counts results that found no room: a 64-bit number.
pub const FELL_BACK: u64 = 0;

/// One of the two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Owns the first half.
    Host,
    /// Owns the second half.
    Worker,
}

/// Where things are in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    half: u64,
}

impl Layout {
    /// With halves of at least this many bytes; `None` for none at all, or more than [`MAX_HALF`].
    pub fn new(half: u64) -> Option<Self> {
        let half = half.checked_next_multiple_of(GRAIN)?;
        (half > 0 && half <= MAX_HALF).then_some(Self { half })
    }

    /// That of a file of this length; `None` when it is none of ours.
    pub fn of_file(len: u64) -> Option<Self> {
        let layout = Self::new(len.checked_sub(CONTROL)? / 2)?;
        (layout.file_len() == len).then_some(layout)
    }

    /// The file's length in bytes.
    pub fn file_len(self) -> u64 {
        CONTROL + 2 * self.half
    }

    /// The bytes of a side's half.
    pub fn half(self, side: Side) -> Range<u64> {
        match side {
            Side::Host => CONTROL..CONTROL + self.half,
            Side::Worker => CONTROL + self.half..CONTROL + 2 * self.half,
        }
    }

    /// Where the hold counter of a side's block is; `None` when there is no such number.
    pub fn counter(self, side: Side, number: u32) -> Option<u64> {
        let before = match side {
            Side::Host => 0,
            Side::Worker => NUMBERS,
        };
        let counters = u64::from(before) + u64::from(number);
        (number < NUMBERS).then_some(COUNTERS + 4 * counters)
    }

    /// The half in which these bytes are; `None` unless all of them are in one, and there are any.
    pub fn side_of(self, bytes: &Range<u64>) -> Option<Side> {
        let is_in = |side| {
            let half = self.half(side);
            half.start <= bytes.start && bytes.start < bytes.end && bytes.end <= half.end
        };
        [Side::Host, Side::Worker].into_iter().find(|side| is_in(*side))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_is_found_again_by_the_length_of_its_file() {
        let layout = Layout::new(1).unwrap();
        assert_eq!(layout, Layout::new(GRAIN).unwrap());
        assert_eq!(Layout::of_file(layout.file_len()), Some(layout));
        for wrong in [
            0,
            1,
            CONTROL,
            layout.file_len() - 1,
            layout.file_len() + 2,
            u64::MAX,
        ] {
            assert_eq!(Layout::of_file(wrong), None, "{wrong}");
        }
        assert_eq!((Layout::new(0), Layout::new(u64::MAX)), (None, None));
    }

    #[test]
    fn counters_and_halves_do_not_meet() {
        let layout = Layout::new(GRAIN).unwrap();
        let last = |side| layout.counter(side, NUMBERS - 1).unwrap() + 4;
        assert!(FELL_BACK + 8 <= layout.counter(Side::Host, 0).unwrap());
        assert_eq!(Some(last(Side::Host)), layout.counter(Side::Worker, 0));
        assert!(last(Side::Worker) <= layout.half(Side::Host).start);
        assert_eq!(layout.counter(Side::Host, NUMBERS), None);
        assert_eq!(layout.half(Side::Worker).end, layout.file_len());
    }

    #[test]
    fn only_bytes_of_one_half_are_anywhere() {
        let layout = Layout::new(GRAIN).unwrap();
        let (host, worker) = (layout.half(Side::Host), layout.half(Side::Worker));
        assert_eq!(layout.side_of(&host), Some(Side::Host));
        assert_eq!(layout.side_of(&(worker.end - 1..worker.end)), Some(Side::Worker));
        let nowhere = [
            0..8,
            host.start - 1..host.end,
            host.end - 1..worker.start + 1,
            worker.start..worker.end + 1,
            worker.start..worker.start,
            u64::MAX - 1..u64::MAX,
        ];
        for bytes in nowhere {
            assert_eq!(layout.side_of(&bytes), None, "{bytes:?}");
        }
    }
}
