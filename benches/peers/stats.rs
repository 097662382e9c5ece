//! Percentiles of one round.

use serde::{Deserialize, Serialize};

use crate::record::Record;

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

    /// Adds this round's calls under `prefix`.
    pub(crate) fn record(self, prefix: &str, record: &mut Record) {
        record.push(format!("{prefix}/p50_us"), self.p50_us);
        record.push(format!("{prefix}/p90_us"), self.p90_us);
        record.push(format!("{prefix}/p99_us"), self.p99_us);
        record.push(format!("{prefix}/per_s"), self.per_s);
    }
}
