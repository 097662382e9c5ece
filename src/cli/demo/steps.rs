//! The steps of the tour.

use std::time::Duration;

use serde::Deserialize;
use snakepit::{NdArray, Pool, core::SlotId};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    crash::{Bystander, kill, replacement},
    show::Show,
};
use crate::cli::{failure::Failure, output::grouped};

/// Calls whose latency is told.
const CALLS: usize = 2_000;
/// Random orders of the hundred years. Enough to tell one in ten thousand.
const SHUFFLES: u64 = 10_000;
/// Elements of the array that goes to NumPy and back: 8 MB.
const ELEMENTS: usize = 1_000_000;
/// Bound on what has to happen after the kill; a replacement takes milliseconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// The tour through a pool.
#[derive(Debug)]
pub(super) struct Tour<'a> {
    pool: &'a Pool,
    show: &'a Show,
}

#[derive(Debug, Deserialize)]
struct Summary {
    years: u32,
    mean: f64,
    lowest: i64,
    highest: i64,
}

#[derive(Debug, Deserialize)]
struct Unusual {
    year: i64,
    flow: i64,
    sigmas: f64,
}

#[derive(Debug, Deserialize)]
struct Break {
    year: i64,
    before: f64,
    after: f64,
}

/// A worker that is busy with a call.
#[derive(Clone, Copy, Debug)]
struct Busy {
    slot: SlotId,
    pid: u32,
}

impl<'a> Tour<'a> {
    pub(super) fn new(pool: &'a Pool, show: &'a Show) -> Self {
        Self { pool, show }
    }

    pub(super) async fn start(&self, took: Duration, about: &str) -> Result<(), Failure> {
        self.show.step(
            "Start",
            "each worker is a process that has imported the adapter nile.py",
        )?;
        let ready = self.pool.status().await.ready;
        self.show
            .figure(format_args!("{ready} workers ready ({about})"), Some(took))
    }

    pub(super) async fn call(&self) -> Result<(), Failure> {
        self.show
            .step("Call", "a Python function, by name, with Rust types")?;
        let began = Instant::now();
        let summary: Summary = self.pool.call("nile:summary", ()).await?;
        let took = began.elapsed();
        self.show.figure(
            format_args!(
                "{} years, mean flow {:.0} (10^8 m³), lowest in {}, highest in {}",
                summary.years, summary.mean, summary.lowest, summary.highest
            ),
            Some(took),
        )?;
        let mut latencies = Vec::with_capacity(CALLS);
        for at in 0..CALLS {
            let began = Instant::now();
            let _: i64 = self.pool.call("nile:flow", (1871 + at % 100,)).await?;
            latencies.push(began.elapsed());
        }
        latencies.sort_unstable();
        self.show.figure(
            format_args!(
                "{} calls of nile:flow one after the other, median",
                grouped(CALLS as u64)
            ),
            Some(latencies[CALLS / 2]),
        )
    }

    pub(super) async fn stream(&self) -> Result<(), Failure> {
        self.show.step(
            "Stream",
            "a generator's items arrive as it yields them: years far from the mean",
        )?;
        let request = self
            .pool
            .request("nile:unusual")
            .args(&(2.0,))
            .map_err(snakepit::CallError::from)?;
        let mut items = request.stream::<Unusual>().await?;
        while let Some(item) = items.next().await {
            let Unusual { year, flow, sigmas } = item?;
            self.show
                .bar(year, flow, &format!("{sigmas:+.1} standard deviations"))?;
        }
        Ok(())
    }

    pub(super) async fn compute(&self) -> Result<(), Failure> {
        self.show.step(
            "Compute",
            "did the river change? Each worker shuffles the years; no GIL is shared",
        )?;
        let found: Break = self.pool.call("nile:sharpest_break", ()).await?;
        self.show.figure(
            format_args!(
                "the flow breaks after {}: mean {:.0} before, {:.0} after",
                found.year, found.before, found.after
            ),
            None,
        )?;
        let workers = self.pool.status().await.ready.max(1) as u64;
        let (as_sharp, alone) = self.shuffle_on(1).await?;
        self.show.figure(
            format_args!(
                "{as_sharp} of {} random orders break as sharply; on one worker",
                grouped(SHUFFLES)
            ),
            Some(alone),
        )?;
        if workers == 1 {
            return Ok(());
        }
        let (as_sharp, together) = self.shuffle_on(workers).await?;
        self.show.figure(
            format_args!(
                "{as_sharp} of as many on {workers} workers ({} processors here)",
                std::thread::available_parallelism().map_or(1, usize::from)
            ),
            Some(together),
        )
    }

    /// All shuffles, shared out; how many orders were as sharp, and the time.
    async fn shuffle_on(&self, workers: u64) -> Result<(u64, Duration), Failure> {
        let began = Instant::now();
        let mut shares = JoinSet::new();
        for seed in 0..workers {
            let pool = self.pool.clone();
            let count = SHUFFLES / workers + u64::from(seed < SHUFFLES % workers);
            shares.spawn(async move { pool.call::<_, u64>("nile:shuffles", (count, seed)).await });
        }
        let mut as_sharp = 0;
        while let Some(share) = shares.join_next().await {
            as_sharp += share.map_err(|panic| Failure::Failed(panic.to_string()))??;
        }
        Ok((as_sharp, began.elapsed()))
    }

    pub(super) async fn numpy(&self) -> Result<(), Failure> {
        if !self.pool.call::<_, bool>("nile:has_numpy", ()).await? {
            return Ok(());
        }
        self.show
            .step("NumPy", "an array goes there and another comes back")?;
        let values: Vec<f64> = (0..ELEMENTS).map(|at| (at % 1000) as f64).collect();
        let array = NdArray::from_slice(&[ELEMENTS as u64], &values)
            .map_err(|error| Failure::Failed(error.to_string()))?;
        // The first call of a worker imports NumPy.
        let first = Instant::now();
        let _: NdArray = self.pool.call("nile:rolling_mean", (&array, 3)).await?;
        let first = first.elapsed();
        let began = Instant::now();
        let means: NdArray = self.pool.call("nile:rolling_mean", (&array, 3)).await?;
        let took = began.elapsed();
        let count = means.shape.iter().product();
        self.show.figure(
            format_args!(
                "rolling mean of {} floats, {} back; the first call, with `import numpy`",
                grouped(ELEMENTS as u64),
                grouped(count)
            ),
            Some(first),
        )?;
        self.show.figure("the second call", Some(took))
    }

    pub(super) async fn crash(&self) -> Result<(), Failure> {
        self.show
            .step("Crash", "a worker is killed in mid-call (SIGKILL)")?;
        let mut events = self.pool.events();
        let doomed = tokio::spawn({
            let pool = self.pool.clone();
            async move { pool.call::<_, ()>("nile:ponder", (60.0,)).await }
        });
        let victim = self.find_busy().await?;
        let bystander = Bystander::start(self.pool);
        sleep(Duration::from_millis(100)).await;

        kill(victim.pid).map_err(|error| Failure::Failed(format!("cannot kill {}: {error}", victim.pid)))?;
        let killed = Instant::now();
        let answer = timeout(PATIENCE, doomed).await;
        let told = killed.elapsed();
        let error = match answer {
            Ok(Ok(Err(error))) => error,
            other => {
                return Err(Failure::Failed(format!(
                    "the call went on without its worker: {other:?}"
                )));
            }
        };
        self.show.bad(format_args!("caller gets: {error}"))?;
        self.show.figure("from the kill to the error", Some(told))?;
        let (pid, ready) = replacement(&mut events, victim.slot, killed).await?;
        self.show.figure(
            format_args!(
                "from the kill to the replacement's readiness (pid {} -> {pid})",
                victim.pid
            ),
            Some(ready),
        )?;
        let (calls, failed) = bystander.stop().await?;
        self.show.figure(
            format_args!(
                "meanwhile another caller made {} calls, {failed} failed",
                grouped(calls)
            ),
            None,
        )
    }

    async fn find_busy(&self) -> Result<Busy, Failure> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            let status = self.pool.status().await;
            let busy = status.workers.iter().find(|worker| worker.busy_for.is_some());
            if let Some(Busy { slot, pid }) = busy.and_then(|worker| {
                let slot = worker.child.status.slot;
                worker.child.status.pid.map(|pid| Busy { slot, pid })
            }) {
                return Ok(Busy { slot, pid });
            }
            sleep(Duration::from_millis(1)).await;
        }
        Err(Failure::Failed("no worker took the call".to_owned()))
    }

    pub(super) async fn tree(&self) -> Result<(), Failure> {
        self.show.step(
            "Tree",
            "every slot has a permanent starter around its worker and its resources",
        )?;
        let tree = self.pool.tree().await.to_string();
        for line in tree.lines() {
            self.show.figure(line, None)?;
        }
        Ok(())
    }
}
