//! What is said of a run.

use crate::{
    common::{
        record::Record,
        spread::spread,
        table::Table,
        target::{self, Goal, Target},
    },
    queue,
    sizes::{SHAPES, key, key_of},
};

/// How it was measured.
pub(crate) const METHOD: &str = "\
Pools of the zygote backend, `zygote+port`, whose template has imported NumPy before the clock starts. *Ready* is the time until every worker
serves. *PSS* is the proportional set size of a worker that has served nothing, and of the first process of its namespace, where it has one. *A call* is `builtins:abs` by one caller, one after the other.
*Idle* is the CPU of the host, of one core, while nothing is called. *Queue*: 100,000 calls at once on 10 workers, by as many tasks.
";

/// What this project has promised itself.
pub(crate) fn targets(record: &Record) -> Vec<Target> {
    let of = |size, what| record.spread(&key_of(size, what));
    vec![
        Target::new(
            "100 workers with NumPy ready",
            Goal::AtMost(250.0),
            " ms",
            of(100, "ready_ms"),
        ),
        Target::new(
            "1,000 workers with NumPy ready",
            Goal::AtMost(4000.0),
            " ms",
            of(1000, "ready_ms"),
        ),
        Target::new(
            "memory of a worker, PSS, 100 of them",
            Goal::AtMost(4.0),
            " MiB",
            of(100, "pss_mib"),
        ),
        Target::new(
            "a call with 1,000 workers against 10",
            Goal::AtMost(1.2),
            "x",
            record.ratio(&key_of(1000, "call_us"), &key_of(10, "call_us")),
        ),
        Target::new(
            "1,000 idle workers: host CPU, of one core",
            Goal::AtMost(2.0),
            " %",
            of(1000, "idle_percent"),
        ),
    ]
}

/// The tables.
pub(crate) fn tables(record: &Record) -> Vec<Table> {
    let columns = [
        "workers",
        "ready ms",
        "PSS MiB",
        "a call us",
        "idle %",
        "shutdown ms",
    ];
    let mut sizes = Table::new("By size", &columns);
    for shape in SHAPES {
        let cell = |what| spread(record.spread(&key(shape, what)));
        sizes.row([
            shape.to_string(),
            cell("ready_ms"),
            cell("pss_mib"),
            cell("call_us"),
            cell("idle_percent"),
            cell("shutdown_ms"),
        ]);
    }
    let columns = [
        "100,000 calls at once",
        "calls/s",
        "bytes of the host's memory for each",
    ];
    let mut waiting = Table::new("Queue", &columns);
    waiting.row([
        "10 workers".to_owned(),
        spread(record.spread(queue::RATE)),
        spread(record.spread(queue::BYTES)),
    ]);
    vec![target::table(&targets(record)), sizes, waiting]
}
