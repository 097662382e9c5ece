//! A runtime that is shut down takes its processes along.

mod common;

use std::time::Duration;

use common::{LONG, eventually, launch};

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
    // The task that looked after it went with the runtime, and did not leave it alone.
    assert!(!launched.survivors().contains(&"leader"));
    assert!(nobody_is_left(&launched));
    assert_eq!(process.try_exited(), None);
    drop(process);
    assert!(launched.survivors().is_empty());
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
