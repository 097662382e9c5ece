//! How much is done, and by which random numbers.

use std::{
    collections::hash_map::DefaultHasher, hash::Hash, hash::Hasher as _, sync::OnceLock, time::Duration,
};

use crate::contender::contenders;

/// Rounds of each kind of death over all contenders when nobody asks for more: the suite then takes two minutes on two
/// cores, however many take part.
const ROUNDS: usize = 40;
/// Spawn-exit cycles when nobody asks for more.
const CYCLES: usize = 200;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable} is `{text}`, which is no number")))
}

/// Rounds of each cell: `SNAKEPIT_CHAOS`.
pub(crate) fn rounds() -> usize {
    number("SNAKEPIT_CHAOS").map_or_else(
        || (ROUNDS / contenders().len()).clamp(4, 16),
        |rounds| rounds as usize,
    )
}

/// Rounds of a cell that costs more: a quarter in the short form.
pub(crate) fn few_rounds() -> usize {
    if is_long() { rounds() } else { rounds().div_ceil(4) }
}

/// Whether the long form was asked for, in which the promised times are asserted.
pub(crate) fn is_long() -> bool {
    number("SNAKEPIT_CHAOS").is_some_and(|rounds| rounds >= 100)
}

/// Spawn-exit cycles: `SNAKEPIT_CHAOS_CYCLES`.
pub(crate) fn cycles() -> usize {
    number("SNAKEPIT_CHAOS_CYCLES").map_or(CYCLES, |cycles| cycles as usize)
}

/// What all random instants come from: `SNAKEPIT_CHAOS_SEED`, else a number that changes from run to run.
fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| {
        number("SNAKEPIT_CHAOS_SEED").unwrap_or_else(|| {
            let mut hasher = DefaultHasher::new();
            snakepit::core::RunId::random().hash(&mut hasher);
            hasher.finish() % 1_000_000
        })
    })
}

/// Random numbers, SplitMix64. A test has its own, so that it does not depend on what else runs.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// Those of one test; the seed is printed, which shows when it fails.
    pub(crate) fn of(test: &str) -> Self {
        eprintln!("{test}: SNAKEPIT_CHAOS_SEED={}", seed());
        let mut hasher = DefaultHasher::new();
        (seed(), test).hash(&mut hasher);
        Self(hasher.finish())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// A time below `bound`.
    pub(crate) fn within(&mut self, bound: Duration) -> Duration {
        Duration::from_micros(self.next() % bound.as_micros().max(1) as u64)
    }
}
