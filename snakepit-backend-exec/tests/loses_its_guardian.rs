//! The guardian dies, hangs, or loses a keeper: it is noticed, nothing is left, and the next launch works.

mod common;

use std::{sync::Arc, time::Duration};

use common::{LONG, Launched, eventually, launch, launch_with, settings, spec};
use snakepit_backend_exec::ExecLauncher;
use snakepit_core::{
    launch::Launcher,
    process::{EndStep, ExitOutcome},
};
use tokio::time::{Instant, timeout};

at_every_level!();

/// How it ended, where the kernel tells of what somebody else reaped (Linux 6.15).
fn was_killed(outcome: ExitOutcome) -> bool {
    matches!(
        outcome,
        ExitOutcome::Signaled { signal: 9, .. } | ExitOutcome::Unknown
    )
}

/// A shared namespace goes down with its guardian, and what the kernel is just taking down has no environment any more: it is not
/// seen by a sweep, and may be there a moment longer than what is.
async fn nobody_is_left(launched: &Launched) {
    eventually("nobody is left", || launched.survivors().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_death_is_noticed_at_once_and_the_next_launch_starts_another() {
    let launcher = ExecLauncher::new(settings());
    let mut crowd = Vec::new();
    for line in [
        "waits.py",
        "setsid_daemon.py ignore detached",
        "same_group_child.py",
    ] {
        crowd.push(launch_with(&launcher, &spec(line)).await);
    }
    let guardian = crowd[0].guardian();
    guardian.signal(9).unwrap();
    let begun = Instant::now();
    for launched in &crowd {
        let outcome = timeout(LONG, launched.process().exited()).await.unwrap();
        assert!(was_killed(outcome), "{outcome}");
    }
    // Far less than what a hanging one would take.
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    for launched in &crowd {
        let report = timeout(LONG, launched.process().end(LONG)).await.unwrap();
        assert!(report.is_complete(), "{report:?}");
        assert_eq!(report.step, EndStep::Kill);
        nobody_is_left(launched).await;
        let again = launched.process().end(Duration::ZERO).await;
        assert_eq!(format!("{again:?}"), format!("{report:?}"));
    }
    let next = launch_with(&launcher, &spec("waits.py")).await;
    assert_ne!(next.guardian().pid(), guardian.pid());
    assert_eq!(next.process().end(LONG).await.step, EndStep::Term);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_stopped_is_killed_and_everything_with_it() {
    let settings = settings()
        .with_ping_interval(Duration::from_millis(20))
        .with_stuck_after(Duration::from_millis(200));
    let launcher = ExecLauncher::new(settings);
    let launched = launch_with(&launcher, &spec("setsid_daemon.py ignore")).await;
    let guardian = launched.guardian();
    guardian.signal(19).unwrap();
    timeout(LONG, guardian.exited()).await.unwrap().unwrap();
    let report = timeout(LONG, launched.process().end(LONG)).await.unwrap();
    assert!(report.is_complete(), "{report:?}");
    nobody_is_left(&launched).await;
    let next = launch_with(&launcher, &spec("waits.py")).await;
    next.process().end(LONG).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launch_finds_out_that_it_hangs_and_gets_another() {
    // The next guardian has the same time, which is to be enough for it on a busy machine too: once is long enough.
    if common::is_run_for_a_level() {
        return;
    }
    let settings = settings().with_request_deadline(Duration::from_secs(3));
    let launcher = ExecLauncher::new(settings);
    let first = launch_with(&launcher, &spec("ignores_sigterm.py")).await;
    first.guardian().signal(19).unwrap();
    let second = launch_with(&launcher, &spec("waits.py")).await;
    assert!(was_killed(first.process().exited().await));
    assert!(second.process().end(LONG).await.is_complete());
    nobody_is_left(&first).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guardian_and_its_keepers_that_are_all_stopped_lose_to_the_host() {
    let settings = settings()
        .with_ping_interval(Duration::from_millis(20))
        .with_stuck_after(Duration::from_millis(100));
    let launched = launch_with(
        &ExecLauncher::new(settings),
        &spec("setsid_daemon.py ignore detached"),
    )
    .await;
    launched.keeper().signal(19).unwrap();
    launched.guardian().signal(19).unwrap();
    let report = timeout(LONG, launched.process().end(LONG)).await.unwrap();
    assert!(report.is_complete(), "{report:?}");
    nobody_is_left(&launched).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guardian_and_its_keepers_that_are_all_killed_leave_nothing() {
    for keeper_first in [true, false] {
        let launched = launch("setsid_daemon.py ignore detached").await;
        let mut victims = [launched.keeper(), launched.guardian()];
        if !keeper_first {
            victims.reverse();
        }
        for victim in &victims {
            // The keeper may be gone with the guardian.
            let _ = victim.signal(9);
        }
        let report = timeout(LONG, launched.process().end(LONG)).await.unwrap();
        assert!(report.is_complete(), "{report:?}");
        nobody_is_left(&launched).await;
    }
}

#[tokio::test]
async fn a_keeper_that_is_killed_takes_its_tree_along_and_nobody_elses() {
    let launcher = ExecLauncher::new(settings());
    let other = launch_with(&launcher, &spec("waits.py")).await;
    let launched = launch_with(&launcher, &spec("setsid_daemon.py ignore detached")).await;
    launched.keeper().signal(9).unwrap();
    let outcome = timeout(LONG, launched.process().exited()).await.unwrap();
    assert!(was_killed(outcome), "{outcome}");
    let report = timeout(LONG, launched.process().end(LONG)).await.unwrap();
    assert!(report.is_complete(), "{report:?}");
    eventually("nobody is left", || launched.survivors().is_empty()).await;
    assert_eq!(other.process().try_exited(), None);
    assert_eq!(other.process().end(LONG).await.step, EndStep::Term);
}

#[tokio::test]
async fn a_process_at_its_gate_is_lost_with_it() {
    let launcher = ExecLauncher::new(settings());
    let process = launcher.launch(&spec("waits.py")).await.unwrap();
    let guardian = snakepit_core::process::Pidfd::open(launcher.guardian_pid().unwrap()).unwrap();
    guardian.signal(9).unwrap();
    let error = timeout(LONG, process.open_gate()).await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "cannot open the gate");
    let report = timeout(LONG, process.end(LONG)).await.unwrap();
    assert!(report.is_complete(), "{report:?}");
    assert!(!process.identity().is_alive().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn launches_in_the_midst_of_its_deaths_end_well_or_with_an_error_and_leave_nothing() {
    let launcher = ExecLauncher::new(settings());
    launcher.ready().await.unwrap();
    let mut done = Vec::new();
    for _ in 0..10 {
        let launching: Vec<_> = (0..8)
            .map(|_| {
                let launcher = launcher.clone();
                tokio::spawn(async move {
                    let process = launcher.launch(&spec("waits.py")).await?;
                    process.open_gate().await?;
                    Ok::<_, snakepit_core::launch::LaunchError>(process)
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(1)).await;
        if let Some(pid) = launcher.guardian_pid()
            && let Ok(guardian) = snakepit_core::process::Pidfd::open(pid)
        {
            // It may be reaped by now.
            let _ = guardian.signal(9);
        }
        for one in launching {
            if let Ok(process) = timeout(LONG, one).await.unwrap().unwrap() {
                done.push(process);
            }
        }
    }
    for process in done {
        let report = timeout(LONG, process.end(Duration::ZERO)).await.unwrap();
        assert!(report.is_complete(), "{report:?}");
        assert!(!process.identity().is_alive().unwrap());
    }
}

#[tokio::test]
async fn shutting_down_proves_that_nothing_is_left() {
    let launcher = ExecLauncher::new(settings());
    let obedient = launch_with(&launcher, &spec("waits.py")).await;
    let stubborn = launch_with(&launcher, &spec("setsid_daemon.py ignore")).await;
    let guardian = obedient.guardian();
    let shutdown = timeout(LONG, launcher.shutdown(Duration::from_millis(200)))
        .await
        .unwrap();
    assert!(shutdown.remaining.is_empty(), "{shutdown:?}");
    assert!(guardian.has_exited());
    assert!(obedient.survivors().is_empty() && stubborn.survivors().is_empty());
    // Its reports are there, and it can be used again.
    assert_eq!(obedient.process().end(LONG).await.step, EndStep::Term);
    let again = launch_with(&launcher, &spec("waits.py")).await;
    again.process().end(LONG).await;
    assert!(launcher.shutdown(LONG).await.remaining.is_empty());
    assert!(launcher.shutdown(LONG).await.took < LONG);
}

#[tokio::test]
async fn it_leaves_with_the_last_handle() {
    let launcher = ExecLauncher::new(settings());
    let mut launched = launch_with(&launcher, &spec("waits.py")).await;
    let guardian = launched.guardian();
    drop(launcher);
    launched.launcher = ExecLauncher::new(settings());
    assert!(!guardian.has_exited());
    launched.process().end(LONG).await;
    assert!(!guardian.has_exited());
    let process = launched.process.take().unwrap();
    assert_eq!(Arc::strong_count(&process), 1);
    drop(process);
    timeout(LONG, guardian.exited()).await.unwrap().unwrap();
}
