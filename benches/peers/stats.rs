//! Percentiles of one round, medians and spread over rounds.

use serde::{Deserialize, Serialize};

/// One round of calls of one system.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Median latency in microseconds.
    pub(crate) p50_us: f64,
    /// 90th percentile in microseconds.
    pub(crate) p90_us: f64,
    /// 99th percentile in microseconds.
    pub(crate) p99_us: f64,
    /// Calls answered per second, all callers together.
    pub(crate) per_s: f64,
}

impl Sample {
    /// Summarises latencies in nanoseconds that were collected in `elapsed_s` seconds; `None` without any.
    pub(crate) fn of(mut nanoseconds: Vec<u64>, elapsed_s: f64) -> Option<Self> {
        nanoseconds.sort_unstable();
        let at = |q: f64| {
            let index = (q * nanoseconds.len() as f64) as usize;
            let nearest = nanoseconds.get(index).or(nanoseconds.last());
            nearest.map(|ns| *ns as f64 / 1e3)
        };
        Some(Self {
            p50_us: at(0.5)?,
            p90_us: at(0.9)?,
            p99_us: at(0.99)?,
            per_s: nanoseconds.len() as f64 / elapsed_s,
        })
    }
}

/// A median over rounds, with the quartiles that say how far to trust it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    /// Lower quartile.
    pub(crate) p25: f64,
    /// Median.
    pub(crate) median: f64,
    /// Upper quartile.
    pub(crate) p75: f64,
}

impl Spread {
    /// The spread of values, one per round; `None` without any.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let mut ordered = values.to_vec();
        ordered.sort_by(f64::total_cmp);
        let last = ordered.len().checked_sub(1)?;
        // Linear interpolation between the two nearest ranks.
        let at = |q: f64| {
            let place = q * last as f64;
            let (low, high) = (place.floor() as usize, place.ceil() as usize);
            ordered[low] + (ordered[high] - ordered[low]) * place.fract()
        };
        Some(Self {
            p25: at(0.25),
            median: at(0.5),
            p75: at(0.75),
        })
    }
}
