//! Workers that are forked from a template, on real Python: what is theirs, what is shared, and what each survives.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{
    collections::BTreeSet,
    fs,
    num::NonZeroUsize,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use common::{Undertaker, builder, fixtures, is_gone, until};
use serde::Deserialize;
use snakepit::{
    Backend, CallError, Pool, PoolBuilder, PythonEnv, Value,
    core::{
        launch::{LaunchError, Launcher},
        ledger::{Ledger, MemoryLedger},
        process::{ExitOutcome, Pidfd, Stat, descendants},
        rpc::error_chain,
    },
};
use snakepit_backend_zygote::{ZygoteLauncher, ZygoteSettings};

/// What starts a template.
const BACKENDS: [Backend; 2] = [Backend::ZygotePort, Backend::ZygoteExec];

fn forks(backend: Backend) -> PoolBuilder {
    builder().backend(backend).adapter("forked")
}

#[derive(Debug, Deserialize)]
struct Place {
    imported_in: u32,
    pid: u32,
    parent: u32,
    started: Vec<u32>,
    group: u32,
    cwd: String,
}

async fn place(pool: &Pool) -> Place {
    pool.call("where", ()).await.unwrap()
}

/// The templates that the pool's workers come from, by the host's numbers, whatever those of their namespace are. Workers
/// whose template is gone have another parent.
async fn templates(pool: &Pool) -> BTreeSet<u32> {
    let parents = pids(pool)
        .await
        .into_iter()
        .filter_map(|pid| Some(Stat::read(pid).ok()?.ppid));
    let is_template = |pid: &u32| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.ends_with(b"--template\0")
    };
    parents.filter(is_template).collect()
}

async fn pids(pool: &Pool) -> BTreeSet<u32> {
    let workers = pool.status().await.workers;
    workers
        .iter()
        .filter_map(|worker| worker.child.status.pid)
        .collect()
}

/// The only template, once its workers are there.
async fn template(pool: &Pool) -> u32 {
    let mut found = BTreeSet::new();
    until("there is one template", async || {
        found = templates(pool).await;
        found.len() == 1
    })
    .await;
    found.pop_first().unwrap()
}

fn settings(modules: &[&str]) -> ZygoteSettings {
    let command = PythonEnv::builder().build().unwrap().command(NonZeroUsize::MIN);
    ZygoteSettings::new(command.program, command.args)
        .with_env(command.env)
        .with_paths([fixtures()])
        .with_modules(modules.iter().copied())
}

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
        let killed = ExitOutcome::Signaled {
            signal: libc::SIGKILL,
            core_dumped: false,
        };
        for (function, args, expected) in [
            ("exits:os_exit", vec![7], ExitOutcome::Exited(7)),
            ("signal:raise_signal", vec![9], killed),
        ] {
            let error = pool.call::<_, Value>(function, args).await.unwrap_err();
            let CallError::WorkerLost(lost) = error else {
                panic!("{error:?}")
            };
            assert_eq!(lost.down.outcome, Some(expected), "{lost}");
            place(&pool).await;
        }
        assert_eq!(template(&pool).await, before);
        pool.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_dies_spares_its_workers_and_has_a_successor() {
    for backend in BACKENDS {
        let pool = forks(backend).workers(2).start().await.unwrap();
        let before = place(&pool).await;
        let old = template(&pool).await;
        Pidfd::open(old).unwrap().signal(libc::SIGKILL).unwrap();
        until("the template is gone", async || is_gone(old)).await;
        // A running worker notices nothing.
        let now = place(&pool).await;
        assert_eq!(now.imported_in, before.imported_in);
        // How it ends is told by the kernel now, where it can; and its successor comes from a new template.
        let error = pool.call::<_, Value>("exits:os_exit", (7,)).await.unwrap_err();
        let CallError::WorkerLost(lost) = error else {
            panic!("{error:?}")
        };
        // Without a containment, whoever adopts orphans on this machine may take its time to reap them.
        let told = lost.down.outcome;
        let is_unknown = matches!(told, None | Some(ExitOutcome::Unknown));
        assert!(
            told == Some(ExitOutcome::Exited(7)) || backend == Backend::ZygotePort && is_unknown,
            "{lost}"
        );
        let new = template(&pool).await;
        pool.shutdown().await;
        until("the new template has ended with the pool", async || is_gone(new)).await;
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
async fn with_a_thread_in_the_template_nothing_is_forked_and_the_thread_is_named() {
    let error = builder()
        .backend(Backend::ZygotePort)
        .adapter("imports_with_a_thread")
        .start()
        .await
        .unwrap_err();
    let text = error_chain(&error);
    assert!(text.contains("the-careless-one"), "{text}");
    // Where workers import it themselves there is no harm in it.
    let launcher = ZygoteLauncher::new(Backend::Port.launcher().unwrap(), settings(&[]));
    let pool = builder().launcher(Arc::new(launcher)).start().await.unwrap();
    assert_eq!(
        pool.call::<_, u32>("imports_with_a_thread:answer", ())
            .await
            .unwrap(),
        42
    );
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_template_cannot_import_is_the_error_of_the_start() {
    for (module, expected) in [
        (
            "fails_to_import",
            "in _load\n    raise RuntimeError(\"the model file is missing\")",
        ),
        (
            "no_such_module_anywhere",
            "No module named 'no_such_module_anywhere'",
        ),
    ] {
        let error = builder()
            .backend(Backend::ZygotePort)
            .preload(module)
            .start()
            .await
            .unwrap_err();
        let text = error_chain(&error);
        assert!(text.contains(expected) && text.contains(module), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn templates_are_recorded_for_as_long_as_they_are_there() {
    for backend in BACKENDS {
        let ledger = Arc::new(MemoryLedger::new());
        let pool = forks(backend)
            .workers(2)
            .ledger(ledger.clone())
            .start()
            .await
            .unwrap();
        let template = template(&pool).await;
        let rows = ledger.rows().await.unwrap();
        let pids: BTreeSet<u32> = rows
            .iter()
            .map(|row| row.identity.as_ref().unwrap().pid)
            .collect();
        assert!(rows.len() == 3 && pids.contains(&template), "{rows:?}");
        pool.shutdown().await;
        assert_eq!(ledger.rows().await.unwrap(), []);
        assert!(is_gone(template));
    }
}

/// An adapter whose answer is this.
fn write(dir: &Path, code: &str) {
    fs::write(dir.join("version.py"), code).unwrap();
    // Python takes a compiled file for current by second and size.
    let _ = fs::remove_dir_all(dir.join("__pycache__"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_brings_new_code_and_a_broken_one_leaves_the_old_serving() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "def answer():\n    return 'old'\n");
    let pool = builder()
        .backend(Backend::Zygote)
        .path(dir.path())
        .adapter("version")
        .workers(2)
        .start()
        .await
        .unwrap();
    let answer = async || pool.call::<_, String>("answer", ()).await.unwrap();
    assert_eq!(answer().await, "old");
    write(dir.path(), "def answer():\n    return 'new'\n");
    pool.restart().await.unwrap();
    let first = template(&pool).await;
    for _ in 0..8 {
        assert_eq!(answer().await, "new");
    }
    write(dir.path(), "raise RuntimeError('half finished')\n");
    let error = pool.restart().await.unwrap_err();
    assert!(
        error_chain(&error).contains("half finished"),
        "{}",
        error_chain(&error)
    );
    assert_eq!(answer().await, "new");
    // Also a worker that dies now comes back with what served.
    let error = pool.call::<_, Value>("exits:os_exit", (1,)).await.unwrap_err();
    assert!(matches!(error, CallError::WorkerLost(_)), "{error:?}");
    for _ in 0..8 {
        assert_eq!(answer().await, "new");
    }
    assert_eq!(template(&pool).await, first);
    write(dir.path(), "def answer():\n    return 'repaired'\n");
    pool.restart().await.unwrap();
    assert_eq!(answer().await, "repaired");
    until("the old template is gone with its last worker", async || {
        is_gone(first)
    })
    .await;
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_hangs_is_killed_and_replaced_and_its_workers_go_on() {
    let settings = settings(&["forked"]).with_fork_deadline(Duration::from_millis(300));
    let launcher = Arc::new(ZygoteLauncher::new(Backend::Port.launcher().unwrap(), settings));
    let pool = builder()
        .launcher(launcher)
        .adapter("forked")
        .workers(2)
        .start()
        .await
        .unwrap();
    let (old, workers) = (template(&pool).await, pids(&pool).await);
    Pidfd::open(old).unwrap().signal(libc::SIGSTOP).unwrap();
    let error = pool.call::<_, Value>("exits:os_exit", (1,)).await.unwrap_err();
    assert!(matches!(error, CallError::WorkerLost(_)), "{error:?}");
    until("the template that hung is gone", async || is_gone(old)).await;
    // The one that was left has served all along, and has company.
    assert_ne!(template(&pool).await, old);
    until("both serve", async || pids(&pool).await.len() == 2).await;
    assert_eq!(pids(&pool).await.intersection(&workers).count(), 1);
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_killed_while_its_template_imports_leaves_nothing() {
    for backend in ["zygote+port", "zygote+exec"] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let mut host = Command::new(env!("CARGO_BIN_EXE_snakepit"))
            .args([
                "call",
                "--backend",
                backend,
                "--preload",
                "imports_for_ever",
                "math:sqrt",
                "2",
                "--path",
            ])
            .arg(fixtures())
            .env("XDG_STATE_HOME", common::STATE)
            .env("SNAKEPIT_TEST_PIDS", &file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let host_fd = Pidfd::open(host.id()).unwrap();
        until("the import has begun", async || {
            fs::read_to_string(&file).is_ok_and(|text| !text.is_empty())
        })
        .await;
        let mut undertaker = Undertaker::default();
        let below = descendants(&host_fd).unwrap();
        assert!(!below.is_empty());
        below.iter().for_each(|member| undertaker.add(member.stat.pid));
        host.kill().unwrap();
        host.wait().unwrap();
        until("all are gone", async || {
            below.iter().all(|member| member.pidfd.has_exited())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_those_of_the_template_or_refused() {
    let exec = Backend::Exec.launcher().unwrap();
    let limits = snakepit::core::launch::LaunchLimits::default().with_nice(7);
    let settings = settings(&[]).with_limits(limits.clone());
    let launcher: Arc<dyn Launcher> = Arc::new(ZygoteLauncher::new(exec, settings));
    let pool = builder()
        .launcher(Arc::clone(&launcher))
        .limits(limits)
        .start()
        .await
        .unwrap();
    assert_eq!(pool.call::<_, i32>("os:nice", (0,)).await.unwrap(), 7);
    pool.shutdown().await;

    let other = snakepit::core::launch::LaunchLimits::default().with_nice(8);
    let error = builder()
        .launcher(launcher)
        .limits(other)
        .start()
        .await
        .unwrap_err();
    let text = error_chain(&error);
    assert!(text.contains("nice"), "{text}");
    let refused = LaunchError::Unsupported {
        launcher: "zygote+exec".to_owned(),
        setting: "nice",
    };
    assert!(text.contains(&refused.to_string()), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_a_template_need_a_template() {
    let error = builder()
        .backend(Backend::Port)
        .preload("json")
        .start()
        .await
        .unwrap_err();
    let text = error_chain(&error);
    assert!(text.contains("preload belongs to the zygote backend"), "{text}");
    let error = builder()
        .backend(Backend::Zygote)
        .program("cat", ["-"])
        .start()
        .await
        .unwrap_err();
    let text = error_chain(&error);
    assert!(text.contains("forks Python workers only"), "{text}");
}
