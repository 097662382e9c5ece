//! Launches and open gates that are given up at any point.

mod common;

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll},
    time::Duration,
};

use common::{eventually, settings, spec};
use snakepit_backend_exec::ExecLauncher;
use snakepit_core::{
    launch::Launcher,
    process::{
        Pidfd, descendants,
        sweep::{SweepQuery, SweepTarget, sweep},
    },
};

at_every_level!();

/// What the guardian has below it beside what was made ahead: a keeper that has a worker, or makes one. `None` while not all of that
/// is there.
fn below(launcher: &ExecLauncher) -> Option<usize> {
    let guardian = Pidfd::open(launcher.guardian_pid().expect("it lives")).expect("it lives");
    // One that ends in the midst of being looked at makes the look fail.
    let all = descendants(&guardian).ok()?.len();
    all.checked_sub(common::processes_made_ahead())
}

/// Polls a future so many times, waiting to be woken in between; `None` when it was not done by then.
async fn polled<F: Future>(times: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = times;
    std::future::poll_fn(|context: &mut Context<'_>| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launch_that_is_given_up_at_any_point_leaves_nothing() {
    // With a guardian to be started first, and with one that is there.
    for ready in [false, true] {
        let launcher = ExecLauncher::new(settings());
        if ready {
            launcher.ready().await.unwrap();
        }
        for times in 0.. {
            let spec = spec("ignores_sigterm.py");
            let target = SweepTarget::Worker {
                run_id: spec.run_id,
                worker_id: spec.worker_id,
            };
            let outcome = polled(times, launcher.launch(&spec)).await;
            let done = outcome.is_some();
            if let Some(process) = outcome {
                drop(process.expect("it starts"));
            }
            if launcher.guardian_pid().is_some() {
                eventually("no keeper is left", || below(&launcher) == Some(0)).await;
            }
            let found = sweep(SweepQuery::new(target)).await.unwrap();
            assert!(found.members.is_empty(), "{times}: {found:?}");
            if done {
                assert!(times >= 1, "{times}");
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_gate_that_nobody_waits_for_leaves_nothing_after_the_end() {
    let launcher = ExecLauncher::new(settings());
    for times in 0..4 {
        let process = launcher.launch(&spec("ignores_sigterm.py")).await.unwrap();
        let _ = polled(times, process.open_gate()).await;
        let report = process.end(Duration::ZERO).await;
        assert!(report.is_complete(), "{report:?}");
        assert!(times > 0 || process.open_gate().await.is_err());
        eventually("no keeper is left", || below(&launcher) == Some(0)).await;
    }
}
