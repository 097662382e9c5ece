//! A host that reaps whatever it finds does no harm. Alone in its file: such a reaper takes all children.

mod common;

use std::{sync::Arc, time::Duration};

use common::{LONG, launch_with, settings, spec};
use rustix::process::{WaitOptions, wait};
use snakepit_backend_exec::ExecLauncher;
use snakepit_core::process::{EndStep, ExitOutcome};

#[tokio::test]
async fn a_greedy_reaper_in_the_host_takes_at_most_the_guardian() {
    let running = Arc::new(());
    let watch = Arc::downgrade(&running);
    let greedy = std::thread::spawn(move || {
        let mut taken = 0;
        while watch.strong_count() > 0 {
            match wait(WaitOptions::NOHANG) {
                Ok(Some(_)) => taken += 1,
                _ => std::thread::sleep(Duration::from_micros(50)),
            }
        }
        taken
    });
    let launcher = ExecLauncher::new(settings());
    for code in 0..20 {
        let launched = launch_with(&launcher, &spec(&format!("exits_fast.py {code}"))).await;
        let outcome = launched.process().exited().await;
        // Workers are not children of the host, so that their status cannot be taken.
        assert_eq!(outcome, ExitOutcome::Exited(code));
        let report = launched.process().end(LONG).await;
        assert_eq!((report.step, report.outcome), (EndStep::AlreadyGone, outcome));
    }
    for _ in 0..5 {
        let launched = launch_with(&launcher, &spec("same_group_child.py")).await;
        launched.guardian().signal(9).expect("it lives");
        assert!(launched.process().end(LONG).await.is_complete());
        assert!(launched.survivors().is_empty());
    }
    drop(running);
    assert!(greedy.join().expect("no panic") > 0, "it had its chances");
}
