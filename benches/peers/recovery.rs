//! From the death of a worker to the first answer of its replacement.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use crate::{Result, interpreter::Interpreter, options::Options, record::Record, systems::Ours};

/// The record's name of one recovery, in milliseconds.
pub(crate) const KEY: &str = "recovery/ms";

/// Time for a fresh pool to become quiet before its worker is killed.
const QUIET: Duration = Duration::from_millis(50);

/// Kills the only worker of a fresh pool, many times. A pool of its own for each, so that every death is the
/// first one and no backoff is part of the measurement.
pub(crate) async fn measure(python: &Interpreter, options: &Options, record: &mut Record) -> Result<()> {
    let kills = if options.quick { 10 } else { 40 };
    eprintln!("recovery: {kills} kills");
    for _ in 0..kills {
        let ours = Ours::start(python, 1).await?;
        let before = ours.worker_pid().await?;
        sleep(QUIET).await;
        let victim = i32::try_from(before)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or("a pid")?;
        // The pool holds the worker's process unreaped while it is alive, so the pid is still its.
        let start = Instant::now();
        kill_process(victim, Signal::KILL)?;
        // The first call may still be given to the dead worker; its caller asks again at once.
        let after = loop {
            match ours.worker_pid().await {
                Ok(pid) => break pid,
                Err(error) if start.elapsed() > Duration::from_secs(10) => return Err(error),
                Err(_) => {}
            }
        };
        record.push(KEY, start.elapsed().as_secs_f64() * 1e3);
        if after == before {
            return Err("the killed worker answered".into());
        }
        ours.stop().await?;
    }
    Ok(())
}
