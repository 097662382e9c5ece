//! A hundred thousand calls that wait.

use std::process::Stdio;

use snakepit::{PythonEnv, Value};
use tokio::{process::Command, task::JoinSet, time::Instant};

use crate::{
    common::{Result, options::Options, proc, record::Record},
    sizes::{shared, start},
};

/// Calls at a time.
pub(crate) const CALLS: usize = 100_000;

/// Workers that execute them.
const WORKERS: usize = 10;

pub(crate) const RATE: &str = "queue/calls_per_s";
pub(crate) const BYTES: &str = "queue/bytes_per_call";

/// The argument with which this program is the host of one round.
pub(crate) const ROLE: &str = "--queue-round";

/// Each round has a host of its own: in one that has freed memory before, calls would seem to take none.
pub(crate) async fn measure(options: &Options, record: &mut Record) -> Result<()> {
    for round in 0..options.rounds {
        eprintln!("queue: round {} of {}", round + 1, options.rounds);
        let mut host = Command::new(std::env::current_exe()?);
        let output = host
            .arg(ROLE)
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .output();
        let [rate, bytes, seen]: [f64; 3] = serde_json::from_slice(&output.await?.stdout)?;
        record.push(RATE, rate);
        record.push(BYTES, bytes);
        record.push("queue/seen", seen);
    }
    Ok(())
}

/// One round: calls per second, bytes of memory for each that waits, and how many did.
pub(crate) async fn once(python: &PythonEnv) -> Result<[f64; 3]> {
    let (pool, _) = start(python, shared(WORKERS)).await?;
    let before = proc::rollup_kib(std::process::id(), "Rss")?;
    let mut calls = JoinSet::new();
    let began = Instant::now();
    for number in 0..CALLS {
        let pool = pool.clone();
        calls.spawn(async move { pool.call::<_, i64>("builtins:abs", (number,)).await });
    }
    // Nobody is polled before this task waits: all of them are in the queue then, but those that run.
    tokio::task::yield_now().await;
    let queued = pool.status().await.queued;
    let after = proc::rollup_kib(std::process::id(), "Rss")?;
    while let Some(answer) = calls.join_next().await {
        answer??;
    }
    let rate = CALLS as f64 / began.elapsed().as_secs_f64();
    pool.call::<_, Value>("builtins:abs", (1,)).await?;
    pool.shutdown().await;
    Ok([rate, (after - before) * 1024.0 / CALLS as f64, queued as f64])
}
