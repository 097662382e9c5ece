//! Which level is in force, and that it is the one that was asked for or none.

mod common;

use std::error::Error;

use common::{is_root, settings, spec};
use snakepit_backend_exec::{ContainmentError, ExecLauncher, ExecSettings};
use snakepit_core::{
    launch::{LaunchError, Launcher},
    process::ContainmentLevel,
};

at_every_level!();

#[tokio::test]
async fn the_report_says_what_was_asked_for() {
    let launcher = ExecLauncher::new(settings());
    assert!(launcher.containment().is_none() && launcher.guardian_pid().is_none());
    let report = launcher.ready().await.unwrap();
    assert!(report.refused.is_empty(), "{report}");
    let (level, shared) = (common::level(), common::level() == "shared");
    let expected = if shared { "namespace" } else { &level };
    assert_eq!(report.level.name(), expected);
    assert_eq!(report.shared_namespace, shared);
    // Without privileges a namespace needs another one.
    assert_eq!(report.user_namespace, common::level_has_namespace() && !is_root());
    assert_eq!(launcher.containment().unwrap().to_string(), report.to_string());
    let process = launcher.launch(&spec("waits.py")).await.unwrap();
    let containment = process.containment();
    let expected = if shared {
        ContainmentLevel::Subreaper
    } else {
        report.level
    };
    assert_eq!(containment.level, expected);
    assert!(containment.keeper.unwrap().is_alive().unwrap());
    assert_eq!(
        containment.cgroup.is_some(),
        report.level == ContainmentLevel::Cgroup
    );
}

#[tokio::test]
async fn auto_takes_the_strongest_and_says_what_was_not_to_be_had() {
    let nowhere = ExecSettings::default().with_cgroup_parent("/proc");
    let report = ExecLauncher::new(nowhere.clone()).ready().await.unwrap();
    assert_eq!(report.level, ContainmentLevel::Namespace);
    assert!(report.refused.is_empty());
    let named = nowhere.with_containment(ContainmentLevel::Cgroup);
    let error = ExecLauncher::new(named.clone()).ready().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "containment level `cgroup` is not available here"
    );
    let source = error.source().unwrap().to_string();
    assert_eq!(source, "cannot create a cgroup below /proc");
    // A launch says the same, and takes no other level.
    let error = ExecLauncher::new(named)
        .launch(&spec("waits.py"))
        .await
        .unwrap_err();
    assert!(error.is_definite());
    let LaunchError::Backend { launcher, source } = error else {
        panic!("{error:?}");
    };
    assert_eq!(launcher, "exec");
    let cause = source.downcast_ref::<ContainmentError>();
    assert!(
        matches!(cause, Some(ContainmentError::Unavailable { .. })),
        "{cause:?}"
    );
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let none = ExecSettings::default().with_containment(ContainmentLevel::None);
    let error = ExecLauncher::new(none).ready().await.unwrap_err();
    assert!(matches!(error, ContainmentError::NoSuchLevel(_)), "{error}");
    for level in [ContainmentLevel::Cgroup, ContainmentLevel::Subreaper] {
        let shared = ExecSettings::default()
            .with_containment(level)
            .with_shared_namespace(true);
        let error = ExecLauncher::new(shared).ready().await.unwrap_err();
        assert!(matches!(error, ContainmentError::NothingToShare(named) if named == level));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guardian_starts_once_however_many_ask() {
    let launcher = ExecLauncher::new(settings());
    let asking: Vec<_> = (0..20)
        .map(|_| {
            let launcher = launcher.clone();
            tokio::spawn(async move {
                launcher.ready().await.unwrap();
                launcher.guardian_pid().unwrap()
            })
        })
        .collect();
    let mut pids = Vec::new();
    for one in asking {
        pids.push(one.await.unwrap());
    }
    pids.dedup();
    assert_eq!(pids.len(), 1);
}
