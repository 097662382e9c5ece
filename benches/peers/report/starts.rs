//! Starts, memory and recovery: everything about workers coming to be.

use crate::{
    kind::{Kind, Library},
    memory,
    ready::{self, WORKERS},
    record::Record,
    recovery,
    spread::{median, spread},
    table::Table,
};

/// Time until ready, a table for each library.
pub(super) fn ready(record: &Record) -> impl Iterator<Item = Table> {
    Library::ALL.into_iter().map(|library| {
        let columns = [
            "workers, system",
            "ms until ready (quartiles)",
            "its time / snakepit's",
        ];
        let title = format!("Ready: cold workers started at once, {} imported", library.name());
        let mut table = Table::new(&title, &columns);
        for workers in seen(library, record) {
            for kind in Kind::STARTED {
                let key = ready::time_key(library, workers, kind);
                let base = ready::time_key(library, workers, Kind::Snakepit);
                table.row([
                    format!("{workers}, {}", kind.name()),
                    spread(record.spread(&key)),
                    spread(record.ratio(&key, &base)),
                ]);
            }
        }
        table
    })
}

/// What idle workers weigh, a table for each library.
pub(super) fn memory(record: &Record) -> impl Iterator<Item = Table> {
    Library::ALL.into_iter().map(|library| {
        let columns = [
            "workers, system",
            "KiB each (quartiles)",
            "snakepit's / its",
            "KiB each with what is beside them",
        ];
        let title = format!("Memory: PSS of one idle worker, {} imported", library.name());
        let mut table = Table::new(&title, &columns);
        for workers in seen(library, record) {
            for kind in Kind::STARTED {
                if kind == Kind::Bare {
                    continue;
                }
                let key = memory::key(library, workers, kind);
                let base = memory::key(library, workers, Kind::Snakepit);
                table.row([
                    format!("{workers}, {}", kind.name()),
                    spread(record.spread(&key)),
                    spread(record.ratio(&base, &key)),
                    median(record.spread(&memory::whole_key(library, workers, kind))),
                ]);
            }
        }
        table
    })
}

/// Numbers of workers that were started with a library: a look leaves the largest out.
fn seen(library: Library, record: &Record) -> impl Iterator<Item = usize> {
    let measured = move |workers: &usize| record.has(&ready::key(library, *workers, Kind::Snakepit));
    WORKERS.into_iter().filter(measured)
}

/// SIGKILL of a worker to the first answer after it.
pub(super) fn recovery(record: &Record) -> Table {
    let columns = ["system", "ms (quartiles)", "its time / snakepit's", "n"];
    let mut table = Table::new(
        "Recovery: SIGKILL of the only worker to its replacement's first answer",
        &columns,
    );
    for kind in Kind::KILLED {
        let key = recovery::time_key(kind);
        table.row([
            kind.name().to_owned(),
            spread(record.spread(&key)),
            spread(record.ratio(&key, &recovery::time_key(Kind::Snakepit))),
            record.values(&key).len().to_string(),
        ]);
    }
    table
}
