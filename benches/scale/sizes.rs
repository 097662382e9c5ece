//! Ready time, memory, idleness and the time of a call, by the number of workers.

use std::{sync::Arc, time::Duration};

use snakepit::{
    Backend, Pool, PythonEnv, Value,
    backend_zygote::{ZygoteLauncher, ZygoteSettings},
};
use tokio::time::{Instant, sleep};

use crate::common::{
    Result,
    options::Options,
    proc::{cpu_seconds, rollup_kib},
    record::Record,
    spread::Spread,
};

/// Workers of a pool.
pub(crate) const SIZES: [usize; 3] = [10, 100, 1000];

/// Whose memory is read: more would take longer than it tells.
const LOOKED_AT: usize = 20;

pub(crate) fn key(size: usize, what: &str) -> String {
    format!("sizes/{size}/{what}")
}

/// A pool whose template has everything imported; and how long its workers took.
pub(crate) async fn start(python: &PythonEnv, size: usize) -> Result<(Pool, Duration)> {
    let command = python.command(std::num::NonZeroUsize::MIN);
    let settings = ZygoteSettings::new(command.program, command.args)
        .with_env(command.env)
        .with_modules(["numpy"]);
    let launcher = Arc::new(ZygoteLauncher::new(Backend::Port.launcher()?, settings));
    launcher.warm().await?;
    let began = Instant::now();
    let pool = Pool::builder()
        .name("scale")
        .python(python.clone())
        .launcher(launcher)
        .workers(size)
        .metrics(false)
        .queue_limit(Some(200_000))
        .start()
        .await?;
    Ok((pool, began.elapsed()))
}

pub(crate) async fn measure(python: &PythonEnv, options: &Options, record: &mut Record) -> Result<()> {
    for round in 0..options.rounds {
        let mut sizes = SIZES;
        sizes.rotate_left(round % SIZES.len());
        for size in sizes {
            eprintln!("sizes: round {} of {}, {size} workers", round + 1, options.rounds);
            once(python, size, options, record).await?;
        }
    }
    Ok(())
}

async fn once(python: &PythonEnv, size: usize, options: &Options, record: &mut Record) -> Result<()> {
    let (pool, ready) = start(python, size).await?;
    record.push(key(size, "ready_ms"), ready.as_secs_f64() * 1e3);
    let status = pool.status().await;
    let pids: Vec<u32> = status
        .workers
        .iter()
        .filter_map(|worker| worker.child.status.pid)
        .collect();
    if pids.len() != size {
        return Err(format!("{} of {size} workers are ready", pids.len()).into());
    }
    let step = (size / LOOKED_AT).max(1);
    let memory: Vec<f64> = pids
        .iter()
        .step_by(step)
        .map(|pid| rollup_kib(*pid, "Pss"))
        .collect::<Result<_>>()?;
    record.push(
        key(size, "pss_mib"),
        memory.iter().sum::<f64>() / memory.len() as f64 / 1024.0,
    );

    let calls = if options.quick { 500 } else { 3000 };
    let mut times = Vec::with_capacity(calls);
    for _ in 0..calls {
        let began = Instant::now();
        pool.call::<_, Value>("builtins:abs", (1,)).await?;
        times.push(began.elapsed().as_secs_f64() * 1e6);
    }
    let p50 = Spread::of(&times).map_or(0.0, |spread| spread.median);
    record.push(key(size, "call_us"), p50);

    // The start's last work is not idleness.
    sleep(Duration::from_secs(1)).await;
    let window = Duration::from_secs(if options.quick { 2 } else { 5 });
    let (began, before) = (Instant::now(), cpu_seconds("self")?);
    sleep(window).await;
    let used = cpu_seconds("self")? - before;
    record.push(
        key(size, "idle_percent"),
        used / began.elapsed().as_secs_f64() * 100.0,
    );
    let began = Instant::now();
    pool.shutdown().await;
    record.push(key(size, "shutdown_ms"), began.elapsed().as_secs_f64() * 1e3);
    Ok(())
}
