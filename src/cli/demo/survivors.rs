//! Looks for processes of this run. The run's id stands in the environment of everything a pool starts.

use std::{fs, thread, time::Duration};

use snakepit::core::RunId;
use tokio::time::Instant;

/// How long the exec backend's guardian may take to leave once nobody needs it; it takes some milliseconds.
const LEAVES: Duration = Duration::from_secs(2);

/// How many live processes are left that carry this run's id. Blocks until there is none, for a bounded time: the workers have
/// ended by now, a guardian is about to leave.
pub(super) fn wait_for_none() -> usize {
    let began = Instant::now();
    loop {
        let left = count();
        if left == 0 || began.elapsed() > LEAVES {
            return left;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// How many live processes carry this run's id. A process that has ended has no environment any more.
pub(super) fn count() -> usize {
    let mark = format!("={}\0", RunId::current());
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            entry
                .file_name()
                .as_encoded_bytes()
                .iter()
                .all(u8::is_ascii_digit)
        })
        .filter_map(|entry| fs::read(entry.path().join("environ")).ok())
        .filter(|environment| contains(environment, mark.as_bytes()))
        .count()
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
