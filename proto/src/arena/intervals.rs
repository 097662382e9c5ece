//! Sets of numbers that are kept as ranges.

use std::{collections::BTreeMap, ops::Range};

/// Ranges that neither meet nor touch, by their start.
#[derive(Debug, Default)]
pub(super) struct Intervals {
    ends: BTreeMap<u64, u64>,
    total: u64,
}

impl Intervals {
    /// How much there is in all.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Adds a range of which nothing was there.
    pub(super) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        self.total += range.end - range.start;
        let Range { mut start, mut end } = range;
        if let Some((&before, &its_end)) = self.ends.range(..start).next_back() {
            debug_assert!(its_end <= start, "was there already");
            if its_end == start {
                self.ends.remove(&before);
                start = before;
            }
        }
        if let Some(its_end) = self.ends.remove(&end) {
            end = its_end;
        }
        self.ends.insert(start, end);
    }

    /// Takes away whatever of a range is there.
    pub(super) fn remove(&mut self, range: &Range<u64>) {
        let before = self.ends.range(..range.start).next_back();
        let first = before
            .filter(|(_, end)| **end > range.start)
            .map_or(range.start, |(start, _)| *start);
        let met: Vec<_> = self.ends.range(first..range.end).map(|(s, e)| *s..*e).collect();
        for Range { start, end } in met {
            self.ends.remove(&start);
            self.total -= end.min(range.end) - start.max(range.start);
            if start < range.start {
                self.ends.insert(start, range.start);
            }
            if range.end < end {
                self.ends.insert(range.end, end);
            }
        }
    }

    /// The last of them.
    pub(super) fn last(&self) -> Option<Range<u64>> {
        self.ends.last_key_value().map(|(start, end)| *start..*end)
    }

    /// The first place with this much room.
    pub(super) fn first_fit(&self, len: u64) -> Option<Range<u64>> {
        let fits = self.ends.iter().find(|(start, end)| *end - *start >= len);
        fits.map(|(start, _)| *start..start + len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_become_one_and_what_is_taken_out_leaves_its_ends() {
        let mut set = Intervals::default();
        for range in [0..10, 20..30, 10..20, 40..50] {
            set.insert(range);
        }
        assert_eq!((set.total(), set.first_fit(30)), (40, Some(0..30)));
        set.remove(&(5..45));
        assert_eq!(set.ends.iter().collect::<Vec<_>>(), [(&0, &5), (&45, &50)]);
        assert_eq!((set.total(), set.first_fit(6)), (10, None));
        set.remove(&(100..200));
        assert_eq!(set.total(), 10);
    }
}
