//! Whatever is dropped, no process stays.

use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll, time::Duration};

use crate::conformance::{
    evidence::{Finding, ensure},
    ground::Ground,
    marks::STUBBORN,
};

/// How often a launch may have to be polled.
const MOST_POLLS: u32 = 100;

/// Pauses between the last poll and the drop: what goes on beside the future has come to another point each time.
const PAUSES: [u64; 5] = [0, 100, 400, 1_000, 3_000];

pub(super) async fn last_handle(ground: Arc<Ground>) -> Finding {
    let (launched, family) = ground.launch_family().await?;
    let second = Arc::clone(&launched.process);
    drop(launched);
    let ended: Vec<_> = family.iter().filter(|member| member.pidfd.has_exited()).collect();
    ensure!(
        ended.is_empty() && second.try_exited().is_none(),
        "a handle is left, and gone are {ended:?}"
    );
    drop(second);
    ground
        .becomes_only("scrubbed", "the last handle was dropped")
        .await
}

pub(super) async fn dropped_launch(ground: Arc<Ground>) -> Finding {
    let mut specs = Vec::new();
    for pause in PAUSES {
        for polls in 0..=MOST_POLLS {
            ensure!(polls < MOST_POLLS, "a launch is polled without end");
            let spec = ground.spec(&ground.staying(STUBBORN));
            let launched = drop_after(&ground, &spec, polls, pause).await;
            specs.push(spec);
            if launched {
                break;
            }
        }
    }
    for spec in &specs {
        ground.leaves_no_worker(spec, "a launch that was dropped").await?;
    }
    ground.becomes_empty("launches that were dropped").await
}

/// Polls a launch that often and drops it; whether it was through before, and its process dropped.
async fn drop_after(ground: &Ground, spec: &crate::launch::LaunchSpec, polls: u32, pause: u64) -> bool {
    let mut launching = pin!(ground.launcher.launch(spec));
    let mut left = polls;
    let through = poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(false);
        }
        left -= 1;
        match launching.as_mut().poll(context) {
            Poll::Ready(_) => Poll::Ready(true),
            Poll::Pending if left == 0 => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    if !through {
        tokio::time::sleep(Duration::from_micros(pause)).await;
    }
    through
}
