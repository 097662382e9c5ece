//! Which bytes of a half are taken, and which of the free ones still have pages.

use std::ops::Range;

use super::{GRAIN, intervals::Intervals};

/// The free bytes of a half.
#[derive(Debug)]
pub(super) struct Space {
    free: Intervals,
    /// Those of them that have been in use and whose pages were not given back.
    kept: Intervals,
    /// The fewest of those that there were since pages were last given back: nobody needed so many.
    fewest_kept: u64,
    len: u64,
}

impl Space {
    /// All of `half` is free and has no pages.
    pub(super) fn new(half: Range<u64>) -> Self {
        let len = half.end - half.start;
        let mut free = Intervals::default();
        free.insert(half);
        Self {
            free,
            kept: Intervals::default(),
            fewest_kept: 0,
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
        self.fewest_kept = self.fewest_kept.min(self.kept.total());
        Some(range)
    }

    /// Frees what was taken. Its pages are kept.
    pub(super) fn free(&mut self, range: Range<u64>) {
        self.kept.insert(range.clone());
        self.free.insert(range);
    }

    /// Gives pages back that were not needed since the last time, but for `keep` bytes of them.
    pub(super) fn tidy(&mut self, keep: u64, give_back: impl Fn(Range<u64>)) {
        let mut surplus = self.fewest_kept.saturating_sub(keep);
        // What is used again is taken from the other end.
        while let Some(last) = self.kept.last().filter(|_| surplus > 0) {
            let part = last.start.max(last.end.saturating_sub(surplus))..last.end;
            surplus -= part.end - part.start;
            self.kept.remove(&part);
            give_back(part);
        }
        self.fewest_kept = self.kept.total();
    }
}
