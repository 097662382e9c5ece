//! A deadline that may be moved while it is waited for.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// Further away than anybody waits, and near enough for a clock to add.
const NEVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Follows a deadline.
#[derive(Debug)]
pub(super) struct Deadline(watch::Receiver<Option<Instant>>);

impl Deadline {
    pub(super) fn new(at: watch::Receiver<Option<Instant>>) -> Self {
        Self(at)
    }

    pub(super) fn at(&self) -> Instant {
        let at = *self.0.borrow();
        at.unwrap_or_else(|| Instant::now() + NEVER)
    }

    pub(super) fn has_passed(&self) -> bool {
        self.at() <= Instant::now()
    }

    /// Waits until it has passed, wherever it is moved to, or until `other`.
    pub(super) async fn passed_or(&mut self, other: Instant) {
        loop {
            let at = *self.0.borrow_and_update();
            let until = at.map_or(other, |at| at.min(other));
            tokio::select! {
                () = sleep_until(until) => return,
                moved = self.0.changed() => {
                    if moved.is_err() {
                        // Nobody is left to move it.
                        return sleep_until(until).await;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn follows_when_moved_forward_and_outlives_its_mover() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (mover, deadline) = watch::channel(None);
        let mut deadline = Deadline::new(deadline);
        deadline.passed_or(at(1)).await;
        assert_eq!((start.elapsed().as_secs(), deadline.has_passed()), (1, false));
        tokio::join!(deadline.passed_or(at(50)), async {
            tokio::time::sleep_until(at(2)).await;
            mover.send_replace(Some(at(5)));
        });
        assert_eq!((start.elapsed().as_secs(), deadline.has_passed()), (5, true));
        mover.send_replace(Some(at(9)));
        drop(mover);
        deadline.passed_or(at(50)).await;
        assert_eq!(start.elapsed().as_secs(), 9);
    }
}
