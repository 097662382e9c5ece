//! Letting go of descriptors after a fork.

use std::os::fd::RawFd;

use crate::{
    failure::{At, Failure},
    sys,
    wire::Step,
};

/// Closes every descriptor but these.
pub(crate) fn close_all_but(keep: &mut [RawFd]) -> Result<(), Failure> {
    for (first, last) in gaps(keep) {
        sys::close_range(first, last).at(Step::Descriptors)?;
    }
    Ok(())
}

/// The ranges between these numbers, and after the last.
fn gaps(keep: &mut [RawFd]) -> impl Iterator<Item = (u32, u32)> {
    keep.sort_unstable();
    let mut next = 0;
    let ends = keep.iter().map(|fd| fd.cast_unsigned()).chain([u32::MAX]);
    ends.filter_map(move |end| {
        // The last range goes up to the largest number, which is no descriptor.
        let range = (next < end).then(|| (next, if end == u32::MAX { end } else { end - 1 }));
        next = next.max(end.saturating_add(1));
        range
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_but_the_named_ones_is_in_the_ranges() {
        let max = u32::MAX;
        for (keep, expected) in [
            (vec![], vec![(0, max)]),
            (vec![0, 1, 2], vec![(3, max)]),
            (vec![9, 0, 5, 5], vec![(1, 4), (6, 8), (10, max)]),
            (vec![3], vec![(0, 2), (4, max)]),
        ] {
            let mut sorted = keep.clone();
            assert_eq!(gaps(&mut sorted).collect::<Vec<_>>(), expected, "{keep:?}");
        }
    }
}
