//! Workers that have served for long enough are replaced.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{dispatch::Due, replace::Replacer, seat::Lifetime, settings::PoolSettings};
use crate::{clock::after, id::WorkerId, supervision::Backoff};

/// How often the samples of memory are looked at: nothing is measured for it, and a new sample is not left unseen for long.
const LOOK: Duration = Duration::from_secs(1);

/// How long workers serve.
#[derive(Debug)]
pub(super) struct Lifetimes {
    max_age: Option<Duration>,
    max_calls: Option<u64>,
    jitter: f64,
}

impl Lifetimes {
    pub(super) fn new(settings: &PoolSettings) -> Self {
        Self {
            max_age: settings.max_age,
            max_calls: settings.max_calls,
            jitter: settings.recycle_jitter,
        }
    }

    /// How long a worker serves that is new now.
    pub(super) fn of_a_worker(&self, now: Instant) -> Lifetime {
        // Each state has keys of its own.
        let random = RandomState::new();
        self.with(
            now,
            fraction(random.hash_one("age")),
            fraction(random.hash_one("calls")),
        )
    }

    fn with(&self, now: Instant, of_age: f64, of_calls: f64) -> Lifetime {
        let shorter = |random: f64| (1.0 - self.jitter * random).clamp(0.0, 1.0);
        Lifetime {
            calls: self
                .max_calls
                .map_or(u64::MAX, |calls| scaled(calls, shorter(of_calls))),
            until: self.max_age.map(|age| after(now, age.mul_f64(shorter(of_age)))),
        }
    }
}

/// From 0 to 1.
#[expect(clippy::cast_precision_loss, reason = "53 bits fit an f64")]
fn fraction(random: u64) -> f64 {
    (random >> 11) as f64 / (1_u64 << 53) as f64
}

/// At least 1.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a limit of 2^53 calls need not be exact, and casts of floats saturate"
)]
fn scaled(calls: u64, factor: f64) -> u64 {
    ((calls as f64 * factor).ceil() as u64).clamp(1, calls)
}

/// Replaces workers that have served for long enough.
#[derive(Debug)]
pub(super) struct Recycler {
    replacer: Arc<Replacer>,
    max_rss: Option<u64>,
    at_once: usize,
}

impl Recycler {
    /// `None` where nothing ends a worker's service.
    pub(super) fn new(replacer: &Arc<Replacer>, settings: &PoolSettings) -> Option<Self> {
        let bounded =
            settings.max_age.is_some() || settings.max_calls.is_some() || settings.max_rss.is_some();
        bounded.then(|| Self {
            replacer: Arc::clone(replacer),
            max_rss: settings.max_rss,
            at_once: settings.replacements,
        })
    }

    /// Goes on until the pool is ended.
    pub(super) async fn run(self) {
        let dispatch = Arc::clone(self.replacer.dispatch());
        let mut tries = JoinSet::new();
        let mut trying = BTreeSet::new();
        let mut rest = Rest::default();
        let mut memory = BTreeMap::new();
        let mut look = self.max_rss.map(|_| Instant::now());
        loop {
            let now = Instant::now();
            if let (Some(limit), Some(_)) = (self.max_rss, look.filter(|look| *look <= now)) {
                memory = self.heavy(limit).await;
                look = Some(now + LOOK);
            }
            let (mut due, next) = dispatch.due(&memory, now);
            due.retain(|due| !trying.contains(&due.slot) && !self.replacer.is_busy(due.slot));
            let resting = rest.until.filter(|until| *until > now);
            if resting.is_none() {
                for due in due.drain(..due.len().min(self.at_once.saturating_sub(tries.len()))) {
                    trying.insert(due.slot);
                    tries.spawn(replace(Arc::clone(&self.replacer), due));
                }
            }
            let wake = [next, look, resting.filter(|_| !due.is_empty())]
                .into_iter()
                .flatten()
                .min();
            tokio::select! {
                biased;
                () = self.replacer.stopped() => return,
                Some(tried) = tries.join_next(), if !tries.is_empty() => {
                    let (slot, replaced) = match tried {
                        Ok(tried) => tried,
                        // A defect, or the runtime is being shut down.
                        Err(error) => return tracing::error!(%error, "workers are not recycled any more"),
                    };
                    trying.remove(&slot);
                    rest.after(replaced, Instant::now());
                }
                () = dispatch.may_be_due() => {}
                () = sleep_until(wake.unwrap_or(now)), if wake.is_some() => {}
            }
        }
    }

    /// The workers whose process trees have more memory than that, and were given a call.
    async fn heavy(&self, limit: u64) -> BTreeMap<WorkerId, u64> {
        let children = self.replacer.supervisor().which_children().await;
        let heavy = children.into_iter().filter_map(|child| {
            let (worker, calls) = self.replacer.dispatch().serves(child.status.slot)?;
            let rss_bytes = child.status.metrics?.rss_bytes;
            let measured = child.status.worker == Some(worker);
            (measured && calls > 0 && rss_bytes > limit).then_some((worker, rss_bytes))
        });
        heavy.collect()
    }
}

/// Whether the worker was replaced, or need not be any more.
async fn replace(replacer: Arc<Replacer>, due: Due) -> (crate::id::SlotId, bool) {
    let tried = replacer
        .replace(due.slot, Some(due.worker), due.cause, None)
        .await;
    (due.slot, tried.is_ok())
}

/// After a replacement that failed the next one waits: the workers that serve are old, and not broken.
#[derive(Debug, Default)]
struct Rest {
    failures: u32,
    until: Option<Instant>,
}

impl Rest {
    fn after(&mut self, replaced: bool, now: Instant) {
        if replaced {
            *self = Self::default();
            return;
        }
        self.failures = self.failures.saturating_add(1);
        let random = fraction(RandomState::new().hash_one("rest"));
        let pause = Backoff::default().pause(self.failures.saturating_add(1), random);
        self.until = Some(after(now, pause));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_makes_a_life_shorter_by_at_most_its_share_and_never_longer() {
        let lifetimes = Lifetimes {
            max_age: Some(Duration::from_secs(100)),
            max_calls: Some(1000),
            jitter: 0.2,
        };
        let now = Instant::now();
        let table = [(0.0, 100, 1000), (0.5, 90, 900), (1.0, 80, 800)];
        for (random, seconds, calls) in table {
            let lifetime = lifetimes.with(now, random, random);
            assert_eq!(
                lifetime.until,
                Some(now + Duration::from_secs(seconds)),
                "{random}"
            );
            assert_eq!(lifetime.calls, calls, "{random}");
        }
        let lives: BTreeSet<_> = (0..100).map(|_| lifetimes.of_a_worker(now).calls).collect();
        assert!(lives.len() > 10, "they differ: {lives:?}");
        assert!(
            lives.iter().all(|calls| (800..=1000).contains(calls)),
            "{lives:?}"
        );
    }

    #[test]
    fn a_limit_of_one_call_is_one_call_whatever_the_jitter() {
        let lifetimes = Lifetimes {
            max_age: None,
            max_calls: Some(1),
            jitter: 1.0,
        };
        for random in [0.0, 0.5, 1.0] {
            let lifetime = lifetimes.with(Instant::now(), random, random);
            assert_eq!((lifetime.calls, lifetime.until), (1, None));
        }
        assert_eq!(scaled(u64::MAX, 1.0), u64::MAX);
    }

    #[test]
    fn failures_in_a_row_rest_longer_and_a_success_ends_that() {
        let now = Instant::now();
        let mut rest = Rest::default();
        let mut last = Duration::ZERO;
        for _ in 0..4 {
            rest.after(false, now);
            let pause = rest.until.map_or(Duration::ZERO, |until| until - now);
            assert!(pause > last, "{pause:?} after {last:?}");
            last = pause;
        }
        rest.after(true, now);
        assert_eq!(rest.until, None);
    }
}
