//! A host that reaps whatever it finds does no harm. Alone in its file: such a reaper takes all children.

mod common;

use std::{sync::Arc, time::Duration};

use common::{LONG, launch};
use rustix::process::{WaitOptions, wait};
use snakepit_core::process::{EndStep, ExitOutcome};

#[tokio::test]
async fn a_greedy_reaper_in_the_host_takes_nothing_from_us() {
    let running = Arc::new(());
    let watch = Arc::downgrade(&running);
    let greedy = std::thread::spawn(move || {
        let mut taken = 0;
        while watch.strong_count() > 0 {
            match wait(WaitOptions::NOHANG) {
                Ok(Some(_)) => taken += 1,
                _ => std::thread::yield_now(),
            }
        }
        taken
    });
    for code in 0..40 {
        let launched = launch(&format!("exits_fast.py {code}")).await;
        let outcome = launched.process().exited().await;
        // Before Linux 6.15 the status is lost with the zombie.
        assert!(
            matches!(outcome, ExitOutcome::Exited(seen) if seen == code) || outcome == ExitOutcome::Unknown,
            "{outcome:?}"
        );
        let report = launched.process().end(LONG).await;
        assert_eq!((report.step, report.outcome), (EndStep::AlreadyGone, outcome));
    }
    let launched = launch("same_group_child.py").await;
    let report = launched.process().end(Duration::from_millis(50)).await;
    assert_eq!(report.step, EndStep::Kill);
    assert!(launched.survivors().is_empty());
    drop(running);
    assert!(greedy.join().expect("no panic") > 0, "it had its chances");
}
