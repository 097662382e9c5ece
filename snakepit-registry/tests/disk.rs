//! Disks that do not play along.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{env, ffi::OsStr, fs, os::unix::fs::PermissionsExt, path::Path};

use common::{Scene, can_unshare, row, run_role};
use snakepit_core::{
    WorkerId,
    ledger::{Ledger, LedgerError},
};
use snakepit_registry::{
    OpenError, Policy, Registry, Settings,
    cleanup::{self, CleanupOptions, RunState},
};

/// A small file system of its own at `$DISK`, in a mount namespace of its own.
const SMALL_DISK: [&str; 6] = [
    "unshare",
    "--mount",
    "sh",
    "-c",
    "mount -t tmpfs -o size=1m,mode=700 none \"$DISK\" && exec \"$@\"",
    "sh",
];

fn on_a_small_disk(role: &str) {
    if !can_unshare(&["--mount"]) {
        return;
    }
    let scene = Scene::new();
    run_role(role, &SMALL_DISK, &[("DISK", scene.dir.path().as_os_str())]);
}

fn settings(policy: Policy) -> Option<Settings> {
    let disk = env::var_os("DISK")?;
    let settings = Settings::new().with_app("app").with_state_dir(disk);
    Some(settings.with_policy(policy))
}

/// Leaves this many bytes.
fn fill(disk: &OsStr, but: usize) {
    let filler = Path::new(disk).join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    // Until nothing fits any more.
    while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    let len = file.metadata().unwrap().len();
    file.set_len(len - but as u64).unwrap();
}

/// Full cycles until the store fails, or far more than a full disk could take.
async fn until_full(registry: &Registry) -> Result<(), LedgerError> {
    for worker in (1..=5000).map(WorkerId) {
        registry.reserve(row(worker)).await?;
        registry.ending(worker).await?;
        registry.release(worker).await?;
        if registry.degraded().is_some() {
            break;
        }
    }
    Ok(())
}

#[tokio::test]
#[ignore = "run by the other tests of this file, on a small disk"]
async fn opens_on_a_full_disk() {
    let Some(required) = settings(Policy::Required) else {
        return;
    };
    fill(&env::var_os("DISK").unwrap(), 0);
    let error = Registry::open(&required).unwrap_err();
    println!("{}", snakepit_core::rpc::error_chain(&error));
    let registry = Registry::open(&required.with_policy(Policy::BestEffort)).unwrap();
    assert!(registry.degraded().is_some());
    assert!(registry.directory().is_none());
    until_full(&registry).await.unwrap();
    registry.reserve(row(WorkerId(1))).await.unwrap();
    assert_eq!(registry.rows().await.unwrap().len(), 1);
}

#[tokio::test]
#[ignore = "run by the other tests of this file, on a small disk"]
async fn fills_up_and_goes_on() {
    let Some(best_effort) = settings(Policy::BestEffort) else {
        return;
    };
    let registry = Registry::open(&best_effort).unwrap();
    assert_eq!(registry.degraded(), None);
    registry.reserve(row(WorkerId(9999))).await.unwrap();
    fill(&env::var_os("DISK").unwrap(), 0);
    until_full(&registry).await.unwrap();
    let reason = registry.degraded().expect("the disk is full");
    println!("{reason}");
    // Its lock still tells that it lives, so that nobody takes its directory away.
    let report = cleanup::run(&CleanupOptions::at_start(&best_effort))
        .await
        .unwrap();
    assert_eq!(report.runs[0].state, RunState::Alive);
    until_full(&registry).await.unwrap();
    assert_eq!(registry.rows().await.unwrap().len(), 1);
    registry.ending(WorkerId(9999)).await.unwrap();
    registry.release(WorkerId(9999)).await.unwrap();
    let directory = registry.directory().unwrap();
    registry.close().await;
    assert!(!directory.exists());
}

#[tokio::test]
#[ignore = "run by the other tests of this file, on a small disk"]
async fn fills_up_and_refuses() {
    let Some(required) = settings(Policy::Required) else {
        return;
    };
    let registry = Registry::open(&required).unwrap();
    fill(&env::var_os("DISK").unwrap(), 0);
    let error = until_full(&registry).await.unwrap_err();
    println!("{}", snakepit_core::rpc::error_chain(&error));
    assert!(matches!(error, LedgerError::Store { .. }), "{error}");
    // What was refused has not happened: only a row that was reserved before may be there.
    let rows = registry.rows().await.unwrap();
    assert!(rows.len() <= 1, "{rows:?}");
    let refused = registry.reserve(row(WorkerId(9999))).await;
    assert!(refused.is_err());
    assert_eq!(registry.rows().await.unwrap(), rows);
}

#[test]
fn on_a_full_disk_a_required_registry_does_not_open_and_another_works_in_memory() {
    on_a_small_disk("opens_on_a_full_disk");
}

#[test]
fn a_disk_that_fills_up_is_told_once_and_the_host_goes_on_in_memory() {
    on_a_small_disk("fills_up_and_goes_on");
}

#[test]
fn a_disk_that_fills_up_is_an_error_of_each_start_where_records_are_required() {
    on_a_small_disk("fills_up_and_refuses");
}

#[tokio::test]
#[ignore = "run by the other tests of this file, as another user"]
async fn opens_where_it_may_not_write() {
    let Some(required) = settings(Policy::Required) else {
        return;
    };
    let error = Registry::open(&required).unwrap_err();
    let text = snakepit_core::rpc::error_chain(&error);
    let disk = env::var("DISK").unwrap();
    assert!(matches!(error, OpenError::Directory { .. }), "{text}");
    assert!(text.contains(&disk), "{text}");
    let registry = Registry::open(&required.with_policy(Policy::BestEffort)).unwrap();
    assert!(registry.degraded().unwrap().contains(&disk));
    registry.reserve(row(WorkerId(1))).await.unwrap();
    registry.close().await;
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can be somebody else");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    run_role(
        "opens_where_it_may_not_write",
        &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"],
        &[("DISK", dir.path().as_os_str())],
    );
}

#[tokio::test]
async fn a_name_that_is_none_is_an_error_under_any_policy() {
    let settings = Settings::new().with_app("../x");
    assert!(matches!(Registry::open(&settings), Err(OpenError::App(_))));
}

#[tokio::test]
async fn pools_of_one_host_share_a_registry_and_the_last_closes_it() {
    let scene = Scene::new();
    let one = Registry::join(&scene.settings()).await.unwrap();
    let other = Registry::join(&scene.settings()).await.unwrap();
    assert!(std::sync::Arc::ptr_eq(&one, &other));
    let directory = one.directory().unwrap();
    one.close().await;
    assert!(directory.exists());
    other.close().await;
    assert!(!directory.exists());
    // The same run, a second time; rows that are left keep the directory, and are there again.
    let again = Registry::join(&scene.settings()).await.unwrap();
    again.reserve(row(WorkerId(1))).await.unwrap();
    again.close().await;
    assert!(directory.exists());
    let report = scene.cleanup().await;
    assert_eq!(report.runs[0].state, RunState::Alive, "its host lives");
    let last = Registry::join(&scene.settings()).await.unwrap();
    assert_eq!(last.rows().await.unwrap().len(), 1);
    last.release(WorkerId(1)).await.unwrap();
    last.close().await;
    assert_eq!(scene.entries(), [""; 0]);
}

#[tokio::test]
async fn a_start_that_is_given_up_while_it_is_recorded_leaves_no_row() {
    let scene = Scene::new();
    let registry = Registry::open(&scene.settings()).unwrap();
    {
        let mut reserving = std::pin::pin!(registry.reserve(row(WorkerId(1))));
        let waits = std::future::poll_fn(|context| {
            std::task::Poll::Ready(reserving.as_mut().poll(context).is_pending())
        });
        // The writer thread has only begun.
        println!("given up while it waited: {}", waits.await);
    }
    let rows = registry.rows().await.unwrap().len();
    if rows > 0 {
        // It was faster than we were.
        registry.release(WorkerId(1)).await.unwrap();
    }
    registry.close().await;
    assert_eq!(scene.entries(), [""; 0]);
}
