//! What this project has promised itself.

use crate::{
    calls, dispatch, idle,
    ready::{self, Starts},
    record::Record,
    recovery,
    systems::name,
    target::{Goal, Target},
};

/// Every target, in the order they were set.
pub(crate) fn list(record: &Record) -> Vec<Target> {
    let call = |callers, system, what| format!("{}/{what}", calls::key("1 KiB", callers, system));
    let p50 = |system| record.ratio(&call(1, name::OURS, "p50_us"), &call(1, system, "p50_us"));
    let start = |who| ready::key(100, who);
    let memory = |system| ready::memory_key(100, system);
    let mut targets = vec![
        Target::new(
            "1 KiB, one caller: p50 against grpcio",
            Goal::AtMost(0.35),
            "x",
            p50(name::GRPCIO),
        ),
        Target::new(
            "1 KiB, one caller: p50 against ProcessPoolExecutor",
            Goal::AtMost(0.6),
            "x",
            p50(name::EXECUTOR),
        ),
        Target::new(
            "1 KiB, one caller: p50 against the socket floor",
            Goal::AtMost(1.7),
            "x",
            p50(name::FLOOR),
        ),
        Target::new(
            "1 KiB, 16 callers on one worker: throughput against grpcio",
            Goal::AtLeast(2.5),
            "x",
            record.ratio(&call(16, name::OURS, "per_s"), &call(16, name::GRPCIO, "per_s")),
        ),
        Target::new(
            "100 cold workers ready: times faster than grpcio",
            Goal::AtLeast(6.0),
            "x",
            record.ratio(&start(Starts::Grpcio), &start(Starts::Ours)),
        ),
        Target::new(
            "memory of an idle worker (PSS, 100 of them) against grpcio",
            Goal::AtMost(1.0 / 3.0),
            "x",
            record.ratio(&memory(name::OURS), &memory(name::GRPCIO)),
        ),
        Target::new(
            "worker killed to replacement answering",
            Goal::AtMost(30.0),
            " ms",
            record.spread(recovery::KEY),
        ),
    ];
    targets.extend(dispatch::WORKERS.map(|workers| {
        let what = format!("no-op dispatch, {workers} in-memory workers");
        Target::new(
            &what,
            Goal::AtMost(5.0),
            " us",
            record.spread(&dispatch::key(workers)),
        )
    }));
    targets.push(Target::new(
        "no-op dispatch is flat: 1,000 workers against 1",
        Goal::AtMost(1.5),
        "x",
        record.ratio(&dispatch::key(1000), &dispatch::key(1)),
    ));
    targets.push(Target::new(
        "100 idle workers: host CPU, of one core",
        Goal::AtMost(1.0),
        " %",
        record.spread(idle::HOST),
    ));
    targets
}
