//! Which bytes of a half are taken, and which of the free ones still have pages.

use std::ops::Range;

use super::{GRAIN, intervals::Intervals};

/// The free bytes of a half.
#[derive(Debug)]
pub(super) struct Space {
    free: Intervals,
    /// Those of them that have been in use and whose pages were not given back.
    kept: Intervals,
    keep: u64,
    len: u64,
}

impl Space {
    /// All of `half` is free and has no pages; at most `keep` bytes of pages are kept for later.
    pub(super) fn new(half: Range<u64>, keep: u64) -> Self {
        let len = half.end - half.start;
        let mut free = Intervals::default();
        free.insert(half);
        Self {
            free,
            kept: Intervals::default(),
            keep: keep / GRAIN * GRAIN,
            len,
        }
    }

    /// Bytes that are taken.
    pub(super) fn taken(&self) -> u64 {
        self.len - self.free.total()
    }

    /// Takes room for `len` bytes, as low as there is: what was used before is used again.
    pub(super) fn take(&mut self, len: u64) -> Option<Range<u64>> {
        let len = len.max(1).checked_next_multiple_of(GRAIN)?;
        let range = self.free.first_fit(len)?;
        self.free.remove(&range);
        self.kept.remove(&range);
        Some(range)
    }

    /// Frees what was taken. Pages beyond those that are kept are given back first.
    pub(super) fn free(&mut self, range: Range<u64>, give_back: impl FnOnce(Range<u64>)) {
        let room = self.keep - self.kept.total();
        let kept = range.start..range.end.min(range.start + room);
        let rest = kept.end..range.end;
        if !rest.is_empty() {
            give_back(rest);
        }
        self.kept.insert(kept);
        self.free.insert(range);
    }
}
