//! The account of an arena's half: whatever its owner does, and whatever the other side writes into the counters, blocks that are in
//! use never share a byte, stay in the half, and no page of theirs is given back.

#![no_main]

use std::{
    cell::{Cell, RefCell},
    ops::Range,
};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use snakepit_proto::arena::{Blocks, GRAIN, Layout, Memory, Side};

/// Counters that the other side may write whatever it likes to.
const SCRIBBLED: usize = 64;

#[derive(Arbitrary, Debug)]
enum Step {
    /// Makes a block of so many bytes, and shows it or not.
    Make(u32, bool),
    Pin(u8),
    /// Pins some bytes by any number, as a reference in a message asks for.
    PinAny(u32, u64, u64),
    Find(u64, u64),
    Unpin(u8),
    Scribble(u8, u32),
    Reclaim,
    Tidy,
}

#[derive(Arbitrary, Debug)]
struct Case {
    grains: u16,
    worker: bool,
    file_len: u64,
    steps: Vec<Step>,
}

struct Counters {
    holds: [Cell<u32>; SCRIBBLED],
    given_back: RefCell<Vec<Range<u64>>>,
}

impl Memory for Counters {
    fn holds(&self, number: u32) -> u32 {
        self.holds.get(number as usize).map_or(0, Cell::get)
    }

    fn clear(&self, number: u32) {
        if let Some(holds) = self.holds.get(number as usize) {
            holds.set(0);
        }
    }

    fn give_back(&self, bytes: Range<u64>) {
        self.given_back.borrow_mut().push(bytes);
    }
}

fn apart(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.end <= b.start || b.end <= a.start
}

fuzz_target!(|case: Case| {
    // A file of any length is ours or is not.
    if let Some(layout) = Layout::of_file(case.file_len) {
        assert_eq!(layout.file_len(), case.file_len);
        assert!(layout.half(Side::Worker).end <= case.file_len);
    }
    let side = if case.worker { Side::Worker } else { Side::Host };
    let Some(layout) = Layout::new(u64::from(case.grains) * GRAIN) else {
        return;
    };
    let half = layout.half(side);
    let memory = Counters {
        holds: std::array::from_fn(|_| Cell::new(0)),
        given_back: RefCell::default(),
    };
    let mut blocks = Blocks::new(layout, side);
    // What the owner uses, once for each use; and whether it was shown.
    let mut used: Vec<(u32, Range<u64>, bool)> = Vec::new();
    for step in case.steps {
        match step {
            Step::Make(len, show) => {
                let Some((number, bytes)) = blocks.make(len.into(), &memory) else {
                    continue;
                };
                assert_eq!(bytes.end - bytes.start, u64::from(len));
                assert!(half.start <= bytes.start && bytes.end <= half.end);
                assert!(len == 0 || layout.side_of(&bytes) == Some(side));
                for (other, theirs, _) in &used {
                    assert!(*other != number && apart(&bytes, theirs), "{bytes:?} {theirs:?}");
                }
                assert!(!blocks.pin(number, &bytes), "it is not shown");
                if show {
                    blocks.show(number);
                }
                used.push((number, bytes, show));
            }
            Step::Pin(at) if !used.is_empty() => {
                let (number, bytes, shown) = used[usize::from(at) % used.len()].clone();
                assert_eq!(blocks.pin(number, &bytes), shown);
                if shown {
                    used.push((number, bytes, shown));
                }
            }
            Step::PinAny(number, start, end) => {
                if blocks.pin(number, &(start..end)) {
                    assert!(half.start <= start && start <= end && end <= half.end);
                    blocks.unpin(number, &memory);
                }
            }
            Step::Find(start, end) => {
                if let Some(number) = blocks.find(&(start..end))
                    && start <= end
                {
                    assert!(half.start <= start && end <= half.end);
                    assert!(blocks.pin(number, &(start..end)), "it was found");
                    blocks.unpin(number, &memory);
                }
            }
            Step::Unpin(at) if !used.is_empty() => {
                let (number, _, _) = used.swap_remove(usize::from(at) % used.len());
                blocks.unpin(number, &memory);
            }
            Step::Pin(_) | Step::Unpin(_) => {}
            Step::Scribble(number, holds) => memory.holds[usize::from(number) % SCRIBBLED].set(holds),
            Step::Reclaim => blocks.reclaim(&memory),
            Step::Tidy => {
                blocks.tidy(&memory);
                for given in memory.given_back.take() {
                    for (_, bytes, _) in &used {
                        assert!(apart(&given, bytes), "{given:?} of {bytes:?} was given back");
                    }
                }
            }
        }
    }
    // When nobody has anything any more, everything is free.
    memory.holds.iter().for_each(|holds| holds.set(0));
    for (number, _, _) in used {
        blocks.unpin(number, &memory);
    }
    blocks.reclaim(&memory);
    assert_eq!(blocks.taken(), 0);
});
