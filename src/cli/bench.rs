//! `snakepit bench`: how fast calls are on this machine.

mod histogram;
mod memory;
mod report;

use std::{process::ExitCode, time::Duration};

use snakepit::{CallError, Concurrency, Pool, Value};
use tokio::{task::JoinSet, time::Instant};

use super::{
    args::BenchArgs,
    failure::Failure,
    logging::{self, Show},
    output,
    progress::Progress,
    session,
};
use histogram::Histogram;
use report::Report;

/// Answers its argument, without a copy: what is measured is the way there and back.
const ECHO: &str = "builtins:bytes";
/// The same for an event loop, after its first argument: how long to sleep, which is not at all.
const ASYNC_ECHO: &str = "asyncio:sleep";
/// Calls before the clock starts: caches fill, connections settle. A quarter of a short run.
const WARM_UP: Duration = Duration::from_millis(500);

/// Measures and reports.
pub(crate) fn run(args: &BenchArgs, verbose: u8) -> Result<ExitCode, Failure> {
    logging::start(Show::Workers, verbose);
    let builder = args.pool.builder("bench", &args.python)?;
    let backend = builder.backend_name().unwrap_or_default().to_owned();
    let (threads, asyncio) = match builder.worker_concurrency() {
        Concurrency::Threads(threads) => (Some(threads), None),
        Concurrency::Asyncio(tasks) => (None, Some(tasks)),
        _ => (None, None),
    };

    let began = Instant::now();
    let report = session::full_runtime()?.block_on(session::with_pool(builder, async |pool| {
        let start = began.elapsed();
        let progress = Progress::start();
        progress.teller()(format!(
            "{} callers for {}",
            args.concurrency,
            output::duration(args.duration)
        ));
        let payload = Value::Bytes(vec![b'x'; args.payload].into());
        let (function, call_args) = match asyncio {
            Some(_) => (ASYNC_ECHO, vec![Value::Int(0), payload]),
            None => (ECHO, vec![payload]),
        };
        let warm_up = WARM_UP.min(args.duration / 4);
        load(pool, args.concurrency, function, &call_args, warm_up).await?;
        let (latencies, elapsed) = load(pool, args.concurrency, function, &call_args, args.duration).await?;
        let pids: Vec<u32> = pool
            .status()
            .await
            .workers
            .iter()
            .filter_map(|worker| worker.child.status.pid)
            .collect();
        Ok(Report {
            function,
            python: pool
                .python()
                .map(|python| python.interpreter().version().to_string()),
            backend,
            threads,
            asyncio,
            workers: pids.len(),
            concurrency: args.concurrency,
            payload_bytes: args.payload,
            start,
            elapsed,
            latencies,
            memory: pids.iter().filter_map(|pid| memory::pss(*pid)).collect(),
        })
    }))?;
    if args.json {
        output::json(&report.as_json())?;
    } else {
        report.print()?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Keeps `callers` calls under way for `duration`; gives the latencies and the time it really took.
async fn load(
    pool: &Pool,
    callers: usize,
    function: &'static str,
    args: &[Value],
    duration: Duration,
) -> Result<(Histogram, Duration), Failure> {
    let began = Instant::now();
    let until = began + duration;
    let mut tasks = JoinSet::new();
    for _ in 0..callers {
        tasks.spawn(caller(pool.clone(), function, args.to_vec(), until));
    }
    let mut all = Histogram::new();
    while let Some(done) = tasks.join_next().await {
        let latencies = done.map_err(|panic| Failure::Failed(panic.to_string()))??;
        all.add(&latencies);
    }
    Ok((all, began.elapsed()))
}

async fn caller(
    pool: Pool,
    function: &str,
    args: Vec<Value>,
    until: Instant,
) -> Result<Histogram, CallError> {
    let mut latencies = Histogram::new();
    loop {
        let began = Instant::now();
        if began >= until {
            return Ok(latencies);
        }
        let _: Value = pool.request(function).args(&args)?.send().await?;
        latencies.record(began.elapsed());
    }
}
