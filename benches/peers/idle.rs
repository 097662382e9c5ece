//! What a host pays for workers that do nothing.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{
    Result,
    interpreter::Interpreter,
    kind::{Kind, Library},
    options::Options,
    proc::cpu_seconds,
    record::Record,
    systems::System,
};

/// Workers that idle.
pub(crate) const WORKERS: usize = 100;

/// The record's name of the host's share of one core, in percent.
pub(crate) const HOST: &str = "idle/host_percent";

/// The same of all workers together.
pub(crate) const CHILDREN: &str = "idle/workers_percent";

/// Watches the benchmark's own process, which is the host.
pub(crate) async fn measure(python: &Interpreter, options: &Options, record: &mut Record) -> Result<()> {
    let (window, times) = if options.quick {
        (Duration::from_secs(3), 1)
    } else {
        (Duration::from_secs(10), 3)
    };
    let ours = System::start(Kind::Snakepit, python, WORKERS, Library::Nothing).await?;
    let pids = ours.pids().await?;
    let children = || {
        pids.iter()
            .map(|pid| cpu_seconds(&pid.to_string()))
            .sum::<Result<f64>>()
    };
    // The start's last work is not idleness.
    sleep(Duration::from_secs(1)).await;
    for time in 0..times {
        eprintln!("idle: window {} of {times}", time + 1);
        let children_before = children()?;
        let (start, before) = (Instant::now(), cpu_seconds("self")?);
        sleep(window).await;
        let (used, elapsed) = (cpu_seconds("self")? - before, start.elapsed().as_secs_f64());
        record.push(HOST, used / elapsed * 100.0);
        record.push(CHILDREN, (children()? - children_before) / elapsed * 100.0);
    }
    ours.stop().await
}
