//! Latency and throughput of echo calls on one worker of each system.

use std::time::Duration;

use crate::{
    Result, interpreter::Interpreter, load::Cell, options::Options, record::Record, systems::System,
};

/// Payloads: bytes each way, and their name in results.
pub(crate) const PAYLOADS: [(usize, &str); 2] = [(1024, "1 KiB"), (1024 * 1024, "1 MiB")];

/// Numbers of concurrent callers.
pub(crate) const CALLERS: [usize; 2] = [1, 16];

/// The record's prefix of one system's cell.
pub(crate) fn key(payload: &str, callers: usize, system: &str) -> String {
    format!("calls/{payload}/{callers}/{system}")
}

/// How long each cell lasts in each round.
fn cell(options: &Options) -> Duration {
    Duration::from_millis(if options.quick { 250 } else { 800 })
}

/// Runs the rounds. Each visits every system for every cell, beginning with another system each time.
pub(crate) async fn measure(python: &Interpreter, options: &Options, record: &mut Record) -> Result<()> {
    let mut systems = System::all(python).await?;
    for round in 0..options.rounds {
        eprintln!("calls: round {} of {}", round + 1, options.rounds);
        for (payload, label) in PAYLOADS {
            for callers in CALLERS {
                let cell = Cell {
                    payload,
                    callers,
                    duration: cell(options),
                };
                for system in &mut systems {
                    let sample = system.load(cell).await?;
                    sample.record(&key(label, callers, system.name()), record);
                }
            }
        }
        systems.rotate_left(1);
    }
    for system in systems {
        system.stop().await?;
    }
    Ok(())
}
