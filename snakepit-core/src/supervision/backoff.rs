//! How long a restart waits.

use std::time::Duration;

/// The pauses before a worker's restarts: the first of a series is at once, later ones wait, doubling.
///
/// OTP restarts at once every time and leaves it to the intensity to stop that. A worker costs a process start
/// and its imports, so here repeated restarts are spread out as well.
///
/// A series begins anew when the slot had a worker that was ready, or one after the other by planned replacements, for the period of
/// the starter's intensity, however long the last pause was. To ask for more would be a trap: while a slot pauses the others get
/// its calls, so that what ends workers ends theirs sooner, their pauses grow in turn, and in the end a pool that loses a worker
/// every few seconds has none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// The pause before the second restart of a series. Default 100 ms: longer than it takes a transient
    /// cause such as a full disk or a port in use to show that it is one.
    pub initial: Duration,
    /// The longest pause, before jitter. Default 30 s.
    pub max: Duration,
    /// How far a pause may differ from its plain value either way, as a fraction; clamped to 0 to 1.
    /// Default 0.2: slots that failed together do not come back together.
    pub jitter: f64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(100),
            max: Duration::from_secs(30),
            jitter: 0.2,
        }
    }
}

impl Backoff {
    /// The pause before restart number `restart` of a series, counted from 1. `random` is in `0.0..1.0`.
    pub fn pause(&self, restart: u32, random: f64) -> Duration {
        let Some(doublings) = restart.checked_sub(2) else {
            return Duration::ZERO;
        };
        let plain = doubled(self.initial, self.max, doublings);
        let jitter = if self.jitter.is_finite() {
            self.jitter.clamp(0.0, 1.0)
        } else {
            0.0
        };
        let seconds = plain.as_secs_f64() * (1.0 + jitter * (2.0 * random.clamp(0.0, 1.0) - 1.0));
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

/// The rest of a slot whose starter exceeded its intensity, and the supervisor its own for that slot.
///
/// OTP's supervisor would end itself and every child at this point. A pool serves on without the slot.
///
/// After the rest the slot is on probation: the next time its starter gives up, it rests again, twice as long,
/// unless the starter had lived at least as long as the last rest. Then counting starts afresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quarantine {
    /// The first rest. Default 30 s: as long as the longest pause between restarts.
    pub initial: Duration,
    /// The longest rest. Default 5 min: a cause that was put right is noticed within that time.
    pub max: Duration,
}

impl Default for Quarantine {
    fn default() -> Self {
        Self {
            initial: Duration::from_secs(30),
            max: Duration::from_secs(300),
        }
    }
}

impl Quarantine {
    /// The rest number `rest` in a row, counted from 1.
    pub fn pause(&self, rest: u32) -> Duration {
        doubled(self.initial, self.max, rest.saturating_sub(1))
    }
}

/// `initial` doubled so many times, at most `max`.
fn doubled(initial: Duration, max: Duration, doublings: u32) -> Duration {
    2_u32
        .checked_pow(doublings)
        .and_then(|factor| initial.checked_mul(factor))
        .map_or(max, |pause| pause.min(max))
}

/// Random numbers for jitter: splitmix64. Kept in a state so that its transitions stay pure.
#[derive(Clone, Debug)]
pub(crate) struct Jitter(u64);

impl Jitter {
    /// Starts from this seed.
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number in `0.0..1.0`.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit an f64")]
    pub(crate) fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_at_once_and_later_ones_double() {
        let backoff = Backoff::default();
        let pauses: Vec<_> = [1, 2, 3, 4, 10, 11, 1000]
            .map(|restart| backoff.pause(restart, 0.5).as_millis())
            .into();
        assert_eq!(pauses, [0, 100, 200, 400, 25_600, 30_000, 30_000]);
    }

    #[test]
    fn jitter_stays_within_its_fraction() {
        let backoff = Backoff::default();
        let mut jitter = Jitter::new(7);
        for _ in 0..1000 {
            let pause = backoff.pause(2, jitter.next()).as_secs_f64();
            assert!((0.08..=0.12).contains(&pause), "{pause}");
        }
        let odd = Backoff {
            jitter: f64::NAN,
            ..backoff
        };
        assert_eq!(odd.pause(2, 0.9).as_millis(), 100);
        let endless = Backoff {
            initial: Duration::MAX,
            max: Duration::MAX,
            ..backoff
        };
        assert_eq!(endless.pause(2, 0.9), Duration::MAX);
    }

    #[test]
    fn quarantine_doubles_to_its_limit() {
        let quarantine = Quarantine::default();
        let pauses: Vec<_> = [1, 2, 3, 4, 5, 99]
            .map(|rest| quarantine.pause(rest).as_secs())
            .into();
        assert_eq!(pauses, [30, 60, 120, 240, 300, 300]);
    }
}
