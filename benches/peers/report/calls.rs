//! Calls: a table for each payload.

use crate::{
    calls::{CALLERS, PAYLOADS, WORKERS, applies, key},
    kind::Kind,
    load::Payload,
    record::Record,
    spread::{median, spread},
    table::Table,
};

/// The tables of the payloads that were measured.
pub(super) fn tables(record: &Record) -> impl Iterator<Item = Table> {
    let measured = |payload: &Payload| record.has(&format!("calls/{}/", payload.name));
    PAYLOADS
        .into_iter()
        .filter(measured)
        .map(|payload| table(payload, record))
}

fn table(payload: Payload, record: &Record) -> Table {
    let columns = [
        "workers, callers, system",
        "p50 us",
        "p90 us",
        "p99 us",
        "calls/s",
        "snakepit's p50 / its",
        "snakepit's calls/s / its",
    ];
    let what = if payload.array {
        "array of float64, or as many bytes"
    } else {
        "bytes"
    };
    let mut table = Table::new(&format!("Calls: {}, {what}", payload.name), &columns);
    for workers in WORKERS {
        for callers in CALLERS {
            for kind in Kind::CALLED {
                let name =
                    |kind, figure: &str| format!("{}/{figure}", key(payload.name, workers, callers, kind));
                // Copies and cells that a look leaves out have no row, unlike what was tried in vain.
                let seen = record.has(&key(payload.name, workers, callers, Kind::Snakepit));
                if !seen || !applies(kind, payload, workers, callers) {
                    continue;
                }
                let of = |figure| median(record.spread(&name(kind, figure)));
                let against = |figure| match kind {
                    Kind::Snakepit => "1".to_owned(),
                    _ => spread(record.ratio(&name(Kind::Snakepit, figure), &name(kind, figure))),
                };
                table.row([
                    format!("{workers}, {callers}, {}", kind.name()),
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
