//! A hundred thousand calls that wait.

use snakepit::{PythonEnv, Value};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    common::{Result, options::Options, proc, record::Record},
    sizes::start,
};

/// Calls at a time.
pub(crate) const CALLS: usize = 100_000;

/// Workers that execute them.
const WORKERS: usize = 10;

pub(crate) const RATE: &str = "queue/calls_per_s";
pub(crate) const BYTES: &str = "queue/bytes_per_call";

pub(crate) async fn measure(python: &PythonEnv, options: &Options, record: &mut Record) -> Result<()> {
    for round in 0..options.rounds {
        eprintln!("queue: round {} of {}", round + 1, options.rounds);
        let (pool, _) = start(python, WORKERS).await?;
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
        record.push(RATE, CALLS as f64 / began.elapsed().as_secs_f64());
        record.push(BYTES, (after - before) * 1024.0 / CALLS as f64);
        record.push("queue/seen", queued as f64);
        pool.call::<_, Value>("builtins:abs", (1,)).await?;
        pool.shutdown().await;
    }
    Ok(())
}
