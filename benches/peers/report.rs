//! The tables of a run.

use crate::{
    calls, dispatch, idle,
    ready::{self, Starts},
    record::Record,
    recovery,
    stats::Spread,
    systems::name,
    table::Table,
    targets::{Goal, Target},
};

/// All tables whose sections were measured, the promises first.
pub(crate) fn tables(record: &Record, targets: &[Target]) -> Vec<Table> {
    let mut tables = vec![promises(targets)];
    let has = |section: &str| record.has(section);
    if has("calls/") {
        tables.push(call_table(record));
    }
    if has("ready/") {
        tables.push(ready_table(record));
        tables.push(memory_table(record));
    }
    if has("recovery/") || has("idle/") || has("dispatch/") {
        tables.push(host_table(record));
    }
    tables
}

/// `1.23 (1.20..1.31)`: a median and its quartiles.
fn spread(spread: Option<Spread>) -> String {
    spread.map_or_else(
        || "-".into(),
        |Spread { p25, median, p75 }| format!("{} ({}..{})", figure(median), figure(p25), figure(p75)),
    )
}

/// Three significant digits, and no more than the value has before the point.
fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn median(spread: Option<Spread>) -> String {
    spread.map_or_else(|| "-".into(), |spread| figure(spread.median))
}

fn promises(targets: &[Target]) -> Table {
    let columns = ["promise", "target", "measured (quartiles)", "verdict"];
    let mut table = Table::new("Must reach", &columns);
    for target in targets {
        let bound = match target.goal {
            Goal::AtMost(bound) => format!("<= {}{}", figure(bound), target.unit),
            Goal::AtLeast(bound) => format!(">= {}{}", figure(bound), target.unit),
        };
        table.row([
            target.what.clone(),
            bound,
            spread(target.measured),
            target.verdict().to_owned(),
        ]);
    }
    table
}

fn call_table(record: &Record) -> Table {
    let columns = [
        "echo",
        "p50 us",
        "p90 us",
        "p99 us",
        "calls/s",
        "snakepit's p50 / its",
        "snakepit's calls/s / its",
    ];
    let mut table = Table::new("Calls: one worker", &columns);
    for (_, payload) in calls::PAYLOADS {
        for callers in calls::CALLERS {
            for system in [name::OURS, name::GRPCIO, name::EXECUTOR, name::FLOOR] {
                let key = |system, what| format!("{}/{what}", calls::key(payload, callers, system));
                let of = |what| median(record.spread(&key(system, what)));
                let against = |what| match system {
                    name::OURS => "1".to_owned(),
                    _ => spread(record.ratio(&key(name::OURS, what), &key(system, what))),
                };
                table.row([
                    format!("{payload}, callers: {callers}, {system}"),
                    of("p50_us"),
                    of("p90_us"),
                    of("p99_us"),
                    of("per_s"),
                    against("p50_us"),
                    against("per_s"),
                ]);
            }
        }
    }
    table
}

fn ready_table(record: &Record) -> Table {
    let columns = ["workers", "ms until ready (quartiles)", "its time / snakepit's"];
    let mut table = Table::new("Ready: cold workers started at once", &columns);
    for workers in ready::WORKERS {
        for who in Starts::ALL {
            let key = ready::key(workers, who);
            table.row([
                format!("{workers}, {}", who.name()),
                spread(record.spread(&key)),
                spread(record.ratio(&key, &ready::key(workers, Starts::Ours))),
            ]);
        }
    }
    table
}

fn memory_table(record: &Record) -> Table {
    let columns = ["workers", "snakepit KiB", "grpcio KiB", "snakepit / grpcio"];
    let mut table = Table::new("Memory: PSS of one idle worker", &columns);
    for workers in ready::WORKERS {
        let [ours, grpcio] = [name::OURS, name::GRPCIO].map(|system| ready::memory_key(workers, system));
        table.row([
            workers.to_string(),
            median(record.spread(&ours)),
            median(record.spread(&grpcio)),
            spread(record.ratio(&ours, &grpcio)),
        ]);
    }
    table
}

fn host_table(record: &Record) -> Table {
    let mut table = Table::new("The host", &["what", "median (quartiles)", "n"]);
    let mut row = |what: String, key: &str| {
        table.row([
            what,
            spread(record.spread(key)),
            record.values(key).len().to_string(),
        ]);
    };
    row(
        "SIGKILL of a worker to its replacement's first answer, ms".into(),
        recovery::KEY,
    );
    let idle_workers = idle::WORKERS;
    row(
        format!("CPU of the host, {idle_workers} idle workers, % of one core"),
        idle::HOST,
    );
    row(
        format!("CPU of {idle_workers} idle workers together, % of one core"),
        idle::CHILDREN,
    );
    for workers in dispatch::WORKERS {
        row(
            format!("no-op dispatch, {workers} in-memory workers, us"),
            &dispatch::key(workers),
        );
    }
    table
}
