//! The tables of a run.

use crate::{
    calls, dispatch, idle,
    ready::{self, Starts},
    record::Record,
    recovery,
    spread::{median, spread},
    systems::name,
    table::Table,
    target::{self, Target},
};

/// All tables whose sections were measured, the promises first.
pub(crate) fn tables(record: &Record, targets: &[Target]) -> Vec<Table> {
    let mut tables = vec![target::table(targets)];
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
