//! Stores in any state, and what is left of their runs.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use common::{Host, Scene, TREE, all_alive, all_gone, can_unshare, of_run, run_role};
use snakepit_registry::cleanup::{self, RecordEnd, Report, RunState};

#[test]
#[ignore = "run by the other tests of this file, as a host"]
fn host() {
    common::host(|word, _| word.to_owned());
}

#[test]
#[ignore = "run by the other tests of this file, as somebody who cleans up"]
fn cleaner() {
    common::cleaner();
}

fn store_of(scene: &Scene, host: &Host) -> PathBuf {
    scene.app_dir().join(host.run.to_string()).join("store")
}

/// A host dies, its store is damaged, and a cleanup leaves nothing of its processes.
async fn ends_all_the_same(damage: impl FnOnce(&Path)) -> (Scene, Report, Host) {
    let scene = Scene::new();
    let mut host = scene.host(&[TREE, TREE]);
    let family = host.await_family(4);
    host.kill();
    damage(&store_of(&scene, &host));
    let report = scene.cleanup().await;
    assert!(report.is_clean(), "{report:#?}");
    assert_eq!(of_run(&report, host.run).found.len(), 4, "{report:#?}");
    assert!(all_gone(&family), "{report:#?}");
    (scene, report, host)
}

/// It was unreadable, and is kept to be looked at, once.
async fn is_set_aside(damage: impl FnOnce(&Path)) -> String {
    let (scene, report, host) = ends_all_the_same(damage).await;
    let found = of_run(&report, host.run);
    assert_eq!(
        (found.state, found.record),
        (RunState::Unreadable, Some(RecordEnd::SetAside)),
        "{report:#?}"
    );
    assert!(report.has_findings());
    assert_eq!(scene.entries(), [format!(".unreadable-{}", host.run)]);
    let again = scene.cleanup().await;
    assert_eq!((again.is_clean(), again.runs.len()), (true, 0), "{again:#?}");
    found.notes.join("\n")
}

fn overwrite(path: &Path, byte: impl Fn(usize) -> u8) {
    let len = fs::metadata(path).unwrap().len();
    let bytes: Vec<_> = (0..usize::try_from(len).unwrap()).map(byte).collect();
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_store_full_of_zeros_is_set_aside_and_its_run_is_ended() {
    is_set_aside(|store| overwrite(&store.join("db"), |_| 0)).await;
}

#[tokio::test]
async fn a_store_of_garbage_is_set_aside_and_its_run_is_ended() {
    is_set_aside(|store| overwrite(&store.join("db"), |n| (n.wrapping_mul(2_654_435_761) >> 7) as u8)).await;
}

#[tokio::test]
async fn a_store_of_a_newer_version_is_set_aside_with_both_versions_named() {
    let notes = is_set_aside(|store| {
        let db = sled::open(store).unwrap();
        db.insert("version", "2").unwrap();
        db.flush().unwrap();
    })
    .await;
    assert!(
        notes.contains("version 2") && notes.contains("version 1"),
        "{notes}"
    );
}

#[tokio::test]
async fn a_store_of_another_database_is_set_aside() {
    is_set_aside(|store| overwrite(&store.join("conf"), |n| b"garbage: 1\n"[n % 11])).await;
}

#[tokio::test]
async fn a_store_that_was_torn_has_its_missing_rows_named_and_its_run_is_ended() {
    for part in [2, 4, 50] {
        let (_, report, host) = ends_all_the_same(|store| {
            let db = fs::OpenOptions::new().write(true).open(store.join("db")).unwrap();
            let len = db.metadata().unwrap().len();
            db.set_len(len / part).unwrap();
        })
        .await;
        let found = of_run(&report, host.run);
        println!(
            "1/{part}: {:?}, {} of 2 rows, {:?}",
            found.state, found.rows, found.notes
        );
        assert!(
            found.state == RunState::Unreadable || found.rows + found.lost_rows >= 2,
            "{report:#?}"
        );
    }
}

#[tokio::test]
async fn files_that_are_gone_keep_nothing_from_being_ended() {
    for name in ["store/db", "store/conf", "store", "host", "lock", "rows"] {
        let (_, report, _) = ends_all_the_same(|store| {
            let path = store.parent().unwrap().join(name);
            if path.is_dir() {
                fs::remove_dir_all(path).unwrap();
            } else {
                fs::remove_file(path).unwrap();
            }
        })
        .await;
        println!("without {name}: {:?}", report.runs[0].notes);
    }
}

/// What stands in each file below a directory.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(contents(&path));
            all.insert(path, Vec::new());
        } else {
            all.insert(path.clone(), fs::read(path).unwrap());
        }
    }
    all
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let scene = Scene::new();
    let mut host = scene.host(&[TREE]);
    let family = host.await_family(2);
    host.kill();
    let before = contents(&scene.state());
    let report = cleanup::run(&scene.options().with_dry_run(true)).await.unwrap();
    assert_eq!(contents(&scene.state()), before);
    assert!(all_alive(&family));
    let found = of_run(&report, host.run);
    assert_eq!(
        (found.state, found.found.len(), found.record),
        (RunState::Dead, 2, None)
    );
    assert!(scene.cleanup().await.is_clean());
    assert!(all_gone(&family));
}

#[tokio::test]
async fn a_store_that_cannot_be_written_is_read_and_its_run_is_ended() {
    if !can_unshare(&["--mount"]) {
        return;
    }
    let scene = Scene::new();
    let mut host = scene.host(&[TREE]);
    let family = host.await_family(2);
    host.kill();
    let report = scene.file("report");
    let state = scene.state();
    let read_only = "mount --bind \"$CLEAN_STATE\" \"$CLEAN_STATE\" && mount -o remount,ro,bind \"$CLEAN_STATE\" && exec \"$@\"";
    run_role(
        "cleaner",
        &["unshare", "--mount", "sh", "-c", read_only, "sh"],
        &[
            ("CLEAN_STATE", state.as_os_str()),
            ("CLEAN_APP", scene.app.as_ref()),
            ("CLEAN_REPORT", report.as_os_str()),
        ],
    );
    assert!(all_gone(&family));
    let done: serde_json::Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    let run = &done["runs"][0];
    assert_eq!(
        (&run["rows"], &run["record"]),
        (&1.into(), &"kept".into()),
        "{done:#}"
    );
    assert!(run["problem"].as_str().unwrap().contains("Read-only"), "{done:#}");
    assert!(scene.cleanup().await.is_clean());
}

/// As a user who may do nothing special.
#[tokio::test]
#[ignore = "run by the other tests of this file, as another user"]
async fn looks_as_another_user() {
    let Some(state) = std::env::var_os("OTHERS_STATE") else {
        return;
    };
    let options = cleanup::CleanupOptions::new(&state, "app");
    for options in [options.clone(), options.with_all_apps()] {
        let text = match cleanup::run(&options).await {
            Err(error) => snakepit_core::rpc::error_chain(&error),
            Ok(report) => report.problems.join("\n"),
        };
        for part in [state.to_str().unwrap(), "belongs to user 0", "denied"] {
            assert!(text.contains(part), "{text}");
        }
    }
}

#[test]
fn another_user_is_told_whose_directory_it_is() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can be somebody else");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let state = dir.path().join("state");
    fs::create_dir_all(state.join("app")).unwrap();
    fs::set_permissions(state.join("app"), fs::Permissions::from_mode(0o700)).unwrap();
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    run_role(
        "looks_as_another_user",
        &nobody,
        &[("OTHERS_STATE", state.as_os_str())],
    );
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
    run_role(
        "looks_as_another_user",
        &nobody,
        &[("OTHERS_STATE", state.as_os_str())],
    );
}

#[tokio::test]
async fn a_state_directory_that_does_not_exist_has_nothing_to_clean() {
    let scene = Scene::new();
    for options in [scene.options(), scene.options().with_all_apps()] {
        let report = cleanup::run(&options).await.unwrap();
        assert!(report.is_clean() && report.runs.is_empty() && !report.has_findings());
    }
    assert!(!scene.state().exists());
}
