//! Whatever is dropped, no process stays.

mod common;

use std::{sync::Arc, time::Duration};

use common::{LONG, eventually, launch, spec};
use snakepit_backend_exec::ExecLauncher;
use snakepit_core::{
    launch::Launcher,
    process::sweep::{SweepQuery, SweepTarget, sweep},
};

at_every_level!();

#[tokio::test(flavor = "multi_thread")]
async fn a_launch_that_is_dropped_leaves_no_process() {
    let mut workers = Vec::new();
    for n in 0..40_u32 {
        let spec = spec("ignores_sigterm.py");
        workers.push((spec.run_id, spec.worker_id));
        let launcher = ExecLauncher::new(common::settings());
        let launching = launcher.launch(&spec);
        // From before the process exists to after it was handed over.
        let _ = tokio::time::timeout(Duration::from_micros(u64::from(n) * 25), launching).await;
    }
    for (run_id, worker_id) in workers {
        let target = SweepTarget::Worker { run_id, worker_id };
        let looking = async {
            loop {
                if sweep(SweepQuery::new(target))
                    .await
                    .expect("/proc is readable")
                    .members
                    .is_empty()
                {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        assert!(tokio::time::timeout(LONG, looking).await.is_ok(), "{worker_id}");
    }
}

#[tokio::test]
async fn dropping_the_last_handle_kills_the_tree() {
    for line in [
        "same_group_child.py",
        "setsid_child.py",
        "setsid_daemon.py ignore",
        "stops_itself.py",
    ] {
        let mut launched = launch(line).await;
        let process = launched.process.take().unwrap();
        let second = Arc::clone(&process);
        drop(process);
        assert_eq!(launched.survivors(), launched.names(), "{line}: a handle is left");
        drop(second);
        eventually(line, || launched.survivors().is_empty()).await;
    }
}

/// Waits without a runtime.
fn nobody_is_left(launched: &common::Launched) -> bool {
    (0..10_000).any(|_| {
        std::thread::sleep(Duration::from_millis(1));
        launched.survivors().is_empty()
    })
}

#[test]
fn a_handle_dropped_after_its_runtime_kills_the_tree() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut launched = runtime.block_on(launch("setsid_child.py"));
    let process = launched.process.take().unwrap();
    drop(runtime);
    // With the runtime the guardian was told to leave.
    assert!(nobody_is_left(&launched));
    assert_eq!(process.try_exited(), None);
    // Another runtime sees to what is not confirmed yet.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let report = runtime.block_on(process.end(LONG));
    assert!(report.is_complete(), "{report:?}");
}

#[test]
fn a_runtime_that_shuts_down_in_an_end_kills_the_tree() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let launched = runtime.block_on(async {
        let launched = launch("same_group_child.py").await;
        let ending = launched.process().end(LONG);
        assert!(
            tokio::time::timeout(Duration::from_millis(20), ending)
                .await
                .is_err()
        );
        launched
    });
    // It goes on beside the runtime's other tasks: the leader obeys, the member does not.
    let only_member = || launched.survivors() == ["member"];
    runtime.block_on(eventually("the leader ends", only_member));
    drop(runtime);
    assert!(nobody_is_left(&launched));
}
