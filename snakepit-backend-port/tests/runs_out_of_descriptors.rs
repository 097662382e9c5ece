//! Without descriptors nothing is half-done. Alone in its file: the limit holds for the whole program.

mod common;

use std::time::Duration;

use common::{LONG, launch, spec};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use snakepit_backend_port::PortLauncher;
use snakepit_core::{
    launch::{LaunchError, Launcher},
    process::{
        EndStep,
        sweep::{SweepQuery, SweepTarget, sweep},
    },
};

/// Allows so many descriptors more than there are.
fn allow(more: u64) {
    set(highest() + more);
}

/// The highest number in use: the limit is about numbers. Reading the directory needs one itself.
fn highest() -> u64 {
    let entries = std::fs::read_dir("/proc/self/fd").expect("/proc");
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u64>().ok())
        .max()
        .expect("some are open")
}

fn set(limit: u64) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: Some(limit),
        maximum,
    };
    setrlimit(Resource::Nofile, limit).expect("a soft limit below the hard one");
}

#[tokio::test]
async fn a_launch_fails_clean_and_an_end_waits_for_descriptors() {
    let normal = getrlimit(Resource::Nofile).current.expect("a limit");
    // Gaps below the highest number would be used first.
    let gaps = highest();
    let _plugs: Vec<_> = (0..gaps)
        .map(|_| std::fs::File::open("/dev/null").expect("it opens"))
        .collect();
    let mut failures = 0;
    for more in 0..14 {
        let spec = spec("waits.py");
        allow(more);
        let launched = PortLauncher::new().launch(&spec).await;
        set(normal);
        match launched {
            Ok(process) => drop(process.end(LONG).await),
            Err(error) => {
                assert!(matches!(error, LaunchError::Os { .. }), "{more}: {error:?}");
                failures += 1;
            }
        }
        let target = SweepTarget::Worker {
            run_id: spec.run_id,
            worker_id: spec.worker_id,
        };
        let found = sweep(SweepQuery::new(target))
            .await
            .expect("there are descriptors");
        assert!(found.members.is_empty(), "{more}: {found:?}");
    }
    assert!((3..14).contains(&failures), "{failures}");

    let launched = launch("waits.py").await;
    allow(0);
    let process = launched.process.clone().expect("not dropped");
    let ending = tokio::spawn(async move { process.end(LONG).await });
    // It ends, and that nothing else is left cannot be seen.
    launched.process().exited().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let early = ending.is_finished();
    set(normal);
    assert!(!early, "confirmed without looking");
    let report = ending.await.expect("no panic");
    assert_eq!(report.step, EndStep::Term, "{report:?}");
}
