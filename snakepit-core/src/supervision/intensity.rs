//! How many restarts are too many.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// How many restarts are taken within a period; one more and the supervising side gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RestartIntensity {
    /// Restarts allowed within `period`. Default 3; zero gives up at the first.
    pub restarts: u32,
    /// The period. Default 5 s: OTP's default period; its default of one restart is too few for workers that
    /// any user's C extension may crash.
    pub period: Duration,
}

impl Default for RestartIntensity {
    fn default() -> Self {
        Self {
            restarts: 3,
            period: Duration::from_secs(5),
        }
    }
}

/// The restarts of the last period, counted as `add_restart/3` in OTP's `supervisor.erl` does it: the new
/// restart counts, restarts as old as the period still count, older ones are forgotten.
#[derive(Clone, Debug, Default)]
pub(crate) struct RestartHistory {
    at: VecDeque<Instant>,
}

impl RestartHistory {
    /// Counts a restart; false when it is one too many.
    pub(crate) fn add(&mut self, now: Instant, limit: RestartIntensity) -> bool {
        self.at.push_back(now);
        while let Some(&oldest) = self.at.front() {
            if now.saturating_duration_since(oldest) <= limit.period {
                break;
            }
            self.at.pop_front();
        }
        u32::try_from(self.at.len()).is_ok_and(|count| count <= limit.restarts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(limit: RestartIntensity, at_ms: &[u64]) -> Vec<bool> {
        let zero = Instant::now();
        let mut history = RestartHistory::default();
        at_ms
            .iter()
            .map(|&ms| history.add(zero + Duration::from_millis(ms), limit))
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn restarts_are_counted_as_in_add_restart() {
        let limit = RestartIntensity::default();
        let table: [(&[u64], &[bool]); 5] = [
            (&[0, 1, 2], &[true, true, true]),
            (&[0, 1, 2, 3], &[true, true, true, false]),
            // The one at 0 is exactly as old as the period and counts.
            (&[0, 1, 2, 5000], &[true, true, true, false]),
            (&[0, 1, 2, 5001], &[true, true, true, true]),
            (&[0, 2000, 4000, 6000, 8000], &[true, true, true, true, true]),
        ];
        for (at_ms, expected) in table {
            assert_eq!(verdicts(limit, at_ms), expected, "{at_ms:?}");
        }
        let never = RestartIntensity { restarts: 0, ..limit };
        assert_eq!(verdicts(never, &[0]), [false]);
    }
}
