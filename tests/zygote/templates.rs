//! Templates: what they import or refuse, how they end, and what comes after them.

use std::{
    collections::BTreeSet,
    fs,
    num::NonZeroUsize,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use snakepit::{
    Backend, CallError, PythonEnv, Value,
    core::{
        launch::{LaunchError, Launcher},
        ledger::{Ledger, MemoryLedger},
        process::{ExitOutcome, Pidfd, descendants},
        rpc::error_chain,
    },
};
use snakepit_backend_zygote::{TemplateError, ZygoteLauncher};

use crate::{
    common::{self, Undertaker, builder, fixtures, is_gone, until, worker_pid},
    support::{BACKENDS, forks, outcome_of, pids, place, settings, template},
};

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
        .nested_namespaces(true)
        .start()
        .await
        .unwrap_err();
    let text = error_chain(&error);
    assert!(text.contains("preload belongs to the zygote backend"), "{text}");
    assert!(
        text.contains("nested_namespaces belongs to the zygote backend"),
        "{text}"
    );
    let error = builder()
        .backend(Backend::Zygote)
        .program("cat", ["-"])
        .start()
        .await
        .unwrap_err();
    let text = error_chain(&error);
    assert!(text.contains("forks Python workers only"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_takes_too_long_is_given_up_and_gone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let command = PythonEnv::builder().build().unwrap().command(NonZeroUsize::MIN);
    let env = [("SNAKEPIT_TEST_PIDS".into(), file.clone().into())];
    let settings = settings(&["imports_for_ever"])
        .with_env(command.env.into_iter().chain(env))
        .with_start_deadline(Duration::from_millis(1500));
    let launcher = ZygoteLauncher::new(Backend::Port.launcher().unwrap(), settings);
    let error = launcher.warm().await.unwrap_err();
    assert!(matches!(*error, TemplateError::Deadline { .. }), "{error}");
    let pid = fs::read_to_string(&file).unwrap();
    assert!(is_gone(pid.parse().unwrap()), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_has_grown_is_replaced_before_the_next_fork() {
    let launcher = ZygoteLauncher::new(Backend::Port.launcher().unwrap(), settings(&["grows"]));
    let pool = builder().launcher(Arc::new(launcher)).start().await.unwrap();
    // By the fork that made this worker.
    let (first, worker) = (template(&pool).await, worker_pid(&pool).await);
    let outcome = outcome_of(&pool, "exits:os_exit", 1).await;
    assert_eq!(outcome, Some(ExitOutcome::Exited(1)));
    until("there is another worker", async || {
        pids(&pool).await.iter().any(|pid| *pid != worker)
    })
    .await;
    assert_ne!(template(&pool).await, first);
    until(
        "the one that had grown is gone with its last worker",
        async || is_gone(first),
    )
    .await;
    pool.shutdown().await;
}
