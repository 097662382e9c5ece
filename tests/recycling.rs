//! Workers are replaced, and pools restarted, on real workers, and no caller notices.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use common::{builder, is_gone, until, worker_pid};
use snakepit::{
    EventKind, Pool, PoolBuilder, ReconfigureError, ReplaceCause, RestartError, Value,
    core::{
        rpc::error_chain,
        supervision::{ReplaceError, Sampler},
    },
};
use tokio::task::JoinHandle;

async fn pids(pool: &Pool) -> BTreeSet<u32> {
    let status = pool.status().await;
    status
        .workers
        .iter()
        .filter_map(|worker| worker.child.status.pid)
        .collect()
}

/// Waits until the pool has exactly its workers again, and nothing is left of those it had before.
async fn settles(pool: &Pool, before: &BTreeSet<u32>) {
    until("the replaced workers are gone", async || {
        let now = pids(pool).await;
        before.difference(&now).all(|pid| is_gone(*pid))
    })
    .await;
}

/// A directory with an adapter `version` whose `answer` is this.
fn write(dir: &Path, answer: &str) {
    let code =
        format!("import os\n\ndef answer():\n    return {answer}\n\ndef pid():\n    return os.getpid()\n");
    std::fs::write(dir.join("version.py"), code).unwrap();
}

fn of(dir: &Path) -> PoolBuilder {
    builder().path(dir).adapter("version")
}

/// Calls all the time, until told to stop; what each was answered.
struct Callers {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<BTreeSet<String>>>,
}

impl Callers {
    fn start(pool: &Pool, count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let call = |_| {
            let (pool, stop) = (pool.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut answers = BTreeSet::new();
                while !stop.load(Ordering::Relaxed) {
                    answers.insert(pool.call::<_, String>("answer", ()).await.unwrap());
                }
                answers
            })
        };
        let tasks = (0..count).map(call).collect();
        Self { stop, tasks }
    }

    async fn answers(self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut answers = BTreeSet::new();
        for task in self.tasks {
            answers.extend(task.await.unwrap());
        }
        answers
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_worker_after_every_call_under_sixteen_callers_fails_none() {
    let pool = builder().workers(2).max_calls(1).start().await.unwrap();
    let callers: Vec<_> = (0..16)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let mut pids = BTreeSet::new();
                for _ in 0..100 {
                    pids.insert(pool.call::<_, u32>("slow:pid", ()).await.unwrap());
                }
                pids
            })
        })
        .collect();
    let mut seen = BTreeSet::new();
    for caller in callers {
        seen.extend(caller.await.unwrap());
    }
    // However fast the calls were: the first ones are the last ones of their workers.
    let first = seen.clone();
    until("others take over", async || {
        seen.insert(pool.call::<_, u32>("slow:pid", ()).await.unwrap());
        seen.len() > first.len().max(2)
    })
    .await;
    settles(&pool, &seen).await;
    pool.shutdown().await;
    assert!(seen.iter().all(|pid| is_gone(*pid)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_on_a_worker_whose_time_is_over_finishes() {
    let dir = tempfile::tempdir().unwrap();
    let go = dir.path().join("go");
    let pool = builder()
        .max_age(Duration::from_millis(500))
        .start()
        .await
        .unwrap();
    let mut events = pool.events();
    let long = tokio::spawn({
        let (pool, go) = (pool.clone(), go.clone());
        async move { pool.call::<_, Value>("gates:for_file", (&go,)).await }
    });
    until("it runs", async || pool.status().await.busy == 1).await;
    let old = worker_pid(&pool).await;
    let by = loop {
        match events.recv().await.unwrap().kind {
            EventKind::ReplacementStarted { cause, .. } => {
                assert!(matches!(cause, ReplaceCause::Age(_)), "{cause}")
            }
            EventKind::WorkerReplaced { by, .. } => break by,
            _ => {}
        }
    };
    // Others are served, and the tree shows both.
    assert_ne!(pool.call::<_, u32>("slow:pid", ()).await.unwrap(), old);
    let status = pool.status().await.workers[0].child.status.clone();
    assert_eq!(
        (status.worker, status.leaving.unwrap().pid),
        (Some(by), Some(old))
    );
    let tree = pool.tree().await.to_string();
    assert!(tree.contains("finishes its calls"), "{tree}");
    assert!(!is_gone(old) && !long.is_finished());
    std::fs::write(&go, "").unwrap();
    long.await.unwrap().unwrap();
    until("it is gone", async || is_gone(old)).await;
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_leaks_is_replaced_between_calls() {
    Sampler::host().set_interval(Duration::from_millis(100));
    let dir = tempfile::tempdir().unwrap();
    let leaks = "kept = []\n\ndef leak(bytes):\n    kept.append(b'x' * bytes)\n    return len(kept)\n";
    std::fs::write(dir.path().join("leaks.py"), leaks).unwrap();
    let limit = 150 << 20;
    let pool = builder().path(dir.path()).max_rss(limit).start().await.unwrap();
    let mut events = pool.events();
    let first = worker_pid(&pool).await;
    let mut leaked = 0;
    until("it is replaced", async || {
        leaked = pool.call::<_, u64>("leaks:leak", (10 << 20,)).await.unwrap();
        leaked == 1 && worker_pid(&pool).await != first
    })
    .await;
    let cause = loop {
        if let EventKind::ReplacementStarted { cause, .. } = events.recv().await.unwrap().kind {
            break cause;
        }
    };
    let ReplaceCause::Memory { rss_bytes } = cause else {
        panic!("{cause}")
    };
    assert!(rss_bytes > limit);
    settles(&pool, &[first].into()).await;
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_loads_new_code_under_eight_callers_and_fails_none() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "'old'");
    let pool = of(dir.path()).workers(3).start().await.unwrap();
    let before = pids(&pool).await;
    let callers = Callers::start(&pool, 8);
    write(dir.path(), "'the new one'");
    let done = pool.restart().await.unwrap();
    assert_eq!((done.slots, done.draining), (3, 0));
    assert!(
        before.iter().all(|pid| is_gone(*pid)),
        "nothing of the old version is left"
    );
    assert!(before.is_disjoint(&pids(&pool).await));
    for _ in 0..20 {
        assert_eq!(pool.call::<_, String>("answer", ()).await.unwrap(), "the new one");
    }
    let answers = callers.answers().await;
    assert!(answers.contains("the new one"), "{answers:?}");
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_lets_a_call_that_runs_finish_while_the_new_code_serves() {
    let dir = tempfile::tempdir().unwrap();
    let go = dir.path().join("go");
    write(dir.path(), "'old'");
    let pool = of(dir.path()).start().await.unwrap();
    let old = worker_pid(&pool).await;
    let long = tokio::spawn({
        let (pool, go) = (pool.clone(), go.clone());
        async move { pool.call::<_, Value>("gates:for_file", (&go,)).await }
    });
    until("it runs", async || pool.status().await.busy == 1).await;
    write(dir.path(), "'the new one'");
    let restart = tokio::spawn({
        let pool = pool.clone();
        async move { pool.restart().await }
    });
    until("the new code serves", async || {
        pool.call::<_, String>("answer", ()).await.unwrap() == "the new one"
    })
    .await;
    assert!(!long.is_finished() && !is_gone(old));
    std::fs::write(&go, "").unwrap();
    long.await.unwrap().unwrap();
    let done = restart.await.unwrap().unwrap();
    assert_eq!(done.slots, 1);
    settles(&pool, &[old].into()).await;
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_broken_leaves_the_old_one_serving_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "'good'");
    let pool = of(dir.path()).workers(2).start().await.unwrap();
    let before = pids(&pool).await;
    write(dir.path(), "'half a li");
    let error = pool.restart().await.unwrap_err();
    let text = error_chain(&error);
    assert!(text.contains("0 of 2 slots have a new worker"), "{text}");
    assert!(text.contains("SyntaxError"), "{text}");
    let RestartError::Failed {
        error: ReplaceError::Failed { error, .. },
        ..
    } = error
    else {
        panic!("{text}")
    };
    let traceback = error.traceback().unwrap();
    assert!(traceback.contains("version.py\", line 4"), "{traceback}");
    assert_eq!(pids(&pool).await, before);
    assert_eq!(pool.call::<_, String>("answer", ()).await.unwrap(), "good");
    write(dir.path(), "'mended'");
    assert_eq!(pool.restart().await.unwrap().slots, 2);
    assert_eq!(pool.call::<_, String>("answer", ()).await.unwrap(), "mended");
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_settings_reach_every_worker_and_wrong_ones_none() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "os.getenv('COLOUR', 'none')");
    let pool = of(dir.path()).workers(2).start().await.unwrap();
    let callers = Callers::start(&pool, 4);
    pool.restart_with(of(dir.path()).workers(2).env("COLOUR", "red"))
        .await
        .unwrap();
    for _ in 0..20 {
        assert_eq!(pool.call::<_, String>("answer", ()).await.unwrap(), "red");
    }
    let answers = callers.answers().await;
    assert!(
        answers.is_subset(&["none".to_owned(), "red".to_owned()].into()),
        "{answers:?}"
    );

    let missing = of(dir.path()).workers(2).adapter("no_such_adapter");
    let error = pool.restart_with(missing).await.unwrap_err();
    assert!(
        error_chain(&error).contains("no_such_adapter"),
        "{}",
        error_chain(&error)
    );
    let other = of(dir.path()).workers(3).name("another");
    let error = pool.restart_with(other).await.unwrap_err();
    let text = error_chain(&error);
    assert!(matches!(error, ReconfigureError::Settings(_)), "{text}");
    assert!(
        text.contains("cannot change that of pool `test`") && text.contains("the size"),
        "{text}"
    );
    // What crashes now comes back as it was last.
    let before = pids(&pool).await;
    pool.call::<_, Value>("os:_exit", (1,)).await.unwrap_err();
    until("it is replaced", async || {
        let status = pool.status().await;
        status.ready == 2 && pids(&pool).await != before
    })
    .await;
    for _ in 0..20 {
        assert_eq!(pool.call::<_, String>("answer", ()).await.unwrap(), "red");
    }
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_change_are_loaded_and_those_that_do_not_load_wait_for_the_next_change() {
    let dir = tempfile::tempdir().unwrap();
    let package = dir.path().join("package");
    std::fs::create_dir(&package).unwrap();
    write(&package, "'one'");
    let pool = of(&package).workers(2).start().await.unwrap();
    let mut events = pool.events();
    let _reloading = pool.reload_on_change([dir.path()]).await;
    let callers = Callers::start(&pool, 2);
    let answers = async |wanted: &str| {
        let mut all = true;
        for _ in 0..20 {
            all &= pool.call::<_, String>("answer", ()).await.unwrap() == wanted;
        }
        all
    };
    // What is not Python does not count.
    std::fs::write(package.join("notes.txt"), "one").unwrap();
    write(&package, "'number two'");
    until("the change is loaded", async || answers("number two").await).await;
    let before = pids(&pool).await;
    write(&package, "'number two and a ha");
    loop {
        match events.recv().await.unwrap().kind {
            EventKind::ReplacementFailed { error, .. } => {
                assert!(error.traceback().unwrap().contains("version.py"));
                break;
            }
            EventKind::WorkerStartFailed { error, .. } => panic!("a worker that served was touched: {error}"),
            _ => {}
        }
    }
    assert_eq!(pids(&pool).await, before);
    write(&package, "'three'");
    until("the next change is loaded", async || answers("three").await).await;
    let seen = callers.answers().await;
    let good = ["one", "number two", "three"].map(str::to_owned).into();
    assert!(seen.is_subset(&good), "{seen:?}");
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_hooks_run_in_workers_that_are_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("stopped");
    let code = format!(
        "import os, snakepit\n\n@snakepit.on_stop\ndef stop():\n    open({log:?}, 'a').write(f'{{os.getpid()}}\\n')\n"
    );
    std::fs::write(dir.path().join("hooked.py"), code).unwrap();
    let pool = builder()
        .path(dir.path())
        .adapter("hooked")
        .start()
        .await
        .unwrap();
    let old = worker_pid(&pool).await;
    pool.restart().await.unwrap();
    assert_eq!(std::fs::read_to_string(&log).unwrap(), format!("{old}\n"));
    pool.shutdown().await;
}

#[cfg(feature = "backend-exec")]
#[tokio::test(flavor = "multi_thread")]
async fn the_exec_backend_replaces_workers_with_all_that_they_have_started() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "'old'");
    let pool = of(dir.path())
        .workers(2)
        .backend(snakepit::Backend::Exec)
        .start()
        .await
        .unwrap();
    let before = pids(&pool).await;
    let callers = Callers::start(&pool, 8);
    write(dir.path(), "'the new one'");
    assert_eq!(pool.restart().await.unwrap().slots, 2);
    assert!(before.iter().all(|pid| is_gone(*pid)));
    assert_eq!(pool.call::<_, String>("answer", ()).await.unwrap(), "the new one");
    callers.answers().await;
    let after = pids(&pool).await;
    pool.shutdown().await;
    assert!(after.iter().all(|pid| is_gone(*pid)));
}
