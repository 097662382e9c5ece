//! How soon workers answer, and what they weigh while idle.

use std::{path::Path, process::Command};

use tokio::time::Instant;

use crate::{
    Result,
    interpreter::Interpreter,
    kind::{Kind, Library},
    memory,
    options::Options,
    peer::Peer,
    record::Record,
    systems::System,
};

/// Numbers of workers started at once.
pub(crate) const WORKERS: [usize; 3] = [1, 16, 100];

/// What is measured of a start: the name that its values have in the record, without the figure's own.
pub(crate) fn key(library: Library, workers: usize, kind: Kind) -> String {
    format!("ready/{}/{workers}/{}", library.name(), kind.name())
}

/// The record's name of the time, in milliseconds.
pub(crate) fn time_key(library: Library, workers: usize, kind: Kind) -> String {
    format!("{}/ms", key(library, workers, kind))
}

/// Whether a round has it. A hundred imports of a library by each system take minutes: a look leaves them out, and a
/// measurement has them every second time.
fn belongs(round: usize, library: Library, workers: usize, options: &Options) -> bool {
    let takes_long = workers > 16 && library != Library::Nothing;
    !takes_long || (!options.quick && round.is_multiple_of(2))
}

/// Runs the rounds, after one start of each that only fills the page cache.
pub(crate) async fn measure(python: &Interpreter, options: &Options, record: &mut Record) -> Result<()> {
    let mut all = Kind::STARTED.to_vec();
    for kind in Kind::STARTED {
        if let Some(reason) = python.lacks(kind) {
            record.cannot(kind.name(), reason);
            all.retain(|other| *other != kind);
        }
    }
    for library in Library::ALL {
        for kind in &all {
            // If it cannot be started, that is recorded when it is measured.
            let _ = once(*kind, python, library, 1, &mut Record::default()).await;
        }
    }
    for round in 0..options.rounds {
        for library in Library::ALL {
            for workers in WORKERS {
                if !belongs(round, library, workers, options) {
                    continue;
                }
                let (round, rounds, name) = (round + 1, options.rounds, library.name());
                eprintln!("ready: round {round} of {rounds}, {workers} with {name}");
                for kind in &all {
                    visit(*kind, python, library, workers, record).await?;
                }
            }
        }
        all.rotate_left(1);
    }
    Ok(())
}

/// One start, unless it is known that it cannot be.
async fn visit(
    kind: Kind,
    python: &Interpreter,
    library: Library,
    workers: usize,
    record: &mut Record,
) -> Result<()> {
    let key = key(library, workers, kind);
    if record.is_out(&key) {
        return Ok(());
    }
    match once(kind, python, library, workers, record).await {
        Err(error) if kind.is_peer() => record.cannot(key, error),
        outcome => outcome?,
    }
    Ok(())
}

/// Starts and ends workers; adds the time and the memory.
async fn once(
    kind: Kind,
    python: &Interpreter,
    library: Library,
    workers: usize,
    record: &mut Record,
) -> Result<()> {
    let seconds = if kind == Kind::Bare {
        bare(&python.python, library, workers).await?
    } else {
        let system = System::start(kind, python, workers, library).await?;
        memory::weigh(&system, library, workers, record).await?;
        let seconds = system.seconds;
        system.stop().await?;
        seconds
    };
    record.push(time_key(library, workers, kind), seconds * 1e3);
    Ok(())
}

/// As many interpreters at once, until all have ended.
async fn bare(python: &Path, library: Library, workers: usize) -> Result<f64> {
    let begin = Instant::now();
    let program = library
        .module()
        .map_or_else(|| "pass".to_owned(), |module| format!("import {module}"));
    let start = || Peer::start("a bare interpreter", Command::new(python).args(["-c", &program]));
    let mut peers = (0..workers).map(|_| start()).collect::<Result<Vec<_>>>()?;
    for peer in &mut peers {
        peer.finished().await?;
    }
    Ok(begin.elapsed().as_secs_f64())
}
