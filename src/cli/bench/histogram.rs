//! Latencies in buckets: any number of them in a fixed amount of memory.

use std::time::Duration;

/// Buckets for each doubling: a value is known to 1/64, better than runs agree.
const STEPS: u64 = 64;
/// Nanoseconds fit 64 bits.
const DOUBLINGS: usize = 64;

/// Counts of durations.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: Duration,
}

impl Histogram {
    pub(super) fn new() -> Self {
        Self {
            counts: vec![0; DOUBLINGS * STEPS as usize],
            total: 0,
            max: Duration::ZERO,
        }
    }

    pub(super) fn record(&mut self, duration: Duration) {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(nanoseconds)] += 1;
        self.total += 1;
        self.max = self.max.max(duration);
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (ours, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *ours += theirs;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn max(&self) -> Duration {
        self.max
    }

    /// The duration that this share of all did not exceed; zero when there is none.
    pub(super) fn quantile(&self, share: f64) -> Duration {
        let rank = (self.total as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(middle(at)).min(self.max);
            }
        }
        self.max
    }
}

/// Below [`STEPS`] each value has a bucket; above, each doubling has [`STEPS`].
fn bucket(value: u64) -> usize {
    let doublings = (value / STEPS).checked_ilog2().map_or(0, |log| log + 1);
    match doublings {
        0 => value as usize,
        _ => {
            let step = (value >> (doublings - 1)) - STEPS;
            (u64::from(doublings) * STEPS + step) as usize
        }
    }
}

/// The middle of a bucket.
fn middle(bucket: usize) -> u64 {
    let (doublings, step) = (bucket as u64 / STEPS, bucket as u64 % STEPS);
    match doublings {
        0 => step,
        _ => {
            let width = 1_u64 << (doublings - 1);
            (STEPS + step) * width + width / 2
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_within_a_bucket() {
        let mut latencies = Histogram::new();
        for microseconds in 1..=1000 {
            latencies.record(Duration::from_micros(microseconds));
        }
        for (share, microseconds) in [(0.5, 500.0), (0.9, 900.0), (0.99, 990.0)] {
            let found = latencies.quantile(share).as_secs_f64() * 1e6;
            assert!((found / microseconds - 1.0).abs() < 0.02, "{share}: {found}");
        }
        assert_eq!(latencies.max(), Duration::from_micros(1000));
        assert_eq!(latencies.quantile(1.0), Duration::from_micros(1000));
        assert_eq!(Histogram::new().quantile(0.5), Duration::ZERO);
    }

    #[test]
    fn every_value_has_a_bucket_that_holds_it() {
        for value in (0..200).chain([1 << 20, (1 << 40) + 12_345, u64::MAX]) {
            let error = middle(bucket(value)).abs_diff(value);
            assert!(error as f64 <= value as f64 / STEPS as f64, "{value}: {error}");
        }
    }
}
