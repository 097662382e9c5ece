//! Latency and throughput of echo calls.

use std::time::Duration;

use crate::{
    Result,
    interpreter::Interpreter,
    kind::{Kind, Library},
    load::{Cell, Payload},
    options::Options,
    record::Record,
    systems::System,
};

/// What is sent, from the smallest. Large ones are arrays.
pub(crate) const PAYLOADS: [Payload; 6] = [
    bytes("64 B", 64),
    bytes("1 KiB", 1024),
    bytes("64 KiB", 64 * 1024),
    bytes("1 MiB", 1024 * 1024),
    array("10 MB", 10_000_000),
    array("100 MB", 100_000_000),
];

const fn bytes(name: &'static str, bytes: usize) -> Payload {
    Payload {
        name,
        bytes,
        array: false,
    }
}

const fn array(name: &'static str, bytes: usize) -> Payload {
    Payload {
        name,
        bytes,
        array: true,
    }
}

/// Numbers of workers, and of concurrent callers.
pub(crate) const WORKERS: [usize; 2] = [1, 2];
pub(crate) const CALLERS: [usize; 2] = [1, 16];

/// The record's prefix of one system's cell.
pub(crate) fn key(payload: &str, workers: usize, callers: usize, kind: Kind) -> String {
    format!("calls/{payload}/{workers}/{callers}/{}", kind.name())
}

/// Whether a cell means something for a system: copies have neither workers nor callers, and stand beside arrays, which alone
/// can be read in place.
pub(crate) fn applies(kind: Kind, payload: Payload, workers: usize, callers: usize) -> bool {
    match kind {
        Kind::Copies => payload.array && workers == 1 && callers == 1,
        Kind::InPlace => payload.array,
        _ => true,
    }
}

/// Whether a round has a cell. Sixteen callers with 100 MB each keep each system busy for many seconds: a look leaves
/// them out, and a measurement has them every second time.
fn belongs(round: usize, cell: Cell, options: &Options) -> bool {
    let takes_long = cell.payload.bytes > 50_000_000 && cell.callers > 1;
    !takes_long || (!options.quick && round.is_multiple_of(2))
}

/// The cells of a round, smallest first.
fn cells(round: usize, options: &Options) -> impl Iterator<Item = Cell> {
    let duration = Duration::from_millis(if options.quick { 100 } else { 400 });
    let cell = move |payload| {
        CALLERS.map(|callers| Cell {
            payload,
            callers,
            duration,
        })
    };
    let all = PAYLOADS.into_iter().flat_map(cell);
    all.filter(move |cell| belongs(round, *cell, options))
}

/// Runs the rounds. Each visits every system for every cell, beginning with another system each time. A system whose
/// services are busy while nobody calls would disturb all others: it is there for its own turn only, in each round.
pub(crate) async fn measure(python: &Interpreter, options: &Options, record: &mut Record) -> Result<()> {
    let (quiet, busy): (Vec<_>, Vec<_>) = Kind::CALLED.into_iter().partition(|kind| !kind.is_never_idle());
    let mut running = Vec::new();
    for workers in WORKERS {
        running.push((workers, start(&quiet, python, workers, record).await?));
    }
    for round in 0..options.rounds {
        eprintln!("calls: round {} of {}", round + 1, options.rounds);
        for cell in cells(round, options) {
            for (workers, systems) in &mut running {
                visit(systems, *workers, cell, record).await?;
            }
        }
        for (_, systems) in &mut running {
            systems.rotate_left(1);
        }
        for workers in WORKERS {
            let mut systems = start(&busy, python, workers, record).await?;
            for cell in cells(round, options) {
                visit(&mut systems, workers, cell, record).await?;
            }
            stop(systems).await?;
        }
    }
    for (_, systems) in running {
        stop(systems).await?;
    }
    Ok(())
}

/// Starts one of each; a peer that does not start is left out.
async fn start(
    kinds: &[Kind],
    python: &Interpreter,
    workers: usize,
    record: &mut Record,
) -> Result<Vec<System>> {
    let mut systems = Vec::new();
    for kind in kinds.iter().copied() {
        let key = format!("calls/{workers}/{}", kind.name());
        if record.is_out(&key) {
            continue;
        }
        if let Some(reason) = python.lacks(kind) {
            record.cannot(key, reason);
            continue;
        }
        match System::start(kind, python, workers, Library::Nothing).await {
            Ok(system) => systems.push(system),
            Err(error) if kind.is_peer() => record.cannot(key, error),
            Err(error) => return Err(error),
        }
    }
    Ok(systems)
}

/// Runs one cell on each system.
async fn visit(systems: &mut [System], workers: usize, cell: Cell, record: &mut Record) -> Result<()> {
    for system in systems {
        let kind = system.kind;
        let key = key(cell.payload.name, workers, cell.callers, kind);
        if record.is_out(&key) || !applies(kind, cell.payload, workers, cell.callers) {
            continue;
        }
        match system.load(cell).await {
            Ok(sample) => sample.record(&key, record),
            Err(error) if kind.is_peer() => record.cannot(key, error),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn stop(systems: Vec<System>) -> Result<()> {
    for system in systems {
        system.stop().await?;
    }
    Ok(())
}
