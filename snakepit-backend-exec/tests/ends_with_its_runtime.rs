//! A runtime that is shut down takes its processes along.

mod common;

use std::time::Duration;

use common::{LONG, eventually, launch};

at_every_level!();

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
        eventually("the leader obeys", || launched.survivors() == ["member"]).await;
        launched
    });
    drop(runtime);
    assert!(nobody_is_left(&launched));
}
