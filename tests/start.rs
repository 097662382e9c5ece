//! A pool that cannot start says why, soon, and leaves nothing behind.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{error::Error as _, process::Command, time::Duration};

use common::{builder, fixtures, is_gone, until};
use snakepit::{
    EventKind, PoolError, StartErrorKind, Value,
    core::{pool::SettingsError, rpc::error_chain, worker::Heartbeat},
};
use tokio::time::Instant;

async fn start_error(builder: snakepit::PoolBuilder) -> std::sync::Arc<snakepit::StartError> {
    match builder.start().await.unwrap_err() {
        PoolError::Pool(snakepit::PoolStartError::NoWorkers { last, .. }) => last,
        other => panic!("{}", error_chain(&other)),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_that_does_not_import_shows_its_traceback_at_once() {
    let began = Instant::now();
    let error = start_error(builder().adapter("fails_to_import").workers(3)).await;
    assert!(began.elapsed() < Duration::from_secs(20));
    let StartErrorKind::Adapter(remote) = &error.kind else {
        panic!("{error:?}")
    };
    let traceback = remote.traceback();
    assert!(traceback.contains("fails_to_import.py"), "{traceback}");
    assert!(
        traceback.contains("RuntimeError: the model file is missing"),
        "{traceback}"
    );
    assert!(is_gone(error.pid.unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_hook_that_fails_and_a_module_that_is_not_there_are_told() {
    let error = start_error(builder().adapter("fails_to_start")).await;
    let StartErrorKind::Adapter(remote) = &error.kind else {
        panic!("{error:?}")
    };
    assert!(
        remote.traceback().contains("no database at localhost"),
        "{}",
        remote.traceback()
    );
    let error = start_error(builder().adapter("no_such_adapter")).await;
    assert!(
        error_chain(&*error).contains("no_such_adapter"),
        "{}",
        error_chain(&*error)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_not_there_is_named() {
    let error = start_error(common::plain_builder().program("/nonexistent/python", ["-V"])).await;
    let chain = error_chain(&*error);
    assert!(
        chain.contains("/nonexistent/python") && chain.contains("No such file"),
        "{chain}"
    );
    assert!(error.source().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_never_answers_the_handshake_is_ended_at_the_start_deadline() {
    let pool = common::plain_builder()
        .workers(1)
        .program("sleep", ["60"])
        .start_deadline(Duration::from_millis(300))
        .start_timeout(Duration::from_secs(2));
    let error = start_error(pool).await;
    assert!(matches!(error.kind, StartErrorKind::Deadline(_)), "{error:?}");
    assert!(error.to_string().contains("the handshake"), "{error}");
    assert!(is_gone(error.pid.unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_leaves_before_the_handshake_is_told_with_its_words() {
    let script = "echo cannot find the licence >&2; exit 9";
    let pool = common::plain_builder().workers(1).program("sh", ["-c", script]);
    let began = Instant::now();
    let error = start_error(pool).await;
    // It is not tried for the minute that a start may take: the next one would leave as well.
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert!(matches!(error.kind, StartErrorKind::Exited), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("exited with code 9") && text.contains("cannot find the licence"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_that_breaks_later_backs_off_and_callers_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let adapter = dir.path().join("fragile.py");
    std::fs::write(
        &adapter,
        "import os\ndef die(): os._exit(1)\ndef ok(): return 1\n",
    )
    .unwrap();
    let pool = builder()
        .path(dir.path())
        .adapter("fragile")
        .start()
        .await
        .unwrap();
    let mut events = pool.events();
    std::fs::write(&adapter, "raise RuntimeError('half deployed')\n").unwrap();
    pool.call::<_, Value>("die", ()).await.unwrap_err();
    let began = Instant::now();
    let error = pool.call::<_, Value>("ok", ()).await.unwrap_err();
    assert!(
        error_chain(&error).contains("half deployed"),
        "{}",
        error_chain(&error)
    );
    assert!(began.elapsed() < Duration::from_secs(20));
    // It does not spin: a series of restarts is spread out, then the slot rests.
    let mut starts = 0;
    loop {
        match events.recv().await.unwrap().kind {
            EventKind::WorkerStartFailed { .. } => starts += 1,
            EventKind::SlotQuarantined { .. } => break,
            _ => {}
        }
    }
    assert!((3..40).contains(&starts), "{starts}");
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_whose_start_is_abandoned_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let pid_file = dir.path().join("pid");
    std::fs::write(
        dir.path().join("slow_start.py"),
        format!(
            "import os, time\nopen({:?}, 'w').write(str(os.getpid()))\ntime.sleep(60)\n",
            pid_file
        ),
    )
    .unwrap();
    let start = tokio::spawn(
        builder()
            .path(dir.path())
            .path(fixtures())
            .adapter("slow_start")
            .start(),
    );
    let read_pid = || {
        std::fs::read_to_string(&pid_file)
            .ok()
            .and_then(|text| text.parse::<u32>().ok())
    };
    until("the adapter is importing", async || read_pid().is_some()).await;
    let pid = read_pid().unwrap();
    start.abort();
    until("the worker is gone", async || is_gone(pid)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_of_default_size_shares_the_cpus_among_its_numeric_libraries() {
    let pool = common::plain_builder().start().await.unwrap();
    let workers = pool.status().await.workers.len();
    let cpus = std::thread::available_parallelism().unwrap().get();
    assert_eq!(workers, cpus);
    if std::env::var_os("OMP_NUM_THREADS").is_none() {
        let threads: String = pool.call("os:getenv", ("OMP_NUM_THREADS",)).await.unwrap();
        assert_eq!(threads, "1");
    }
    pool.shutdown().await;
}

#[tokio::test]
async fn times_of_zero_in_which_nothing_can_happen_are_refused_together() {
    let never = Heartbeat {
        interval: Duration::ZERO,
        stuck_after: Duration::ZERO,
    };
    let start = builder().start_deadline(Duration::ZERO).heartbeat(never).start();
    let PoolError::Pool(snakepit::PoolStartError::Settings(SettingsError(wrong))) = start.await.unwrap_err()
    else {
        panic!("started")
    };
    assert_eq!(
        wrong,
        [
            "start_deadline is zero: no worker can be ready in that time",
            "the heartbeat's interval is zero: the host would do nothing but ping",
            "the heartbeat's stuck_after is zero: no worker can answer in that time",
        ]
    );
}

#[cfg(feature = "backend-exec")]
#[tokio::test(flavor = "multi_thread")]
async fn a_containment_level_that_is_not_to_be_had_fails_the_start_at_once() {
    use snakepit::{
        backend_exec::{ExecLauncher, ExecSettings},
        core::process::ContainmentLevel,
    };

    let settings = ExecSettings::default()
        .with_containment(ContainmentLevel::Cgroup)
        .with_cgroup_parent("/proc");
    let began = Instant::now();
    let error = start_error(builder().launcher(std::sync::Arc::new(ExecLauncher::new(settings)))).await;
    assert!(began.elapsed() < Duration::from_secs(20));
    let told = error_chain(&*error);
    assert!(
        told.contains("containment level `cgroup` is not available here: cannot create a cgroup below /proc"),
        "{told}"
    );
}

/// What takes milliseconds to import, for each worker, and nobody asked for: neither we nor the interpreter for itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_has_imported_nothing_that_it_can_do_without() {
    let pool = builder().start().await.unwrap();
    let ask = async |code: &str| -> String { pool.call("builtins:eval", (code,)).await.unwrap() };
    let python = ask("__import__('sys').executable").await;
    let worker = ask("' '.join(__import__('sys').modules)").await;
    let bare = Command::new(python)
        .args(["-P", "-c", "import sys; print(*sys.modules)"])
        .output();
    let bare = String::from_utf8(bare.unwrap().stdout).unwrap();
    let imported = |modules: &str, name: &str| modules.split_whitespace().any(|module| module == name);
    let dear = [
        "runpy",
        "importlib.util",
        "inspect",
        "asyncio",
        "typing",
        "subprocess",
        "socket",
        "logging",
    ];
    let needless: Vec<_> = dear
        .into_iter()
        .filter(|name| imported(&worker, name) && !imported(&bare, name))
        .collect();
    assert!(needless.is_empty(), "{needless:?}");
    assert!(imported(&worker, "snakepit._native"), "{worker}");
    pool.shutdown().await;
}
