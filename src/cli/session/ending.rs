//! Waiting for what a start leaves to the background when it is given up.

use std::time::Duration;

use snakepit::registry::{Registry, Settings};
use tokio::time::{sleep, timeout};

use crate::cli::cleanup::OWN_APP;

/// How long it may take: the grace of a worker is 5 s, and a disk may take as long again.
const BOUND: Duration = Duration::from_secs(15);
/// Between two looks. Nobody is told when a registry closes.
const PAUSE: Duration = Duration::from_millis(2);

/// Where the pools of this command are recorded.
pub(super) fn settings() -> Settings {
    Settings::new().with_app(OWN_APP)
}

/// Returns when the pool whose start was dropped has ended and its record is closed.
pub(super) async fn of_a_dropped_start() {
    let settings = settings();
    let closed = async {
        while Registry::is_open(&settings) {
            sleep(PAUSE).await;
        }
    };
    // What is left by then is found by the next cleanup.
    let _ = timeout(BOUND, closed).await;
}
