//! Calls that kill whatever worker they run on.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::{clock::after, rpc::codec::Part, supervision::Quarantine, worker::Down};

/// Calls that are watched at most. Where so many different ones lose their workers, the calls are not to blame.
const SUSPECTS: usize = 256;

/// A call that lost nobody else for this long is forgotten.
const MEMORY: Duration = Duration::from_secs(3600);

/// A call that is refused, since each time it was executed lately its worker ended.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub struct Poisoned {
    /// The function.
    pub function: Arc<str>,
    /// Workers that ended while they executed this very call, in a row.
    pub deaths: u32,
    /// How the last of them ended, with the last it wrote to standard error.
    pub last: Down,
    /// When one such call will be tried again.
    pub retry_in: Duration,
}

impl fmt::Display for Poisoned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            function,
            deaths,
            last,
            retry_in,
        } = self;
        write!(
            f,
            "this call of {function} is not executed: {deaths} workers in a row ended while they executed it, the last {last}; \
             it is tried again in {retry_in:.0?}"
        )
    }
}

/// What is called: function, arguments, keyword arguments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Called<'a> {
    pub(super) function: &'a Arc<str>,
    pub(super) args: &'a [u8],
    pub(super) kwargs: &'a [u8],
    /// What they refer to.
    pub(super) aside: [&'a [Part]; 2],
}

#[derive(Debug)]
struct Suspect {
    deaths: u32,
    last: Down,
    at: Instant,
    refused_until: Instant,
}

/// Which calls have lost their workers since they last succeeded.
#[derive(Debug)]
pub(super) struct Suspects {
    /// `None` refuses nothing.
    limit: Option<u32>,
    rest: Quarantine,
    hasher: RandomState,
    /// A plain call looks at this alone.
    len: AtomicUsize,
    all: Mutex<HashMap<(Arc<str>, u64), Suspect>>,
}

impl Suspects {
    /// Refuses a call after this many deaths in a row.
    pub(super) fn new(limit: Option<u32>) -> Self {
        Self {
            limit,
            rest: Quarantine::default(),
            hasher: RandomState::new(),
            len: AtomicUsize::new(0),
            all: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(Arc<str>, u64), Suspect>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self, call: Called<'_>) -> (Arc<str>, u64) {
        let hash = self.hasher.hash_one((call.args, call.kwargs, call.aside));
        (Arc::clone(call.function), hash)
    }

    fn is_empty(&self) -> bool {
        self.len.load(Ordering::Relaxed) == 0
    }

    /// Whether the call may be executed. One that was refused for long enough is let through once.
    pub(super) fn admit(&self, call: Called<'_>, now: Instant) -> Result<(), Box<Poisoned>> {
        let Some(limit) = self.limit.filter(|_| !self.is_empty()) else {
            return Ok(());
        };
        let key = self.key(call);
        let mut all = self.lock();
        let Some(suspect) = all.get_mut(&key).filter(|suspect| suspect.deaths >= limit) else {
            return Ok(());
        };
        if suspect.refused_until <= now {
            // The others wait for how this one ends.
            suspect.refused_until = after(now, self.rest.initial);
            return Ok(());
        }
        Err(Box::new(Poisoned {
            function: Arc::clone(call.function),
            deaths: suspect.deaths,
            last: suspect.last.clone(),
            retry_in: suspect.refused_until - now,
        }))
    }

    /// A worker ended while it executed the call, which had begun at this time. Of calls that were executed side by side one
    /// counts: whoever ended their workers together was not the call.
    pub(super) fn died(&self, call: Called<'_>, down: &Down, begun: Instant, now: Instant) {
        let Some(limit) = self.limit else { return };
        let key = self.key(call);
        let mut all = self.lock();
        all.retain(|_, suspect| now.saturating_duration_since(suspect.at) < MEMORY);
        if all.len() >= SUSPECTS && !all.contains_key(&key) {
            let oldest = all.iter().min_by_key(|(_, suspect)| suspect.at);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                all.remove(&oldest);
            }
        }
        let suspect = all.entry(key).or_insert_with(|| Suspect {
            deaths: 0,
            last: down.clone(),
            at: now,
            refused_until: now,
        });
        if suspect.deaths > 0 && begun <= suspect.at {
            return;
        }
        suspect.deaths += 1;
        suspect.last = down.clone();
        suspect.at = now;
        let rests = (suspect.deaths + 1).saturating_sub(limit);
        suspect.refused_until = after(now, self.rest.pause(rests));
        self.len.store(all.len(), Ordering::Relaxed);
    }

    /// The call was answered: whatever ended its workers, it was not the call by itself.
    pub(super) fn answered(&self, call: Called<'_>) {
        if self.is_empty() {
            return;
        }
        let key = self.key(call);
        let mut all = self.lock();
        all.remove(&key);
        self.len.store(all.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::worker::DownReason;

    fn down() -> Down {
        Down {
            reason: DownReason::Exited,
            outcome: Some(crate::process::ExitOutcome::Exited(3)),
            stderr_tail: String::new(),
        }
    }

    fn call<'a>(function: &'a Arc<str>, args: &'a [u8]) -> Called<'a> {
        Called {
            function,
            args,
            kwargs: b"",
            aside: [&[], &[]],
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_call_is_refused_after_so_many_deaths_and_tried_again_with_growing_pauses() {
        let suspects = Suspects::new(Some(2));
        let function = Arc::from("f");
        let (bad, good) = (call(&function, b"bad"), call(&function, b"good"));
        for _ in 0..2 {
            assert!(suspects.admit(bad, Instant::now()).is_ok());
            advance(Duration::from_millis(1)).await;
            died(&suspects, bad);
        }
        let refused = suspects.admit(bad, Instant::now()).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "this call of f is not executed: 2 workers in a row ended while they executed it, the last exited with code 3; \
             it is tried again in 30s"
        );
        assert!(suspects.admit(good, Instant::now()).is_ok());
        advance(Duration::from_secs(30)).await;
        assert!(suspects.admit(bad, Instant::now()).is_ok());
        assert!(suspects.admit(bad, Instant::now()).is_err(), "one at a time");
        died(&suspects, bad);
        let refused = suspects.admit(bad, Instant::now()).unwrap_err();
        assert_eq!(refused.retry_in.as_secs(), 60);
        suspects.answered(bad);
        assert!(suspects.admit(bad, Instant::now()).is_ok() && suspects.is_empty());
    }

    fn died(suspects: &Suspects, call: Called<'_>) {
        suspects.died(call, &down(), Instant::now(), Instant::now());
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_lost_their_workers_side_by_side_count_once() {
        let suspects = Suspects::new(Some(2));
        let function = Arc::from("f");
        let (call, begun) = (call(&function, b""), Instant::now());
        advance(Duration::from_millis(1)).await;
        for _ in 0..9 {
            suspects.died(call, &down(), begun, Instant::now());
        }
        assert!(suspects.admit(call, Instant::now()).is_ok());
        advance(Duration::from_millis(1)).await;
        died(&suspects, call);
        assert!(suspects.admit(call, Instant::now()).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded_and_old_deaths_are_forgotten() {
        let suspects = Suspects::new(Some(1));
        let function = Arc::from("f");
        for number in 0..=SUSPECTS {
            died(&suspects, call(&function, &number.to_be_bytes()));
            advance(Duration::from_millis(1)).await;
        }
        assert_eq!(suspects.lock().len(), SUSPECTS);
        let first = 0_usize.to_be_bytes();
        assert!(suspects.admit(call(&function, &first), Instant::now()).is_ok());
        advance(MEMORY).await;
        died(&suspects, call(&function, b"new"));
        assert_eq!(suspects.lock().len(), 1);
        let never = Suspects::new(None);
        died(&never, call(&function, b""));
        assert!(never.is_empty());
    }
}
