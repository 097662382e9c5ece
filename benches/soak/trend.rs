//! Whether a series of samples is flat or grows.

use std::fmt;

/// What is watched, and how much of it is no growth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Limit {
    /// As a fraction of the median.
    pub(crate) relative: f64,
    /// In the series' own unit: less than this is not counted, however small the median is.
    pub(crate) absolute: f64,
}

/// How a series went over its second half.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Trend {
    /// The median of the second half.
    pub(crate) median: f64,
    /// By how much it has risen over the second half, along the Theil-Sen line.
    pub(crate) rise: f64,
    /// Whether that is more than the limit allows.
    pub(crate) grows: bool,
}

impl Trend {
    /// Looks at the second half of samples that were taken at even intervals: the first one is warming up. `None` for
    /// fewer than eight of them.
    ///
    /// The slope is Theil and Sen's: the median of the slopes between all pairs. A third of the samples may be anything,
    /// a busy minute for example, and it does not move. It grows when the rise along that line exceeds both limits.
    pub(crate) fn of(samples: &[f64], limit: Limit) -> Option<Self> {
        let half = samples.get(samples.len() / 2..).filter(|half| half.len() >= 4)?;
        let mut slopes = Vec::new();
        for (at, first) in half.iter().enumerate() {
            for (distance, second) in half[at..].iter().enumerate().skip(1) {
                slopes.push((second - first) / distance as f64);
            }
        }
        let rise = median(slopes)? * (half.len() - 1) as f64;
        let median = median(half.to_vec())?;
        Some(Self {
            median,
            rise,
            grows: rise > limit.relative * median && rise > limit.absolute,
        })
    }
}

impl fmt::Display for Trend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.grows { "grows" } else { "flat" };
        write!(f, "{:>10.1} {:>+10.2}  {verdict}", self.median, self.rise)
    }
}

/// The middle of values in any order; `None` without any.
pub(crate) fn median(values: Vec<f64>) -> Option<f64> {
    quantile(values, 0.5)
}

/// The value that this share of them does not exceed.
pub(crate) fn quantile(mut values: Vec<f64>, share: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    values.get((last as f64 * share).round() as usize).copied()
}
