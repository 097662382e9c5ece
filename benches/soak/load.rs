//! The load: callers that do everything that callers do, and one that measures.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use snakepit::{CallError, CallErrorKind, Pool, Value};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

/// Callers at the same time, two for each of the default workers.
const CALLERS: u64 = 8;

/// How often a worker is made to die.
const DEATHS: Duration = Duration::from_secs(5);

/// How often the latency of a small call is measured.
const PROBES: Duration = Duration::from_millis(10);

/// What has become of calls.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    calls: AtomicU64,
    told: Mutex<BTreeMap<String, u64>>,
    probes: Mutex<Vec<f64>>,
}

impl Tally {
    fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls so far.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Outcomes other than a right answer, by what was done and what was told.
    pub(crate) fn told(&self) -> BTreeMap<String, u64> {
        Self::lock(&self.told).clone()
    }

    /// Microseconds that small calls took since this was asked last.
    pub(crate) fn take_probes(&self) -> Vec<f64> {
        std::mem::take(&mut Self::lock(&self.probes))
    }

    fn count(&self, outcome: String) {
        *Self::lock(&self.told).entry(outcome).or_default() += 1;
    }

    /// Counts an outcome that is one of those expected, where there is one.
    fn expect<T>(&self, what: &str, outcome: Result<T, CallError>, expected: Option<CallErrorKind>) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        match outcome {
            Ok(_) if expected.is_none() => {}
            Ok(_) => self.count(format!("{UNEXPECTED}{what}: answered")),
            // A worker that is made to die takes along what it has executed and not answered yet.
            Err(error) if Some(error.kind()) == expected || error.kind() == CallErrorKind::WorkerLost => {
                self.count(format!("{what}: {:?}", error.kind()));
            }
            Err(error) => self.count(format!("{UNEXPECTED}{what}: {error}")),
        }
    }
}

/// Before outcomes that must not be.
pub(crate) const UNEXPECTED: &str = "unexpected: ";

/// Callers, until they are stopped.
#[derive(Debug)]
pub(crate) struct Load {
    tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
    callers: JoinSet<()>,
}

impl Load {
    /// Begins to call.
    pub(crate) fn start(pool: &Pool) -> Self {
        let (tally, stop) = (Arc::new(Tally::default()), Arc::new(AtomicBool::new(false)));
        let mut callers = JoinSet::new();
        for number in 0..CALLERS {
            let caller = Caller {
                pool: pool.clone(),
                tally: Arc::clone(&tally),
                stop: Arc::clone(&stop),
                random: number,
            };
            callers.spawn(caller.run());
        }
        callers.spawn(probe(pool.clone(), Arc::clone(&tally), Arc::clone(&stop)));
        callers.spawn(end_workers(pool.clone(), Arc::clone(&tally), Arc::clone(&stop)));
        Self { tally, stop, callers }
    }

    pub(crate) fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// Waits for the last calls.
    pub(crate) async fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while self.callers.join_next().await.is_some() {}
    }
}

struct Caller {
    pool: Pool,
    tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
    random: u64,
}

impl Caller {
    async fn run(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            match self.next() % 100 {
                0..60 => self.echo(16 << (self.random >> 40 & 7)).await,
                60..70 => self.echo(64 << 10).await,
                70..73 => self.echo(1 << 20).await,
                73..80 => self.stream(50).await,
                80..83 => self.stream(10).await,
                83..90 => {
                    let outcome = self.pool.call::<_, Value>("fails", (self.random,)).await;
                    self.tally.expect("raises", outcome, Some(CallErrorKind::Failed));
                }
                90..94 => {
                    let outcome = self.pool.call::<_, Value>("waits", (0.001,)).await;
                    self.tally.expect("waits", outcome, None);
                }
                94..97 => self.leave().await,
                _ => self.overrun().await,
            }
        }
    }

    /// A number that follows from the one before: each run calls the same.
    fn next(&mut self) -> u64 {
        let Self { random, .. } = self;
        *random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        *random >> 33
    }

    async fn echo(&self, len: usize) {
        let payload = Value::Bytes(Bytes::from(vec![b'x'; len]));
        let answer = self.pool.call::<_, Value>("echo", (payload,)).await;
        let right = |value: &Value| matches!(value, Value::Bytes(bytes) if bytes.len() == len);
        if answer.as_ref().is_ok_and(|value| !right(value)) {
            self.tally.count(format!("{UNEXPECTED}echo: another answer"));
        }
        self.tally.expect("echo", answer, None);
    }

    /// Reads so many items of a stream of fifty: all of them, or the first.
    async fn stream(&self, wanted: u64) {
        let read = async {
            let mut items = self
                .pool
                .request("count")
                .args(&(50_u64,))?
                .stream::<u64>()
                .await?;
            let mut read = 0;
            while read < wanted
                && let Some(item) = items.next().await
            {
                if item? != read {
                    self.tally.count(format!("{UNEXPECTED}stream: another item"));
                }
                read += 1;
            }
            Ok(read)
        };
        let outcome = read.await;
        if outcome.as_ref().is_ok_and(|read| *read != wanted) {
            self.tally.count(format!("{UNEXPECTED}stream: cut short"));
        }
        self.tally.expect("stream", outcome, None);
    }

    /// Leaves while the call runs.
    async fn leave(&self) {
        let call = self.pool.call::<_, Value>("waits", (1.0,));
        match timeout(Duration::from_millis(3), call).await {
            Err(_) => self.tally.count("leaves: left".to_owned()),
            Ok(outcome) => self
                .tally
                .expect("leaves", outcome, Some(CallErrorKind::DeadlineExceeded)),
        }
    }

    /// Does not get its answer in time.
    async fn overrun(&self) {
        let request = self.pool.request("waits").args(&(1.0,));
        let outcome = match request {
            Ok(request) => request.deadline(Duration::from_millis(5)).send::<Value>().await,
            Err(error) => Err(error.into()),
        };
        self.tally
            .expect("overruns", outcome, Some(CallErrorKind::DeadlineExceeded));
    }
}

/// How long a small call takes, beside all the others.
async fn probe(pool: Pool, tally: Arc<Tally>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let answer = pool.call::<_, Value>("echo", (1,)).await;
        let took = began.elapsed().as_secs_f64() * 1e6;
        tally.expect("probe", answer, None);
        Tally::lock(&tally.probes).push(took);
        sleep(PROBES).await;
    }
}

/// Ends a worker now and then, in the middle of a call.
async fn end_workers(pool: Pool, tally: Arc<Tally>, stop: Arc<AtomicBool>) {
    let mut number = 0_u64;
    let mut last = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        sleep(Duration::from_millis(100)).await;
        if number > 0 && last.elapsed() < DEATHS {
            continue;
        }
        (number, last) = (number + 1, Instant::now());
        // Each call is another one, or it would be refused as one that ends its workers.
        let outcome = pool.call::<_, Value>("dies", (number,)).await;
        tally.expect("dies", outcome, Some(CallErrorKind::WorkerLost));
    }
}
