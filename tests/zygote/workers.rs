//! Workers: what is their own, how they end, and what they take with them.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use snakepit::{
    Backend, Pool,
    core::process::{ExitOutcome, Pidfd, descendants},
};
use snakepit_backend_zygote::ZygoteLauncher;

use crate::{
    common::{Undertaker, builder, is_gone, python_with_packages, until},
    support::{BACKENDS, forks, killed, outcome_of, pids, place, settings, template},
};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_imported_is_shared_and_all_else_is_the_workers_own() {
    for backend in BACKENDS {
        let dir = tempfile::tempdir().unwrap();
        let pool = forks(backend)
            .workers(3)
            .cwd(dir.path())
            .env("SNAKEPIT_TEST_OWN", "set")
            .env_template("SNAKEPIT_TEST_SLOT", "slot {slot}")
            .start()
            .await
            .unwrap();
        let mut seen = BTreeSet::new();
        let mut templates = BTreeSet::new();
        for _ in 0..12 {
            let place = place(&pool).await;
            assert_ne!(place.imported_in, place.pid);
            assert_eq!((place.parent, place.group), (place.imported_in, place.pid));
            assert_eq!(place.started, [place.pid], "start hooks run in each worker, once");
            assert_eq!(Path::new(&place.cwd), dir.path().canonicalize().unwrap());
            templates.insert(place.imported_in);
            seen.insert(place.pid);
        }
        assert_eq!(templates.len(), 1);
        for name in [
            "SNAKEPIT_TEST_OWN",
            "SNAKEPIT_TEST_SLOT",
            "SNAKEPIT_WORKER_ID",
            "SNAKEPIT_RUN_ID",
        ] {
            let [own, _, inherited]: [Option<String>; 3] = pool.call("environments", (name,)).await.unwrap();
            assert!(own.is_some() && own == inherited, "{name}: {own:?} {inherited:?}");
        }
        let ids: [String; 3] = pool.call("environments", ("SNAKEPIT_WORKER_ID",)).await.unwrap();
        assert_eq!(ids[1].parse::<u64>().unwrap(), ids[0].parse::<u64>().unwrap());
        let room: [Option<String>; 3] = pool.call("environments", ("SNAKEPIT_ROOM",)).await.unwrap();
        assert_eq!(room, [None, Some(String::new()), Some("None".to_owned())]);
        pool.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_draw_numbers_of_their_own() {
    let pool = forks(Backend::ZygotePort).workers(4).start().await.unwrap();
    // One call each, at the same time.
    let calls = (0..4).map(|_| {
        let pool = pool.clone();
        tokio::spawn(async move {
            pool.call::<_, u32>("naps", (0.2,)).await.unwrap();
            pool.call::<_, f64>("draws", ()).await.unwrap().to_bits()
        })
    });
    let mut drawn = BTreeSet::new();
    for call in calls.collect::<Vec<_>>() {
        drawn.insert(call.await.unwrap());
    }
    assert_eq!(drawn.len(), 4);
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logging_is_imported_where_it_is_used_and_goes_to_the_host_all_the_same() {
    for modules in [&[][..], &["logging"]] {
        let launcher = ZygoteLauncher::new(Backend::Port.launcher().unwrap(), settings(modules));
        let pool = builder().launcher(Arc::new(launcher)).start().await.unwrap();
        let has_logging: bool = pool.call("plain:has_module", ("logging",)).await.unwrap();
        assert_eq!(has_logging, !modules.is_empty());
        let handlers: Vec<String> = pool.call("plain:log_handlers", ()).await.unwrap();
        assert_eq!(handlers, ["snakepit._handler"], "{modules:?}");
        pool.shutdown().await;
    }
}

/// Pages that a process has for itself, by what it says itself.
async fn own_kib(pool: &Pool) -> u64 {
    pool.call("plain:private_kib", ()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forked_worker_has_little_for_itself() {
    let started = builder().backend(Backend::Port).start().await.unwrap();
    let launcher = ZygoteLauncher::new(Backend::Port.launcher().unwrap(), settings(&["plain"]));
    let forked = builder().launcher(Arc::new(launcher)).start().await.unwrap();
    let (whole, own) = (own_kib(&started).await, own_kib(&forked).await);
    // A fourth here; a third if its template had imported `logging`.
    assert!(own * 10 < whole * 3, "{own} KiB of {whole} KiB");
    started.shutdown().await;
    forked.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn how_a_worker_ended_is_told_exactly_and_its_successor_is_forked_from_the_same_template() {
    for backend in BACKENDS {
        let pool = forks(backend).start().await.unwrap();
        let before = template(&pool).await;
        for (function, argument, expected) in [
            ("exits:os_exit", 7, Some(ExitOutcome::Exited(7))),
            ("signal:raise_signal", libc::SIGKILL, killed()),
        ] {
            assert_eq!(outcome_of(&pool, function, argument).await, expected);
            place(&pool).await;
        }
        assert_eq!(template(&pool).await, before);
        pool.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workers_end_takes_its_daemons_and_nobody_elses() {
    for backend in BACKENDS {
        let pool = forks(backend).workers(2).start().await.unwrap();
        let mut undertaker = Undertaker::default();
        let pids = pids(&pool).await;
        assert_eq!(pids.len(), 2);
        // One daemon of each, found by the host's numbers: those of a namespace say nothing here.
        let mut daemons = Vec::new();
        for _ in 0..2 {
            let naps = pool.clone();
            let other = tokio::spawn(async move { naps.call::<_, u32>("naps", (0.5,)).await });
            tokio::time::sleep(Duration::from_millis(100)).await;
            pool.call::<_, u32>("leaves_a_daemon", ()).await.unwrap();
            other.await.unwrap().unwrap();
        }
        for pid in &pids {
            let below = descendants(&Pidfd::open(*pid).unwrap()).unwrap();
            for member in below {
                undertaker.add(member.stat.pid);
                daemons.push((*pid, member.stat.pid));
            }
        }
        assert_eq!(daemons.len(), 2, "{daemons:?}");
        let (victim, gone) = daemons[0];
        Pidfd::open(victim).unwrap().signal(libc::SIGKILL).unwrap();
        until("the worker's daemon is gone with it", async || is_gone(gone)).await;
        let (other, kept) = daemons[1];
        if other != victim {
            assert!(!is_gone(other) && !is_gone(kept));
        }
        pool.shutdown().await;
        until("all are gone", async || {
            daemons.iter().all(|(_, pid)| is_gone(*pid))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn modules_that_came_after_the_template_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let pool = forks(Backend::ZygotePort).path(dir.path()).start().await.unwrap();
    // The template has looked for its own modules in there.
    std::fs::write(dir.path().join("came_later.py"), "def answer():\n    return 42\n").unwrap();
    assert_eq!(pool.call::<_, u32>("came_later:answer", ()).await.unwrap(), 42);
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn numpys_global_generator_is_seeded_anew_in_each() {
    let Some(python) = python_with_packages() else {
        return;
    };
    let pool = builder()
        .python(python)
        .backend(Backend::ZygotePort)
        .preload("numpy.random")
        .start()
        .await
        .unwrap();
    let mut drawn = BTreeSet::new();
    for _ in 0..3 {
        let number: f64 = pool.call("numpy.random:random", ()).await.unwrap();
        drawn.insert(number.to_bits());
        assert_eq!(
            outcome_of(&pool, "exits:os_exit", 1).await,
            Some(ExitOutcome::Exited(1))
        );
        until("there is another worker", async || pids(&pool).await.len() == 1).await;
    }
    assert_eq!(drawn.len(), 3, "the first that each draws");
    pool.shutdown().await;
}
