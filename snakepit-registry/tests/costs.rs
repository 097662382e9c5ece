//! What records cost, and how fast a cleanup is. Figures are printed; only what does not depend on the machine is asserted.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{fs, sync::Arc, time::Duration};

use common::{Scene, TREE, all_gone, assert_cleaned, row};
use snakepit_core::{
    WorkerId,
    ledger::{Ledger, MemoryLedger},
    process::{Containment, ProcessIdentity},
};
use snakepit_registry::Registry;
use tokio::{task::JoinSet, time::Instant};

#[test]
#[ignore = "run by the other tests of this file, as a host"]
fn host() {
    common::host(|word, _| word.to_owned());
}

/// What the record of a start costs: reserved, then active.
async fn start(ledger: Arc<dyn Ledger>, worker: WorkerId) {
    let identity = ProcessIdentity::of_pid(std::process::id()).unwrap();
    ledger.reserve(row(worker)).await.unwrap();
    let nothing = Containment::default();
    ledger.activate(worker, &identity, &nothing).await.unwrap();
}

async fn starts(ledger: &Arc<dyn Ledger>) -> Duration {
    let began = Instant::now();
    let mut all = JoinSet::new();
    for worker in (1..=100).map(WorkerId) {
        all.spawn(start(Arc::clone(ledger), worker));
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_starts_at_a_time_wait_for_the_disk_a_handful_of_times() {
    let scene = Scene::new();
    let registry = Registry::open(&scene.settings()).unwrap();
    let recorded = starts(&(Arc::clone(&registry) as Arc<dyn Ledger>)).await;
    let writes = registry.writes();
    let remembered = starts(&(Arc::new(MemoryLedger::new()) as Arc<dyn Ledger>)).await;
    println!("100 starts: {writes} writes, {recorded:?} on disk, {remembered:?} in memory");
    assert!(writes <= 40, "{writes} writes of 200 changes");
    for worker in (1..=100).map(WorkerId) {
        registry.ending(worker).await.unwrap();
        registry.release(worker).await.unwrap();
    }
    registry.close().await;
    assert_eq!(scene.entries(), [""; 0]);
}

fn disk_use(directory: &std::path::Path) -> u64 {
    let entries = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let sizes = entries.map(|path| match path.is_dir() {
        true => disk_use(&path),
        false => std::os::unix::fs::MetadataExt::blocks(&fs::metadata(path).unwrap()) * 512,
    });
    sizes.sum()
}

#[tokio::test]
async fn a_host_that_starts_workers_all_its_life_does_not_fill_the_disk() {
    let scene = Scene::new();
    let registry = Registry::open(&scene.settings()).unwrap();
    let directory = registry.directory().unwrap();
    let identity = ProcessIdentity::of_pid(std::process::id()).unwrap();
    let mut most = 0;
    println!("empty: {} KiB", disk_use(&directory) / 1024);
    for worker in (1..=3000).map(WorkerId) {
        registry.reserve(row(worker)).await.unwrap();
        let nothing = Containment::default();
        registry.activate(worker, &identity, &nothing).await.unwrap();
        registry.ending(worker).await.unwrap();
        registry.release(worker).await.unwrap();
        if worker.0 % 250 == 0 {
            most = most.max(disk_use(&directory));
        }
    }
    println!("most in 3,000 starts and ends: {} KiB", most / 1024);
    assert!(most < 8 << 20, "{most} bytes");
    registry.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_orphaned_trees_are_ended_at_a_time() {
    let scene = Scene::new();
    let mut host = scene.host(&[TREE; 100]);
    let family = host.await_family(200);
    host.kill();
    let began = Instant::now();
    let report = scene.cleanup().await;
    println!("200 processes in 100 trees: {:?}", began.elapsed());
    assert_cleaned(&report, host.run);
    assert_eq!(report.ended(), 200);
    assert!(all_gone(&family));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_dead_runs_are_cleaned_up_at_a_time() {
    let scene = Scene::new();
    let hosts: Vec<_> = (0..20)
        .map(|_| {
            let mut host = scene.host(&[TREE]);
            host.kill();
            host
        })
        .collect();
    let began = Instant::now();
    let report = scene.cleanup().await;
    println!("20 dead hosts: {:?}", began.elapsed());
    for host in &hosts {
        assert_cleaned(&report, host.run);
    }
    let began = Instant::now();
    assert!(!scene.cleanup().await.has_findings());
    println!(
        "nothing to do, with a look at all processes: {:?}",
        began.elapsed()
    );
    let began = Instant::now();
    let options = scene.options().with_unrecorded(false);
    assert!(
        !snakepit_registry::cleanup::run(&options)
            .await
            .unwrap()
            .has_findings()
    );
    println!("nothing to do, records only: {:?}", began.elapsed());
}
