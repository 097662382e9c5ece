//! A host that reaps whatever it finds does no harm. Alone in its file: such a reaper takes all children.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{LONG, launch_with, settings, spec};
use rustix::process::{WaitOptions, wait};
use snakepit_backend_exec::ExecLauncher;
use snakepit_core::process::{EndStep, ExitOutcome};

#[tokio::test]
async fn a_greedy_reaper_in_the_host_takes_at_most_the_guardian() {
    let running = Arc::new(());
    let watch = Arc::downgrade(&running);
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&taken);
    let greedy = std::thread::spawn(move || {
        while watch.strong_count() > 0 {
            match wait(WaitOptions::NOHANG) {
                Ok(Some(_)) => drop(counted.fetch_add(1, Ordering::Relaxed)),
                _ => std::thread::sleep(Duration::from_micros(50)),
            }
        }
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
    // Until it was the first once, which on a busy machine takes its time.
    for round in 0.. {
        if round >= 5 && taken.load(Ordering::Relaxed) > 0 {
            break;
        }
        assert!(round < 200, "it had its chances");
        let launched = launch_with(&launcher, &spec("same_group_child.py")).await;
        launched.guardian().signal(9).expect("it lives");
        assert!(launched.process().end(LONG).await.is_complete());
        assert!(launched.survivors().is_empty());
    }
    drop(running);
    greedy.join().expect("no panic");
}
