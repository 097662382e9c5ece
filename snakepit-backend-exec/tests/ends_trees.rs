//! Ending a worker ends everything it started, with no more force than needed.

mod common;

use std::time::Duration;

use common::{LONG, eventually, launch};
use snakepit_core::process::{
    EndReport, EndStep, ExitOutcome,
    sweep::{SweepQuery, SweepTarget, sweep},
};
use tokio::time::Instant;

at_every_level!();

const SIGTERM: ExitOutcome = signaled(15);
const SIGKILL: ExitOutcome = signaled(9);
const SHORT: Duration = Duration::from_millis(200);

const fn signaled(signal: i32) -> ExitOutcome {
    ExitOutcome::Signaled {
        signal,
        core_dumped: false,
    }
}

#[track_caller]
fn check(report: &EndReport, step: EndStep, outcome: ExitOutcome, swept: u32) {
    assert_eq!(
        (report.step, report.outcome, report.swept),
        (step, outcome, swept),
        "{report:?}"
    );
    assert!(report.remaining.is_empty(), "{report:?}");
}

#[tokio::test]
async fn sigterm_is_enough_for_an_obedient_process() {
    let launched = launch("waits.py").await;
    let report = launched.process().end(LONG).await;
    check(&report, EndStep::Term, SIGTERM, 0);
    assert!(launched.survivors().is_empty());
}

#[tokio::test]
async fn the_grace_is_the_workers_to_use() {
    let launched = launch("exits_slowly.py").await;
    let report = launched.process().end(LONG).await;
    check(&report, EndStep::Term, ExitOutcome::Exited(3), 0);
    assert!(report.took >= Duration::from_millis(300), "{report:?}");
}

#[tokio::test]
async fn sigkill_ends_what_ignores_sigterm() {
    let launched = launch("ignores_sigterm.py").await;
    let report = launched.process().end(SHORT).await;
    check(&report, EndStep::Kill, SIGKILL, 0);
    assert!(report.took >= SHORT, "{report:?}");
    assert!(launched.survivors().is_empty());
}

#[tokio::test]
async fn no_grace_is_no_sigterm() {
    let launched = launch("exits_slowly.py").await;
    let report = launched.process().end(Duration::ZERO).await;
    check(&report, EndStep::Kill, SIGKILL, 0);
}

#[tokio::test]
async fn a_leader_that_leaves_does_not_save_a_member_that_stays() {
    let launched = launch("same_group_child.py").await;
    assert_eq!(launched.names(), ["leader", "member"]);
    let report = launched.process().end(SHORT).await;
    check(&report, EndStep::Kill, SIGTERM, 0);
    assert!(launched.survivors().is_empty());
}

#[tokio::test]
async fn grandchildren_in_the_group_end_with_it() {
    let launched = launch("forks_grandchild.py").await;
    assert_eq!(launched.names(), ["leader", "member", "member"]);
    let report = launched.process().end(LONG).await;
    check(&report, EndStep::Term, SIGTERM, 0);
    assert!(launched.survivors().is_empty());
}

#[tokio::test]
async fn an_orphaned_daemon_is_found_and_asked_first() {
    let launched = launch("setsid_daemon.py").await;
    assert_eq!(launched.names(), ["leader", "daemon"]);
    let report = launched.process().end(LONG).await;
    check(&report, EndStep::Term, SIGTERM, 1);
    assert!(launched.survivors().is_empty());
}

#[tokio::test]
async fn an_orphaned_daemon_that_ignores_sigterm_is_killed() {
    for line in ["setsid_daemon.py ignore", "setsid_daemon.py ignore detached"] {
        let launched = launch(line).await;
        let report = launched.process().end(SHORT).await;
        check(&report, EndStep::Kill, SIGTERM, 1);
        assert!(launched.survivors().is_empty(), "{line}");
    }
}

#[tokio::test]
async fn many_daemons_are_all_found() {
    let launched = launch("many_daemons.py 60").await;
    assert_eq!(launched.names().len(), 61);
    let report = launched.process().end(SHORT).await;
    check(&report, EndStep::Kill, SIGTERM, 60);
    assert!(launched.survivors().is_empty());
}

#[tokio::test]
async fn what_a_crashed_worker_left_is_ended_afterwards() {
    let launched = launch("setsid_daemon.py exit ignore").await;
    assert_eq!(launched.process().exited().await, ExitOutcome::Exited(9));
    assert!(launched.survivors().contains(&"daemon"));
    let report = launched.process().end(SHORT).await;
    check(&report, EndStep::Kill, ExitOutcome::Exited(9), 1);
    assert!(launched.survivors().is_empty());
}

#[tokio::test]
async fn a_member_that_outlives_the_leader_is_ended_afterwards() {
    let launched = launch("holds_stdout.py").await;
    assert_eq!(launched.process().exited().await, ExitOutcome::Exited(0));
    assert_eq!(launched.survivors(), ["member"]);
    let report = launched.process().end(LONG).await;
    check(&report, EndStep::Term, ExitOutcome::Exited(0), 0);
    assert!(launched.survivors().is_empty());
}

#[tokio::test]
async fn nothing_is_sent_when_nothing_is_left() {
    let launched = launch("exits_fast.py 4").await;
    assert_eq!(launched.process().exited().await, ExitOutcome::Exited(4));
    for grace in [LONG, Duration::ZERO] {
        let report = launched.process().end(grace).await;
        check(&report, EndStep::AlreadyGone, ExitOutcome::Exited(4), 0);
    }
}

#[tokio::test]
async fn nothing_is_left_of_one_that_ends_without_grace_after_its_exit() {
    let launched = launch("exits_fast.py 4").await;
    launched.process().exited().await;
    let report = launched.process().end(Duration::ZERO).await;
    check(&report, EndStep::AlreadyGone, ExitOutcome::Exited(4), 0);
}

#[tokio::test]
async fn a_child_in_its_own_session_is_found_by_its_parent() {
    let launched = launch("setsid_child.py").await;
    let report = launched.process().end(SHORT).await;
    check(&report, EndStep::Kill, SIGTERM, 1);
    assert!(launched.survivors().is_empty());
}

#[tokio::test]
async fn a_stopped_process_gets_its_sigterm() {
    let launched = launch("stops_itself.py").await;
    let pid = launched.process().identity().pid;
    eventually("it is stopped", || common::state(pid) == Some(b'T')).await;
    let report = launched.process().end(LONG).await;
    check(&report, EndStep::Term, ExitOutcome::Exited(5), 0);
}

#[tokio::test]
async fn a_process_that_closed_all_its_descriptors_is_ended() {
    let launched = launch("closes_all_fds.py").await;
    assert_eq!(launched.process().try_exited(), None);
    let report = launched.process().end(LONG).await;
    check(&report, EndStep::Term, SIGTERM, 0);
}

#[tokio::test]
async fn a_chain_of_forks_that_runs_away_is_caught() {
    let spec = common::spec("forks_in_a_chain.py");
    let target = SweepTarget::Worker {
        run_id: spec.run_id,
        worker_id: spec.worker_id,
    };
    let launched = common::launch_spec(&spec).await;
    let report = launched.process().end(SHORT).await;
    assert_eq!(
        (report.step, report.outcome),
        (EndStep::Kill, SIGKILL),
        "{report:?}"
    );
    assert!(report.remaining.is_empty(), "{report:?}");
    assert!(report.swept > 0, "{report:?}");
    for _ in 0..50 {
        let found = sweep(SweepQuery::new(target)).await.unwrap();
        assert!(found.members.is_empty() && found.fleeting == 0, "{found:?}");
    }
}

#[tokio::test]
async fn concurrent_and_repeated_ends_agree_and_the_shorter_grace_wins() {
    let launched = launch("ignores_sigterm.py").await;
    let process = launched.process();
    let begun = Instant::now();
    let (first, second) = tokio::join!(process.end(LONG), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        process.end(SHORT).await
    });
    assert!(begun.elapsed() < LONG / 2);
    check(&first, EndStep::Kill, SIGKILL, 0);
    for other in [second, process.end(LONG).await, process.end(Duration::ZERO).await] {
        assert_eq!(format!("{first:?}"), format!("{other:?}"));
    }
}

#[tokio::test]
async fn an_end_goes_on_when_nobody_waits_for_it() {
    let mut launched = launch("same_group_child.py").await;
    let waiting = launched.process().end(SHORT);
    assert!(
        tokio::time::timeout(Duration::from_millis(20), waiting)
            .await
            .is_err()
    );
    // Also without a handle: the grace was asked for, and is kept.
    drop(launched.process.take());
    assert!(launched.survivors().contains(&"member"));
    eventually("nobody is left", || launched.survivors().is_empty()).await;
}

#[tokio::test]
async fn an_endless_grace_is_no_overflow() {
    let launched = launch("waits.py").await;
    let report = launched.process().end(Duration::MAX).await;
    check(&report, EndStep::Term, SIGTERM, 0);
}
