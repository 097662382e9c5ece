//! Waiting: times that may have no end, and hosts that stand still.

use std::time::Duration;

use tokio::time::{Instant, timeout};

/// Further away than anybody waits, and near enough for a clock to add.
const NEVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The time after this wait; a year from now for one that a clock cannot add.
pub(crate) fn after(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or_else(|| now + NEVER)
}

/// What comes within this time. The time is counted in parts, of which a host that itself stood still (it was stopped, or its
/// runtime blocked) loses only one: what is awaited may have been there all the while, unread.
pub(crate) async fn within<T>(time: Duration, work: impl Future<Output = T>) -> Option<T> {
    const PARTS: u32 = 8;
    tokio::pin!(work);
    for _ in 0..PARTS {
        if let Ok(value) = timeout(time / PARTS, &mut work).await {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use tokio::{sync::oneshot, time::advance};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_standstill_costs_a_part_of_the_time_and_the_rest_is_kept() {
        let (answer, answered) = oneshot::channel();
        let waiting = tokio::spawn(within(Duration::from_secs(8), answered));
        tokio::task::yield_now().await;
        advance(Duration::from_secs(3600)).await;
        advance(Duration::from_secs(6)).await;
        answer.send(()).expect("it still waits");
        assert!(waiting.await.expect("no panic").is_some());

        let began = Instant::now();
        assert!(
            within(Duration::from_secs(8), std::future::pending::<()>())
                .await
                .is_none()
        );
        assert_eq!(began.elapsed().as_secs(), 8);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_without_end_is_far_away_and_no_panic() {
        let now = Instant::now();
        assert!(after(now, Duration::MAX) > now + Duration::from_secs(1_000_000));
        assert_eq!(after(now, Duration::ZERO), now);
    }
}
