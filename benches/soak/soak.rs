//! A soak: the load, who watches, and what is said in the end.

#[path = "load.rs"]
mod load;
#[path = "summary.rs"]
mod summary;
#[path = "trend.rs"]
pub(crate) mod trend;
#[path = "watch.rs"]
mod watch;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use snakepit::{Pool, PythonEnv};
use tokio::time::{Instant, MissedTickBehavior, interval};

use load::Load;
pub(crate) use summary::Summary;
use watch::Watch;

/// Whatever went wrong; the soak ends with it.
pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;
/// The outcome of anything here.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// How often it is reported.
const REPORT: Duration = Duration::from_secs(30);

/// Calls after which a worker is replaced: several times a minute.
const MAX_CALLS: u64 = 5_000;

/// What is to be done.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// How long.
    pub(crate) time: Duration,
    /// Worker slots.
    pub(crate) workers: usize,
    /// How often it is looked: a hundred times in ten minutes and more.
    pub(crate) look: Duration,
    /// Where the workers' runtime is laid out, and the run is recorded.
    pub(crate) cache: PathBuf,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            time: Duration::from_secs(600),
            workers: 4,
            look: Duration::from_secs(5),
            cache: Path::new(env!("CARGO_TARGET_TMPDIR")).join("soak"),
        }
    }
}

impl Plan {
    /// Lasts for so many minutes.
    pub(crate) fn minutes(self, minutes: f64) -> Result<Self> {
        let time = Duration::try_from_secs_f64(minutes * 60.0)?;
        if time.is_zero() {
            return Err("--minutes needs more than 0".into());
        }
        // Short ones need samples too.
        let look = (time / 20).min(Duration::from_secs(5));
        Ok(Self { time, look, ..self })
    }
}

/// Runs it; the pool and its workers are gone afterwards.
pub(crate) async fn run(plan: &Plan) -> Result<Summary> {
    let pool = start(plan).await?;
    let load = Load::start(&pool);
    let mut watch = Watch::new(&pool, Arc::clone(load.tally()));
    let watched = look_on(plan, &mut watch).await;
    load.stop().await;
    pool.shutdown().await;
    watched?;
    Ok(watch.summary())
}

async fn start(plan: &Plan) -> Result<Pool> {
    let python = PythonEnv::builder().cache_dir(plan.cache.join("python"));
    let python = tokio::task::spawn_blocking(|| python.build()).await??;
    let registry = snakepit::registry::Settings::new().with_state_dir(plan.cache.join("state"));
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/soak/python");
    let pool = Pool::builder()
        .name("soak")
        .python(python)
        .registry(registry)
        .path(programs)
        .adapter("soak_adapter")
        .workers(plan.workers)
        .max_calls(MAX_CALLS);
    Ok(pool.start().await?)
}

async fn look_on(plan: &Plan, watch: &mut Watch) -> Result<()> {
    let began = Instant::now();
    let mut reported = began;
    let mut looks = interval(plan.look);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is at once.
    looks.tick().await;
    while began.elapsed() < plan.time {
        looks.tick().await;
        watch.look(began.elapsed()).await?;
        if reported.elapsed() >= REPORT {
            reported = Instant::now();
            eprintln!("{}", watch.line());
        }
    }
    Ok(())
}
