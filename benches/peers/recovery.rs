//! From the death of a worker to the first answer of its replacement.

use crate::{
    Result,
    interpreter::Interpreter,
    kind::{Kind, Library},
    options::Options,
    record::Record,
    systems::System,
};

/// What is measured of a system, without the figure's own name.
fn key(kind: Kind) -> String {
    format!("recovery/{}", kind.name())
}

/// The record's name of one recovery, in milliseconds.
pub(crate) fn time_key(kind: Kind) -> String {
    format!("{}/ms", key(kind))
}

/// Kills the only worker of a fresh system, many times. A system of its own for each, so that every death is the first
/// one and no backoff is part of the measurement.
pub(crate) async fn measure(python: &Interpreter, options: &Options, record: &mut Record) -> Result<()> {
    let kills = if options.quick { 5 } else { 30 };
    let mut all = Kind::KILLED.to_vec();
    for kill in 0..kills {
        eprintln!("recovery: kill {} of {kills}", kill + 1);
        for kind in &all {
            let key = key(*kind);
            if record.is_out(&key) {
                continue;
            }
            if let Some(reason) = python.lacks(*kind) {
                record.cannot(key, reason);
                continue;
            }
            match once(*kind, python).await {
                Ok(seconds) => record.push(time_key(*kind), seconds * 1e3),
                Err(error) if kind.is_peer() => record.cannot(key, error),
                Err(error) => return Err(error),
            }
        }
        all.rotate_left(1);
    }
    Ok(())
}

async fn once(kind: Kind, python: &Interpreter) -> Result<f64> {
    let mut system = System::start(kind, python, 1, Library::Nothing).await?;
    let seconds = system.recover().await?;
    system.stop().await?;
    Ok(seconds)
}
