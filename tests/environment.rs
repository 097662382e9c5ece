//! Workers find the variables, devices and cores of their slots, whatever the backend.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::collections::BTreeMap;

use common::builder;
use serde::Deserialize;
use snakepit::{
    Backend, Pool, PoolBuilder, PoolError, PoolStartError,
    core::{
        pool::SettingsError,
        rpc::error_chain,
        worker::{Affinity, CoreSet},
    },
};

/// What a worker finds.
#[derive(Debug, Deserialize)]
struct Found {
    variables: BTreeMap<String, Option<String>>,
    cores: Vec<usize>,
    threads: Vec<String>,
    child: String,
}

impl Found {
    fn variable(&self, name: &str) -> Option<&str> {
        self.variables[name].as_deref()
    }
}

/// What each of a pool's workers finds, in the order of their slots.
async fn look_around(pool: &Pool, workers: usize, variables: &[&str]) -> Vec<Found> {
    let meeting = tempfile::tempdir().unwrap();
    let asked = [&["SLOT"], variables].concat();
    let asked: Vec<String> = asked.into_iter().map(str::to_owned).collect();
    let args = (meeting.path().to_str().unwrap().to_owned(), workers, asked);
    let calls: Vec<_> = (0..workers)
        .map(|_| {
            let (pool, args) = (pool.clone(), args.clone());
            tokio::spawn(async move { pool.call::<_, Found>("meets:look_around", args).await })
        })
        .collect();
    let mut found = Vec::new();
    for call in calls {
        found.push(call.await.unwrap().unwrap());
    }
    found.sort_by_key(|found| found.variable("SLOT").unwrap().parse::<u32>().unwrap());
    found
}

/// The cores that these tests may use.
fn usable() -> Vec<usize> {
    let own = rustix::thread::sched_getaffinity(None).unwrap();
    (0..1024).filter(|core| own.is_set(*core)).collect()
}

fn with_slots(backend: Backend, workers: usize) -> PoolBuilder {
    builder()
        .backend(backend)
        .workers(workers)
        .env_template("SLOT", "{slot}")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_slot_has_its_own_variables_and_takes_its_turn_of_the_devices() {
    for backend in Backend::compiled_in() {
        let pool = with_slots(backend, 3)
            .name("images")
            .env("LITERAL", "{slot}")
            .env_template("LOG", "/var/log/{pool}-{slot}-of-{slots}.log")
            .env_template("RUN", "{run_id}")
            .env_template("HIP_VISIBLE_DEVICES", "{device}")
            .devices(["0", "1,2"])
            .start()
            .await
            .unwrap();
        let names = [
            "LITERAL",
            "LOG",
            "RUN",
            "CUDA_VISIBLE_DEVICES",
            "HIP_VISIBLE_DEVICES",
        ];
        let found = look_around(&pool, 3, &names).await;
        for (slot, (found, device)) in found.iter().zip(["0", "1,2", "0"]).enumerate() {
            assert_eq!(found.variable("SLOT"), Some(slot.to_string().as_str()));
            assert_eq!(found.variable("LITERAL"), Some("{slot}"));
            let log = format!("/var/log/images-{slot}-of-3.log");
            assert_eq!(found.variable("LOG"), Some(log.as_str()));
            let run = snakepit::core::RunId::current().to_string();
            assert_eq!(found.variable("RUN"), Some(run.as_str()));
            assert_eq!(found.variable("CUDA_VISIBLE_DEVICES"), Some(device), "{backend}");
            assert_eq!(found.variable("HIP_VISIBLE_DEVICES"), Some(device), "{backend}");
        }
        pool.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slots_next_worker_finds_what_the_one_before_it_found() {
    let pool = with_slots(Backend::Port, 1).start().await.unwrap();
    let mut pids = Vec::new();
    for _ in 0..2 {
        let (pid, slot): (u32, String) = (
            pool.call("os:getpid", ()).await.unwrap(),
            pool.call("os:getenv", ("SLOT",)).await.unwrap(),
        );
        assert_eq!(slot, "0");
        pids.push(pid);
        pool.call::<_, ()>("os:_exit", (1,)).await.unwrap_err();
    }
    assert_ne!(pids[0], pids[1]);
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_are_pinned_with_their_threads_and_children() {
    let usable = usable();
    let (first, last) = (usable[0], usable[usable.len() - 1]);
    let set = |core: usize| core.to_string().parse::<CoreSet>().unwrap();
    for backend in Backend::compiled_in() {
        let pool = with_slots(backend, 3).affinity(Affinity::Cores(vec![set(last), set(first)]));
        let pool = pool.start().await.unwrap();
        let found = look_around(&pool, 3, &[]).await;
        for (found, core) in found.iter().zip([last, first, last]) {
            assert_eq!(found.cores, [core], "{backend}");
            assert_eq!(found.threads, [core.to_string()], "{backend}");
            assert_eq!(found.child, core.to_string(), "{backend}");
        }
        pool.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cores_are_shared_out_among_the_workers_when_they_are_to_be_spread() {
    let usable = usable();
    for backend in Backend::compiled_in() {
        let pool = with_slots(backend, 2)
            .affinity(Affinity::Spread)
            .start()
            .await
            .unwrap();
        let found = look_around(&pool, 2, &[]).await;
        let cores: Vec<&[usize]> = found.iter().map(|found| &found.cores[..]).collect();
        match usable.split_at(usable.len() / 2) {
            ([], all) => assert_eq!(cores, [all, all], "{backend}"),
            (first, second) => assert_eq!(cores, [first, second], "{backend}"),
        }
        pool.shutdown().await;
    }
    let pool = with_slots(Backend::Port, 1).start().await.unwrap();
    assert_eq!(look_around(&pool, 1, &[]).await[0].cores, usable);
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_core_that_is_not_there_fails_the_start_at_once_and_is_named() {
    let usable = usable();
    for backend in Backend::compiled_in() {
        for cores in ["1023".to_owned(), format!("{},1023", usable[0])] {
            let affinity = Affinity::Cores(vec![cores.parse().unwrap()]);
            let error = with_slots(backend, 1)
                .affinity(affinity)
                .start()
                .await
                .unwrap_err();
            let told = error_chain(&error);
            let reason = "cannot set affinity: the cores 1023 are not among those that the worker may use, ";
            assert!(told.contains(reason), "{backend}: {told}");
        }
    }
}

#[tokio::test]
async fn templates_are_checked_before_anything_is_started() {
    let pool = builder()
        .program("/nonexistent", [""; 0])
        .env_template("LOG", "{slto}")
        .env_template("JSON", r#"{"a": 1}"#)
        .env_template("GPU", "{device}");
    let PoolError::Pool(PoolStartError::Settings(SettingsError(wrong))) = pool.start().await.unwrap_err()
    else {
        panic!("started")
    };
    assert_eq!(
        wrong,
        [
            "the variable LOG: `{slto}` stands for nothing: there are {slot}, {slots}, {run_id}, {pool}, {device}",
            "the variable JSON: `{\"a\": 1}` stands for nothing: there are {slot}, {slots}, {run_id}, {pool}, {device}",
            "the variable GPU names {device}, and the pool has no devices",
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_sets_the_number_of_threads_decides_for_all_numeric_libraries() {
    const THREADS: [&str; 3] = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"];
    let of = async |builder: PoolBuilder| {
        let pool = builder.env_template("SLOT", "{slot}").start().await.unwrap();
        let found = look_around(&pool, 1, &THREADS).await.remove(0);
        pool.shutdown().await;
        THREADS.map(|name| found.variable(name).map(str::to_owned))
    };
    let host = |name| std::env::var(name).ok();
    let decided = of(builder().env("OMP_NUM_THREADS", "3")).await;
    assert_eq!(
        decided,
        [Some("3".to_owned()), host(THREADS[1]), host(THREADS[2])]
    );
    if THREADS.into_iter().all(|name| host(name).is_none()) {
        let cores = std::thread::available_parallelism().unwrap().to_string();
        assert_eq!(of(builder()).await, THREADS.map(|_| Some(cores.clone())));
        let one = of(builder().env("MKL_NUM_THREADS", "3")).await;
        assert_eq!(one, [Some(cores.clone()), Some(cores), Some("3".to_owned())]);
    }
}
