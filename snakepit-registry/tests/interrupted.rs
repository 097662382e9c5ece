//! Cleanups that are killed, that meet each other, and that meet hosts which are just starting.

mod common;

use std::{
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use common::{PATIENCE, SLEEP, Scene, TREE, all_alive, all_gone, role};
use snakepit_core::RunId;
use snakepit_registry::{Registry, Settings, cleanup};
use tokio::time::Instant;

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

/// Numbers that look random, and can be had again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        // xorshift64, Marsaglia 2003.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

#[tokio::test]
async fn a_cleanup_that_is_killed_anywhere_is_finished_by_the_next() {
    let seed = u64::from_str_radix(&RunId::random().to_string()[..16], 16).unwrap() | 1;
    println!("seed {seed}");
    let mut dice = Dice(seed);
    let scene = Scene::new();
    let living = scene.host(&[TREE]);
    let unharmed = living.await_family(2);
    let mut cut_off = 0;
    for round in 0..15 {
        let mut host = scene.host(&[TREE, SLEEP]);
        let family = host.await_family(3);
        host.kill();
        if round % 5 == 0 {
            std::fs::write(
                scene.app_dir().join(host.run.to_string()).join("store/db"),
                "torn",
            )
            .unwrap();
        }
        for _ in 0..3 {
            let mut cleaner = role("cleaner", &[])
                .env("CLEAN_STATE", scene.state())
                .env("CLEAN_APP", &scene.app)
                .env("CLEAN_REPORT", scene.file("report"))
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            tokio::time::sleep(Duration::from_millis(dice.roll(250))).await;
            cut_off += usize::from(cleaner.try_wait().unwrap().is_none());
            cleaner.kill().unwrap();
            cleaner.wait().unwrap();
        }
        let report = scene.cleanup().await;
        assert!(report.is_clean(), "seed {seed}, round {round}: {report:#?}");
        assert!(all_gone(&family), "seed {seed}, round {round}: {report:#?}");
    }
    println!("{cut_off} of 45 cleanups were killed before their end");
    let mut entries = scene.entries();
    entries.retain(|name| !name.starts_with(".unreadable-"));
    assert_eq!(entries, [living.run.to_string()]);
    assert!(all_alive(&unharmed));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_cleanups_at_a_time_do_not_get_in_each_others_way() {
    let scene = Scene::new();
    let mut hosts: Vec<_> = (0..4).map(|_| scene.host(&[TREE])).collect();
    let families: Vec<_> = hosts.iter_mut().map(|host| host.await_family(2)).collect();
    hosts.iter_mut().for_each(common::Host::kill);
    let options = scene.options();
    let cleaning: Vec<_> = (0..6)
        .map(|_| {
            let options = options.clone();
            tokio::spawn(async move { cleanup::run(&options).await.unwrap() })
        })
        .collect();
    for done in cleaning {
        let report = done.await.unwrap();
        assert!(report.is_clean(), "{report:#?}");
        // Whoever is through has nothing left to do, whoever did it.
        assert!(families.iter().all(|family| all_gone(family)), "{report:#?}");
    }
    assert_eq!(scene.entries(), [""; 0]);
}

/// The role of a host that does nothing but start and stop.
#[test]
#[ignore = "run by the other tests of this file, as a host that starts over and over"]
fn comes_and_goes() {
    let Some(state) = std::env::var_os("RACE_STATE") else {
        return;
    };
    let app = std::env::var("RACE_APP").unwrap();
    let settings = Settings::new()
        .with_app(app)
        .with_state_dir(state)
        .with_policy(snakepit_registry::Policy::Required);
    for round in 0..150 {
        let registry = Registry::open(&settings).unwrap();
        let directory = registry.directory().unwrap();
        for name in ["lock", "host", "rows", "store/db"] {
            assert!(directory.join(name).exists(), "round {round}: {name} is gone");
        }
        drop(registry);
        assert!(!directory.exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_just_being_made_is_never_taken_from_its_host() {
    let scene = Scene::new();
    let mut hosts: Vec<_> = (0..3)
        .map(|_| {
            role("comes_and_goes", &[])
                .env("RACE_STATE", scene.state())
                .env("RACE_APP", &scene.app)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let over = AtomicBool::new(false);
    let mut looks = 0;
    let began = Instant::now();
    while !over.load(Ordering::Relaxed) {
        let options = scene.options().with_unrecorded(false);
        let report = cleanup::run(&options).await.unwrap();
        assert!(report.problems.is_empty(), "{report:#?}");
        looks += 1;
        let ended = hosts.iter_mut().all(|host| host.try_wait().unwrap().is_some());
        over.store(ended, Ordering::Relaxed);
        assert!(began.elapsed() < PATIENCE * 3);
    }
    println!("{looks} cleanups beside 450 starts");
    for host in hosts {
        let output = host.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    assert!(scene.cleanup().await.is_clean());
    assert_eq!(scene.entries(), [""; 0]);
}
