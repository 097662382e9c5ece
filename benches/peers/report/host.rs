//! What the host itself pays.

use crate::{dispatch, idle, record::Record, spread::spread, table::Table};

/// CPU of idle workers and of dispatch.
pub(super) fn table(record: &Record) -> Table {
    let mut table = Table::new("The host", &["what", "median (quartiles)", "n"]);
    let idle_workers = idle::WORKERS;
    let mut rows = vec![
        (
            format!("CPU of the host, {idle_workers} idle workers, % of one core"),
            idle::HOST.to_owned(),
        ),
        (
            format!("CPU of {idle_workers} idle workers together, % of one core"),
            idle::CHILDREN.to_owned(),
        ),
    ];
    rows.extend(dispatch::WORKERS.map(|workers| {
        (
            format!("no-op dispatch, {workers} in-memory workers, us"),
            dispatch::key(workers),
        )
    }));
    for (what, key) in rows {
        table.row([
            what,
            spread(record.spread(&key)),
            record.values(&key).len().to_string(),
        ]);
    }
    table
}
