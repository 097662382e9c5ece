//! What is said in the end.

use std::{collections::BTreeMap, fmt};

use super::{
    load::{Tally, UNEXPECTED},
    trend::{Limit, Trend},
    watch::Look,
};

/// A series: its name, what it is in a look, and what is no growth of it.
type Series = (&'static str, fn(&Look) -> f64, Limit);

const fn limit(relative: f64, absolute: f64) -> Limit {
    Limit { relative, absolute }
}

/// Each limit is several times what the same load showed from one run to the next; see `docs/soak.md`.
const SERIES: [Series; 7] = [
    ("host memory, MiB", |look| look.host_own_mib, limit(0.05, 2.0)),
    ("shared memory, MiB", |look| look.host_shared_mib, limit(0.5, 8.0)),
    ("host descriptors", |look| look.host_fds, limit(0.05, 4.0)),
    ("host threads", |look| look.host_threads, limit(0.05, 2.0)),
    ("worker memory, MiB", |look| look.worker_rss_mib, limit(0.1, 2.0)),
    ("small call p50, us", |look| look.p50_us, limit(0.5, 200.0)),
    ("small call p99, us", |look| look.p99_us, limit(1.0, 2000.0)),
];

/// What is said in the end.
#[derive(Debug)]
pub(crate) struct Summary {
    pub(crate) calls: u64,
    /// Outcomes that are no right answer, and how many.
    pub(crate) told: BTreeMap<String, u64>,
    pub(crate) deaths: u64,
    pub(crate) replaced: u64,
    /// `None` where there were too few looks.
    pub(crate) trends: Vec<(&'static str, Option<Trend>)>,
}

impl Summary {
    pub(super) fn new(looks: &[Look], tally: &Tally, (deaths, replaced): (u64, u64)) -> Self {
        let trend = |(name, value, limit): &Series| {
            let samples: Vec<_> = looks.iter().map(value).collect();
            (*name, Trend::of(&samples, *limit))
        };
        Self {
            calls: tally.calls(),
            told: tally.told(),
            deaths,
            replaced,
            trends: SERIES.iter().map(trend).collect(),
        }
    }

    /// Outcomes that must not be.
    pub(crate) fn unexpected(&self) -> impl Iterator<Item = (&String, &u64)> {
        self.told.iter().filter(|(told, _)| told.starts_with(UNEXPECTED))
    }

    /// Nothing has grown, and every call had an outcome that it may have.
    pub(crate) fn is_good(&self) -> bool {
        let grows = |trend: &Option<Trend>| trend.is_none_or(|trend| trend.grows);
        self.unexpected().next().is_none() && !self.trends.iter().any(|(_, trend)| grows(trend))
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            calls,
            deaths,
            replaced,
            ..
        } = self;
        writeln!(
            f,
            "{calls} calls, {deaths} workers died, {replaced} were replaced"
        )?;
        for (told, count) in &self.told {
            writeln!(f, "{count:>9} {told}")?;
        }
        writeln!(f, "{:<20} {:>10} {:>10}", "second half", "median", "rise")?;
        for (name, trend) in &self.trends {
            match trend {
                Some(trend) => writeln!(f, "{name:<20} {trend}")?,
                None => writeln!(f, "{name:<20} too few looks to tell")?,
            }
        }
        let verdict = if self.is_good() { "flat" } else { "NOT FLAT" };
        writeln!(f, "verdict: {verdict}")
    }
}
