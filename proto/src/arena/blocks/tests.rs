use std::{cell::RefCell, collections::BTreeMap};

use proptest::prelude::*;

use super::{super::GRAIN, *};

/// Hold counters, and which pages were given back.
#[derive(Default)]
struct Fake {
    holds: RefCell<BTreeMap<u32, u32>>,
    given_back: RefCell<Vec<Range<u64>>>,
}

impl Fake {
    fn set(&self, number: u32, holds: u32) {
        self.holds.borrow_mut().insert(number, holds);
    }

    fn given_back(&self) -> u64 {
        let given_back = self.given_back.borrow();
        given_back.iter().map(|bytes| bytes.end - bytes.start).sum()
    }
}

impl Memory for Fake {
    fn holds(&self, number: u32) -> u32 {
        self.holds.borrow().get(&number).copied().unwrap_or(0)
    }

    fn clear(&self, number: u32) {
        self.set(number, 0);
    }

    fn give_back(&self, bytes: Range<u64>) {
        self.given_back.borrow_mut().push(bytes);
    }
}

fn blocks(grains: u64) -> (Blocks, Fake) {
    let layout = Layout::new(grains * GRAIN).unwrap();
    (Blocks::new(layout, Side::Host), Fake::default())
}

#[test]
fn a_block_is_used_again_when_nobody_has_it() {
    let (mut blocks, memory) = blocks(4);
    let (number, bytes) = blocks.make(3 * GRAIN, &memory).unwrap();
    assert_eq!(blocks.make(2 * GRAIN, &memory), None, "no room");
    memory.set(number, 1);
    blocks.unpin(number, &memory);
    assert_eq!(blocks.make(2 * GRAIN, &memory), None, "the other side has it");
    memory.set(number, 0);
    assert_eq!(blocks.make(3 * GRAIN, &memory), Some((number, bytes)));
    assert_eq!(memory.given_back(), 0, "the pages were kept");
}

#[test]
fn pages_that_nobody_needed_for_a_while_are_given_back() {
    let keep = KEEP / GRAIN;
    let (mut blocks, memory) = blocks(8 * keep);
    let (large, _) = blocks.make(5 * KEEP, &memory).unwrap();
    blocks.unpin(large, &memory);
    blocks.tidy(&memory);
    assert_eq!(memory.given_back(), 0, "they were in use");
    for _ in 0..3 {
        // As large a value again, each time.
        let (large, _) = blocks.make(5 * KEEP, &memory).unwrap();
        blocks.unpin(large, &memory);
        blocks.tidy(&memory);
    }
    assert_eq!(memory.given_back(), 0, "they are in use");
    let (small, _) = blocks.make(KEEP, &memory).unwrap();
    blocks.unpin(small, &memory);
    blocks.tidy(&memory);
    assert_eq!(
        memory.given_back(),
        3 * KEEP,
        "all but what is in use, and as much again"
    );
    blocks.tidy(&memory);
    assert_eq!(memory.given_back(), 4 * KEEP, "and now but what is kept");
    blocks.tidy(&memory);
    assert_eq!((memory.given_back(), blocks.taken()), (4 * KEEP, 0));
}

#[test]
fn a_block_is_known_by_its_bytes_and_no_others() {
    let (mut blocks, memory) = blocks(4);
    let (number, bytes) = blocks.make(GRAIN + 1, &memory).unwrap();
    let inside = bytes.start + 7..bytes.end;
    assert!(
        blocks.find(&inside).is_none() && !blocks.pin(number, &inside),
        "it is not filled"
    );
    blocks.show(number);
    assert_eq!(blocks.find(&inside), Some(number));
    assert!(blocks.pin(number, &inside));
    let too_long = bytes.start..bytes.end + 1;
    assert_eq!(blocks.find(&too_long), None);
    assert!(!blocks.pin(number, &too_long));
    assert!(!blocks.pin(number + 1, &inside) && !blocks.pin(u32::MAX, &inside));
    blocks.unpin(number, &memory);
    assert_eq!(blocks.find(&inside), Some(number), "pinned twice");
    blocks.unpin(number, &memory);
    assert_eq!(blocks.find(&inside), None);
    assert!(!blocks.pin(number, &inside));
}

#[test]
fn numbers_run_out_before_room_does() {
    let (mut blocks, memory) = blocks(u64::from(NUMBERS) + 1);
    let made = (0..NUMBERS).map(|_| blocks.make(1, &memory).unwrap().0);
    assert!(made.eq(0..NUMBERS));
    assert_eq!(blocks.make(1, &memory), None);
    blocks.unpin(17, &memory);
    assert_eq!(blocks.make(1, &memory).unwrap().0, 17);
}

#[derive(Clone, Debug)]
enum Step {
    Make(u64),
    Pin(prop::sample::Index),
    Unpin(prop::sample::Index),
    /// What the other side writes, whatever it is.
    Scribble(u32, u32),
    Tidy,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..5 * KEEP).prop_map(Step::Make),
        1 => any::<prop::sample::Index>().prop_map(Step::Pin),
        3 => any::<prop::sample::Index>().prop_map(Step::Unpin),
        1 => Just(Step::Tidy),
        2 => (0..8_u32, 0..3_u32).prop_map(|(number, holds)| Step::Scribble(number, holds)),
    ];
    let most = if cfg!(miri) { 20 } else { 200 };
    prop::collection::vec(step, 1..most)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 4 } else { 256 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever the counters say, blocks that the owner uses stay apart, in the half, and theirs.
    #[test]
    fn pinned_blocks_never_share_a_byte(steps in steps()) {
        let grains = 16 * KEEP / GRAIN;
        let layout = Layout::new(grains * GRAIN).unwrap();
        let (mut blocks, memory) = blocks(grains);
        let mut pinned: Vec<(u32, Range<u64>)> = Vec::new();
        for step in steps {
            match step {
                Step::Make(len) => {
                    if let Some((number, bytes)) = blocks.make(len, &memory) {
                        prop_assert_eq!(bytes.end - bytes.start, len);
                        prop_assert!(layout.half(Side::Host).start <= bytes.start);
                        prop_assert!(bytes.end <= layout.half(Side::Host).end);
                        for (other, its_bytes) in &pinned {
                            prop_assert!(*other != number);
                            let apart = bytes.end <= its_bytes.start || its_bytes.end <= bytes.start;
                            prop_assert!(apart, "{:?} and {:?}", bytes, its_bytes);
                        }
                        blocks.show(number);
                        pinned.push((number, bytes));
                    }
                }
                Step::Pin(at) if !pinned.is_empty() => {
                    let (number, bytes) = at.get(&pinned).clone();
                    prop_assert!(blocks.pin(number, &bytes));
                    pinned.push((number, bytes));
                }
                Step::Unpin(at) if !pinned.is_empty() => {
                    let (number, _) = pinned.swap_remove(at.index(pinned.len()));
                    blocks.unpin(number, &memory);
                }
                Step::Pin(_) | Step::Unpin(_) => {}
                Step::Scribble(number, holds) => memory.set(number, holds),
                Step::Tidy => {
                    blocks.tidy(&memory);
                    for bytes in memory.given_back.take() {
                        for (_, used) in &pinned {
                            let apart = used.end <= bytes.start || bytes.end <= used.start;
                            prop_assert!(apart, "{:?} of {:?} was given back", bytes, used);
                        }
                    }
                }
            }
        }
        memory.holds.borrow_mut().clear();
        while let Some((number, _)) = pinned.pop() {
            blocks.unpin(number, &memory);
        }
        blocks.reclaim(&memory);
        prop_assert_eq!(blocks.taken(), 0);
    }
}
