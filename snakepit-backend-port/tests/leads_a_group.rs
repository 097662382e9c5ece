//! A worker's process group, by which its tree is ended.

mod common;

use std::time::Duration;

use common::launch;
use snakepit_core::process::{EndStep, ExitOutcome, Stat};

#[tokio::test]
async fn it_leads_a_group_of_its_own_in_the_hosts_session() {
    let launched = launch("waits.py").await;
    let identity = launched.process().identity();
    let stat = Stat::read(identity.pid).unwrap();
    assert_eq!([stat.pgrp, identity.pgid], [identity.pid; 2]);
    assert_eq!(stat.session, Stat::read(std::process::id()).unwrap().session);
}

#[tokio::test]
async fn a_leader_that_left_its_group_is_ended() {
    let launched = launch("leaves_its_group.py").await;
    let report = launched.process().end(Duration::from_millis(200)).await;
    let signal = matches!(report.outcome, ExitOutcome::Signaled { signal: 9, .. });
    assert!(signal && report.step == EndStep::Kill, "{report:?}");
    assert_eq!(report.swept, 1, "{report:?}");
    assert!(report.remaining.is_empty() && launched.survivors().is_empty());
}
