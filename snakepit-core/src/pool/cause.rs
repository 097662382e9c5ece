//! Why a worker is replaced.

use std::{fmt, time::Duration};

/// Why a pool replaces a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReplaceCause {
    /// It has served for this long: see [`PoolSettings::max_age`](super::PoolSettings::max_age).
    Age(Duration),
    /// It was given this many calls: see [`PoolSettings::max_calls`](super::PoolSettings::max_calls).
    Calls(u64),
    /// Its process tree has so much resident memory: see [`PoolSettings::max_rss`](super::PoolSettings::max_rss).
    Memory {
        /// In bytes, as sampled.
        rss_bytes: u64,
    },
    /// The pool is [restarted](super::Pool::restart).
    Restart,
}

impl fmt::Display for ReplaceCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Age(age) => write!(f, "it has served for {age:.1?}"),
            Self::Calls(calls) => write!(f, "it was given {calls} calls"),
            Self::Memory { rss_bytes } => write!(f, "it has {} MiB of memory", rss_bytes >> 20),
            Self::Restart => f.write_str("the pool is restarted"),
        }
    }
}
