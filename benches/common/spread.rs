//! Medians over rounds and how far to trust them.

use std::fmt;

use serde::Serialize;

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

impl fmt::Display for Spread {
    /// `1.23 (1.20..1.31)`: the median and the quartiles.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p25, median, p75 } = *self;
        write!(f, "{} ({}..{})", figure(median), figure(p25), figure(p75))
    }
}

/// A spread as a cell of a table.
pub(crate) fn spread(spread: Option<Spread>) -> String {
    spread.map_or_else(|| "-".into(), |spread| spread.to_string())
}

/// A median as a cell of a table.
pub(crate) fn median(spread: Option<Spread>) -> String {
    spread.map_or_else(|| "-".into(), |spread| figure(spread.median))
}

/// Three significant digits, and no more than the value has before the point.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
