//! Ready time, memory, idleness and the time of a call, by the number of workers.

use std::{sync::Arc, time::Duration};

use snakepit::{
    Backend, Pool, PythonEnv, Value,
    backend_zygote::{ZygoteLauncher, ZygoteSettings},
    core::process::Stat,
};
use tokio::time::{Instant, sleep};

use crate::common::{
    Result,
    options::Options,
    proc::{cpu_seconds, rollup_kib},
    record::Record,
    spread::Spread,
};

/// A pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Its workers.
    pub(crate) workers: usize,
    /// Whether each has a PID namespace of its own.
    pub(crate) nested: bool,
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { workers, nested } = self;
        write!(f, "{workers}{}", if *nested { ", a namespace each" } else { "" })
    }
}

/// Whose workers share a namespace.
pub(crate) const fn shared(workers: usize) -> Shape {
    let nested = false;
    Shape { workers, nested }
}

/// The pools.
pub(crate) const SHAPES: [Shape; 4] = [
    shared(10),
    shared(100),
    Shape {
        workers: 100,
        nested: true,
    },
    shared(1000),
];

/// Whose memory is read: more would take longer than it tells.
const LOOKED_AT: usize = 20;

/// What is recorded of a pool.
pub(crate) fn key(shape: Shape, what: &str) -> String {
    format!("sizes/{shape}/{what}")
}

/// The same of one whose workers share a namespace.
pub(crate) fn key_of(workers: usize, what: &str) -> String {
    key(shared(workers), what)
}

/// A pool whose template has everything imported; and how long its workers took.
pub(crate) async fn start(python: &PythonEnv, shape: Shape) -> Result<(Pool, Duration)> {
    let command = python.command(std::num::NonZeroUsize::MIN);
    let settings = ZygoteSettings::new(command.program, command.args)
        .with_env(command.env)
        .with_nested_namespaces(shape.nested)
        .with_modules(["numpy"]);
    let launcher = Arc::new(ZygoteLauncher::new(Backend::Port.launcher()?, settings));
    launcher.warm().await?;
    let began = Instant::now();
    let pool = Pool::builder()
        .name("scale")
        .python(python.clone())
        .launcher(launcher)
        .workers(shape.workers)
        .metrics(false)
        .queue_limit(Some(200_000))
        .start()
        .await?;
    Ok((pool, began.elapsed()))
}

pub(crate) async fn measure(python: &PythonEnv, options: &Options, record: &mut Record) -> Result<()> {
    for round in 0..options.rounds {
        let mut shapes = SHAPES;
        shapes.rotate_left(round % SHAPES.len());
        for shape in shapes {
            eprintln!(
                "sizes: round {} of {}, workers: {shape}",
                round + 1,
                options.rounds
            );
            once(python, shape, options, record).await?;
        }
    }
    Ok(())
}

async fn once(python: &PythonEnv, shape: Shape, options: &Options, record: &mut Record) -> Result<()> {
    let (pool, ready) = start(python, shape).await?;
    record.push(key(shape, "ready_ms"), ready.as_secs_f64() * 1e3);
    let status = pool.status().await;
    let pids: Vec<u32> = status
        .workers
        .iter()
        .filter_map(|worker| worker.child.status.pid)
        .collect();
    if pids.len() != shape.workers {
        return Err(format!("{} of {} workers are ready", pids.len(), shape.workers).into());
    }
    let step = (shape.workers / LOOKED_AT).max(1);
    let memory: Vec<f64> = pids
        .iter()
        .step_by(step)
        .map(|pid| {
            let own = rollup_kib(*pid, "Pss")?;
            // The first process of its namespace.
            let first = match shape.nested {
                true => rollup_kib(Stat::read(*pid)?.ppid, "Pss")?,
                false => 0.0,
            };
            Ok(own + first)
        })
        .collect::<Result<_>>()?;
    record.push(
        key(shape, "pss_mib"),
        memory.iter().sum::<f64>() / memory.len() as f64 / 1024.0,
    );

    // The start's last work is not what calls or idleness are.
    sleep(Duration::from_secs(1)).await;
    // Longer than it takes all workers to show that they live.
    let calls = if options.quick { 500 } else { 50_000 };
    let mut times = Vec::with_capacity(calls);
    for _ in 0..calls {
        let began = Instant::now();
        pool.call::<_, Value>("builtins:abs", (1,)).await?;
        times.push(began.elapsed().as_secs_f64() * 1e6);
    }
    let p50 = Spread::of(&times).map_or(0.0, |spread| spread.median);
    record.push(key(shape, "call_us"), p50);

    let window = Duration::from_secs(if options.quick { 2 } else { 5 });
    let (began, before) = (Instant::now(), cpu_seconds("self")?);
    sleep(window).await;
    let used = cpu_seconds("self")? - before;
    record.push(
        key(shape, "idle_percent"),
        used / began.elapsed().as_secs_f64() * 100.0,
    );
    let began = Instant::now();
    pool.shutdown().await;
    record.push(key(shape, "shutdown_ms"), began.elapsed().as_secs_f64() * 1e3);
    Ok(())
}
