//! The tables of a run.

use std::time::Duration;

use crate::{
    cleanup::{self, By},
    kill::{self, Victim},
    ledger,
    left::{Killed, Outcome, SUBJECTS},
    peers::PEERS,
    record::Record,
    shutdown, size,
    spawn::{self, Program},
    spread::{figure, median, spread},
    systems::System,
    table::Table,
    target::{self, Target},
    work::Work,
};

/// All tables whose sections were measured, the promises first.
pub(crate) fn tables(record: &Record, targets: &[Target], left: &[Outcome]) -> Vec<Table> {
    let mut tables = vec![target::table(targets)];
    if record.has("left/") {
        tables.push(left_table(record, left));
    }
    if record.has("kill/") {
        tables.push(kill_table(record));
    }
    if record.has("shutdown/") {
        tables.push(shutdown_table(record));
    }
    if record.has("spawn/") {
        tables.push(spawn_table(record));
    }
    if record.has("size/") {
        tables.push(size_table(record));
    }
    if record.has("ledger/") || record.has("cleanup/") {
        tables.push(ledger_table(record));
    }
    tables
}

fn left_table(record: &Record, left: &[Outcome]) -> Table {
    let columns = [
        "who is left of five",
        "host killed",
        "guardian killed",
        "guardian, then host",
        "orderly stop of 10 workers",
    ];
    let mut table = Table::new("Left behind, and after how long", &columns);
    for (system, work) in SUBJECTS {
        let cell = |killed| {
            let found = left
                .iter()
                .find(|outcome| (outcome.system, outcome.work, outcome.killed) == (system, work, killed));
            match found {
                Some(outcome) => outcome_cell(outcome),
                None if system == System::Port && killed != Killed::Host => "there is none".to_owned(),
                None => "-".to_owned(),
            }
        };
        let (name, stopped) = match work {
            Work::PythonTree => (format!("{system}, Python worker"), "Python workers"),
            _ => (format!("{system}, foreign program"), "foreign programs"),
        };
        let stop = record.spread(&shutdown::key(system, stopped));
        let [host, guardian, both] = Killed::ALL.map(cell);
        let stop = stop.map_or_else(|| "-".to_owned(), |stop| format!("{} ms", figure(stop.median)));
        table.row([name, host, guardian, both, stop]);
    }
    for peer in &PEERS {
        let [host, guardian, both] = peer.killed.map(str::to_owned);
        table.row([peer.name.to_owned(), host, guardian, both, peer.stop.to_owned()]);
    }
    table
}

fn outcome_cell(outcome: &Outcome) -> String {
    let hard: Vec<_> = outcome
        .left
        .iter()
        .map(|name| name.trim_start_matches("t-"))
        .collect();
    match hard.len() {
        0 => format!("nobody, {}", time(outcome.last)),
        5 => "5 of 5".to_owned(),
        few => format!("{few} of 5: {}; {}", hard.join(", "), time(outcome.last)),
    }
}

fn time(time: Duration) -> String {
    format!("{} ms", figure(time.as_secs_f64() * 1e3))
}

fn kill_table(record: &Record) -> Table {
    let title = format!(
        "Host killed: until the last process of {} workers is gone",
        kill::WORKERS
    );
    let mut table = Table::new(&title, &["who", "ms (quartiles)", "its time / the kernel's"]);
    for victim in Victim::ALL {
        let key = victim.key();
        let ratio = record.ratio(&key, &victim.base().key());
        table.row([victim.to_string(), spread(record.spread(&key)), spread(ratio)]);
    }
    table
}

fn shutdown_table(record: &Record) -> Table {
    let title = format!(
        "Orderly stop of {} workers: until the last process is gone",
        shutdown::WORKERS
    );
    let works = shutdown::WORK.map(|(_, name)| name);
    let columns = ["backend".to_owned()]
        .into_iter()
        .chain(works.map(|name| format!("{name}, ms (quartiles)")));
    let mut table = Table::new(
        &title,
        &columns
            .collect::<Vec<_>>()
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>(),
    );
    for system in System::ALL {
        let cells = works.map(|name| spread(record.spread(&shutdown::key(system, name))));
        table.row([system.to_string()].into_iter().chain(cells));
    }
    table
}

fn spawn_table(record: &Record) -> Table {
    let columns = [
        "one process, host of 1 GiB",
        "launched, ms (quartiles)",
        "executed, ms (quartiles)",
        "n",
    ];
    let mut table = Table::new("Spawn", &columns);
    for program in [Program::Idle, Program::Sleep] {
        for system in System::ALL {
            let key = spawn::key(system, program);
            table.row([
                format!("{system}: {program}"),
                spread(record.spread(&key)),
                spread(record.spread(&spawn::executed_key(system, program))),
                record.values(&key).len().to_string(),
            ]);
        }
        let plain = spawn::plain_key(program);
        table.row([
            format!("posix_spawn alone: {program}"),
            spread(record.spread(&plain)),
            String::new(),
            record.values(&plain).len().to_string(),
        ]);
    }
    table
}

fn size_table(record: &Record) -> Table {
    let columns = [
        "process",
        "program KiB",
        "resident KiB",
        "proportional KiB",
        "private KiB",
    ];
    let mut table = Table::new("Size", &columns);
    for who in size::WHO {
        let program = median(record.spread(size::BINARY));
        let fields = size::FIELDS.map(|field| median(record.spread(&size::key(who, field))));
        table.row([who.to_owned(), program].into_iter().chain(fields));
    }
    table
}

fn ledger_table(record: &Record) -> Table {
    let mut table = Table::new("Ledger and cleanup", &["what", "median (quartiles)", "n"]);
    let ready = |system, ledger| format!("100 cold Python workers ready, {system}, {ledger}, ms");
    let ledgers = ledger::SYSTEMS.map(|system| {
        [
            (ready(system, "ledger in memory"), ledger::key(system, false)),
            (ready(system, "durable ledger"), ledger::key(system, true)),
            ("its flushes until then".to_owned(), ledger::flushes(system)),
        ]
    });
    let cleanups = [
        ("`snakepit cleanup` of 100 orphan trees, ms", By::Command, true),
        ("the same by the library, ms", By::Library, true),
        ("`snakepit cleanup` with nothing to clean, ms", By::Command, false),
        ("the same by the library, ms", By::Library, false),
    ];
    let cleanups = cleanups.map(|(what, by, orphans)| (what.to_owned(), cleanup::key(by, orphans)));
    for (what, key) in ledgers.into_iter().flatten().chain(cleanups) {
        table.row([
            what,
            spread(record.spread(&key)),
            record.values(&key).len().to_string(),
        ]);
    }
    table
}
