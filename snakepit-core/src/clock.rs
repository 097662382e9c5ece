//! Times that may have no end.

use std::time::Duration;

use tokio::time::Instant;

/// Further away than anybody waits, and near enough for a clock to add.
const NEVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The time after this wait; a year from now for one that a clock cannot add.
pub(crate) fn after(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or_else(|| now + NEVER)
}
