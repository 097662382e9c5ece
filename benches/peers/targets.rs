//! What this project has promised itself, and whether this run shows it.

use serde::Serialize;

use crate::{
    calls, dispatch, idle,
    ready::{self, Starts},
    record::Record,
    recovery,
    stats::Spread,
    systems::name,
};

/// A bound on a measured value.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) enum Goal {
    /// Not more than this.
    AtMost(f64),
    /// Not less than this.
    AtLeast(f64),
}

/// One row of the list.
#[derive(Debug, Serialize)]
pub(crate) struct Target {
    /// What is bounded.
    pub(crate) what: String,
    /// By what.
    pub(crate) goal: Goal,
    /// The unit of goal and measurement, as it follows the number.
    pub(crate) unit: &'static str,
    /// What this run has shown; `None` when its section was left out.
    pub(crate) measured: Option<Spread>,
}

impl Target {
    /// Whether the median is within the bound.
    pub(crate) fn passed(&self) -> Option<bool> {
        let median = self.measured?.median;
        Some(match self.goal {
            Goal::AtMost(bound) => median <= bound,
            Goal::AtLeast(bound) => median >= bound,
        })
    }

    /// `pass`, `MISS`, or that it was not measured.
    pub(crate) fn verdict(&self) -> &'static str {
        match self.passed() {
            Some(true) => "pass",
            Some(false) => "MISS",
            None => "not measured",
        }
    }
}

/// Every target, in the order they were set.
pub(crate) fn list(record: &Record) -> Vec<Target> {
    let target = |what: &str, goal, unit, measured| Target {
        what: what.to_owned(),
        goal,
        unit,
        measured,
    };
    let call = |callers, system, what| format!("{}/{what}", calls::key("1 KiB", callers, system));
    let p50 = |system| record.ratio(&call(1, name::OURS, "p50_us"), &call(1, system, "p50_us"));
    let start = |who| ready::key(100, who);
    let memory = |system| ready::memory_key(100, system);
    let mut targets = vec![
        target(
            "1 KiB, one caller: p50 against grpcio",
            Goal::AtMost(0.35),
            "x",
            p50(name::GRPCIO),
        ),
        target(
            "1 KiB, one caller: p50 against ProcessPoolExecutor",
            Goal::AtMost(0.6),
            "x",
            p50(name::EXECUTOR),
        ),
        target(
            "1 KiB, one caller: p50 against the socket floor",
            Goal::AtMost(1.7),
            "x",
            p50(name::FLOOR),
        ),
        target(
            "1 KiB, 16 callers on one worker: throughput against grpcio",
            Goal::AtLeast(2.5),
            "x",
            record.ratio(&call(16, name::OURS, "per_s"), &call(16, name::GRPCIO, "per_s")),
        ),
        target(
            "100 cold workers ready: times faster than grpcio",
            Goal::AtLeast(6.0),
            "x",
            record.ratio(&start(Starts::Grpcio), &start(Starts::Ours)),
        ),
        target(
            "memory of an idle worker (PSS, 100 of them) against grpcio",
            Goal::AtMost(1.0 / 3.0),
            "x",
            record.ratio(&memory(name::OURS), &memory(name::GRPCIO)),
        ),
        target(
            "worker killed to replacement answering",
            Goal::AtMost(30.0),
            " ms",
            record.spread(recovery::KEY),
        ),
    ];
    targets.extend(dispatch::WORKERS.map(|workers| {
        let what = format!("no-op dispatch, {workers} in-memory workers");
        target(
            &what,
            Goal::AtMost(5.0),
            " us",
            record.spread(&dispatch::key(workers)),
        )
    }));
    targets.push(target(
        "no-op dispatch is flat: 1,000 workers against 1",
        Goal::AtMost(1.5),
        "x",
        record.ratio(&dispatch::key(1000), &dispatch::key(1)),
    ));
    targets.push(target(
        "100 idle workers: host CPU, of one core",
        Goal::AtMost(1.0),
        " %",
        record.spread(idle::HOST),
    ));
    targets
}
