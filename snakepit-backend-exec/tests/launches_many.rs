//! Many launches at a time, launches given up at any point, and the gate.

mod common;

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll},
    time::Duration,
};

use common::{LONG, eventually, settings, spec};
use snakepit_backend_exec::ExecLauncher;
use snakepit_core::{
    launch::{LaunchSpec, Launcher},
    process::{
        EndStep, Pidfd, descendants,
        sweep::{SweepQuery, SweepTarget, sweep},
    },
};

at_every_level!();

/// What the guardian has below it, the first process of a shared namespace and the keeper that waits for the next worker
/// left out: another keeper has a worker, or makes one. `None` while they are not there.
fn below(launcher: &ExecLauncher) -> Option<usize> {
    let guardian = Pidfd::open(launcher.guardian_pid().expect("it lives")).expect("it lives");
    // One that ends in the midst of being looked at makes the look fail.
    let all = descendants(&guardian).ok()?.len();
    all.checked_sub(1 + usize::from(common::level() == "shared"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_at_a_time_start_and_end() {
    let launcher = ExecLauncher::new(settings());
    let launching: Vec<_> = (0..100)
        .map(|_| {
            let launcher = launcher.clone();
            tokio::spawn(async move {
                let spec = LaunchSpec {
                    program: "sleep".into(),
                    args: vec!["600".into()],
                    ..spec("waits.py")
                };
                let process = launcher.launch(&spec).await.expect("it starts");
                process.open_gate().await.expect("it executes");
                process
            })
        })
        .collect();
    let mut crowd = Vec::new();
    for one in launching {
        crowd.push(one.await.unwrap());
    }
    eventually("each has its keeper", || below(&launcher) == Some(200)).await;
    let ending: Vec<_> = crowd
        .into_iter()
        .map(|process| tokio::spawn(async move { process.end(LONG).await }))
        .collect();
    for one in ending {
        let report = one.await.unwrap();
        assert_eq!((report.step, report.swept), (EndStep::Term, 0), "{report:?}");
    }
    eventually("no keeper is left", || below(&launcher) == Some(0)).await;
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
        eventually("no keeper is left", || below(&launcher) == Some(0)).await;
    }
}

#[tokio::test]
async fn the_gate_holds_until_it_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let made = dir.path().join("made");
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let launcher = ExecLauncher::new(settings());
    let spec = LaunchSpec {
        program: "touch".into(),
        args: vec![made.clone().into()],
        ..spec("waits.py")
    };
    let process = launcher.launch(&spec).await.unwrap();
    let name = || std::fs::read_to_string(format!("/proc/{}/comm", process.identity().pid)).unwrap();
    assert_ne!(name().trim(), "touch");
    let exited = tokio::time::timeout(Duration::from_millis(100), process.exited()).await;
    assert!(exited.is_err() && !made.exists());
    // A shared guardian goes on meanwhile.
    let other = launcher.launch(&common::spec("waits.py")).await.unwrap();
    other.open_gate().await.unwrap();
    other.end(LONG).await;
    assert!(!made.exists() && process.try_exited().is_none());
    process.open_gate().await.unwrap();
    assert!(process.exited().await.is_success());
    assert!(made.exists());
    process.open_gate().await.unwrap();
    assert_eq!(process.end(LONG).await.step, EndStep::AlreadyGone);
}

#[tokio::test]
async fn a_process_that_is_ended_at_its_gate_never_executes() {
    let dir = tempfile::tempdir().unwrap();
    let made = dir.path().join("made");
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    for grace in [Duration::ZERO, LONG] {
        let launcher = ExecLauncher::new(settings());
        let spec = LaunchSpec {
            program: "touch".into(),
            args: vec![made.clone().into()],
            ..spec("waits.py")
        };
        let process = launcher.launch(&spec).await.unwrap();
        let report = process.end(grace).await;
        assert!(report.is_complete(), "{report:?}");
        assert!(process.open_gate().await.is_err());
        assert!(!made.exists());
    }
}
