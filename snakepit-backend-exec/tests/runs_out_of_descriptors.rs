//! Without descriptors nothing is half-done. Alone in its file: the limit holds for the whole program.

mod common;

use std::time::Duration;

use common::{LONG, launch_with, settings, spec};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use snakepit_backend_exec::ExecLauncher;
use snakepit_core::{
    launch::{LaunchError, Launcher},
    process::{
        EndStep, Pidfd, descendants,
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
async fn a_launch_fails_clean_and_an_end_needs_no_descriptors() {
    let normal = getrlimit(Resource::Nofile).current.expect("a limit");
    let launcher = ExecLauncher::new(settings());
    launcher.ready().await.expect("there are descriptors");
    let held = launch_with(&launcher, &spec("same_group_child.py")).await;
    let guardian = launcher.guardian_pid();
    // Gaps below the highest number would be used first.
    let gaps = highest();
    let _plugs: Vec<_> = (0..gaps)
        .map(|_| std::fs::File::open("/dev/null").expect("it opens"))
        .collect();
    let mut failures = 0;
    for more in 0..24 {
        let spec = spec("waits.py");
        allow(more);
        let launched = launcher.launch(&spec).await;
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
    assert!((6..24).contains(&failures), "{failures}");
    // It was not taken for one that talks nonsense when its descriptors did not arrive.
    assert_eq!(launcher.guardian_pid(), guardian);

    allow(0);
    let report = held.process().end(Duration::from_millis(100)).await;
    set(normal);
    assert_eq!(report.step, EndStep::Kill, "{report:?}");
    assert!(held.survivors().is_empty());
    common::eventually("only what was made ahead of the next worker is left", || {
        let guardian = Pidfd::open(guardian.expect("it lives")).expect("it lives");
        descendants(&guardian).is_ok_and(|all| all.len() == common::processes_made_ahead())
    })
    .await;
}
