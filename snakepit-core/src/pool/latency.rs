//! How long calls wait and run: two histograms that cost a call one addition each.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Bits of a value that its bucket keeps below the highest: eight buckets to a power of two, so that a quantile is at most an
/// eighth too large.
const PRECISION: u32 = 3;

/// Enough for 2^36 microseconds, 19 hours; longer times count as that.
const BUCKETS: usize = bucket(1 << 36) + 1;

/// How long calls waited and ran since the pool was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Latency {
    /// How many were measured.
    pub count: u64,
    /// Half of them took no longer. This and what follows is at most an eighth above the true value.
    pub p50: Duration,
    /// Nine in ten took no longer.
    pub p90: Duration,
    /// Ninety-nine in a hundred took no longer.
    pub p99: Duration,
    /// None took longer.
    pub max: Duration,
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            count,
            p50,
            p90,
            p99,
            max,
        } = self;
        write!(
            f,
            "{count} calls, p50 {p50:.1?}, p90 {p90:.1?}, p99 {p99:.1?}, max {max:.1?}"
        )
    }
}

/// What is measured of all calls.
#[derive(Debug, Default)]
pub(super) struct Latencies {
    /// From sending to dispatch.
    pub(super) waited: Histogram,
    /// From dispatch to the answer.
    pub(super) ran: Histogram,
}

/// Counts of durations by size.
pub(super) struct Histogram {
    buckets: Box<[AtomicU64; BUCKETS]>,
}

impl Default for Histogram {
    fn default() -> Self {
        let buckets = Box::new([const { AtomicU64::new(0) }; BUCKETS]);
        Self { buckets }
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.summary(), f)
    }
}

/// The bucket of a number of microseconds.
const fn bucket(micros: u64) -> usize {
    if micros < 1 << PRECISION {
        return micros as usize;
    }
    let shift = micros.ilog2() - PRECISION;
    ((shift as usize) << PRECISION) + (micros >> shift) as usize
}

/// The largest number of microseconds in a bucket.
const fn largest(bucket: usize) -> u64 {
    if bucket < 1 << PRECISION {
        return bucket as u64;
    }
    let shift = (bucket >> PRECISION) - 1;
    let leading = (bucket & ((1 << PRECISION) - 1)) + (1 << PRECISION);
    (((leading as u64) + 1) << shift) - 1
}

impl Histogram {
    /// Counts one.
    pub(super) fn record(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = bucket(micros).min(BUCKETS - 1);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted so far. Counts that come meanwhile are in it or not.
    pub(super) fn summary(&self) -> Latency {
        let counts = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        let counts: Vec<u64> = counts.collect();
        let count: u64 = counts.iter().sum();
        let quantile = |percent: u64| {
            let rank = (count * percent).div_ceil(100).max(1);
            let mut seen = 0;
            let at = counts.iter().position(|counted| {
                seen += counted;
                seen >= rank
            });
            at.map_or(Duration::ZERO, |bucket| Duration::from_micros(largest(bucket)))
        };
        Latency {
            count,
            p50: quantile(50),
            p90: quantile(90),
            p99: quantile(99),
            max: quantile(100),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_and_are_an_eighth_wide_at_most() {
        let mut next = 0;
        for at in 0..BUCKETS {
            assert_eq!(bucket(next), at);
            assert_eq!(bucket(largest(at)), at);
            assert!(largest(at) - next <= next / 8);
            next = largest(at) + 1;
        }
        assert!(next > 1 << 36);
    }

    #[test]
    fn quantiles_are_those_of_what_was_recorded() {
        let histogram = Histogram::default();
        assert_eq!(histogram.summary(), Latency::default());
        for millis in 1..=1000 {
            histogram.record(Duration::from_millis(millis));
        }
        histogram.record(Duration::MAX);
        let Latency {
            count,
            p50,
            p90,
            p99,
            max,
        } = histogram.summary();
        assert_eq!(count, 1001);
        for (quantile, millis) in [(p50, 501), (p90, 901), (p99, 991)] {
            let exact = Duration::from_millis(millis);
            assert!((exact..=exact * 9 / 8).contains(&quantile), "{quantile:?}");
        }
        assert!(max > Duration::from_secs(60_000));
    }
}
