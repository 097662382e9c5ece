//! A worker's place among the other processes.

mod common;

use common::launch;
use snakepit_core::process::Stat;

at_every_level!();

#[tokio::test]
async fn it_leads_a_session_and_a_group_of_its_own_and_is_no_init() {
    let launched = launch("waits.py").await;
    let identity = launched.process().identity();
    let pid = identity.pid;
    let stat = Stat::read(pid).unwrap();
    assert_eq!([stat.pgrp, stat.session, identity.pgid], [pid; 3]);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let numbers = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))
        .unwrap();
    // The last is the one it knows itself by.
    let own: u32 = numbers.split_whitespace().last().unwrap().parse().unwrap();
    assert!(own > 1, "{numbers}");
    assert_eq!(own == pid, !common::level_has_namespace());
}
