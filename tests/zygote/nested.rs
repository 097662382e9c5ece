//! Forked workers with a PID namespace each, on real Python: what they see, and that nothing in it outlives them.

use std::{collections::BTreeSet, num::NonZeroUsize, sync::Arc};

use snakepit::{
    Backend, PythonEnv,
    core::{
        RunId, WorkerId,
        launch::{ChannelForm, LaunchLimits, LaunchSpec, Launcher},
        ledger::{Ledger, MemoryLedger},
        process::{ContainmentLevel, ExitOutcome, Pidfd, Stat, descendants},
    },
};
use snakepit_backend_zygote::{TemplateError, ZygoteLauncher, ZygoteSettings};

use crate::{
    common::{Undertaker, fixtures, is_gone, until, worker_pid},
    support::{BACKENDS, forks, killed, outcome_of, pids, settings},
};

/// Whether this machine lets us make PID namespaces; says so loudly where not.
async fn is_possible() -> bool {
    let settings = settings(&[]).with_nested_namespaces(true);
    let launcher = ZygoteLauncher::new(Backend::Port.launcher().unwrap(), settings);
    let warm = launcher.warm().await;
    launcher.close().await;
    match warm {
        Err(error) if matches!(*error, TemplateError::Unnested(_)) => {
            eprintln!("SKIPPED: {error}");
            false
        }
        warm => {
            warm.unwrap();
            true
        }
    }
}

/// The first process of the worker's namespace, and its template.
fn above(worker: u32) -> (u32, u32) {
    let first = Stat::read(worker).unwrap().ppid;
    (first, Stat::read(first).unwrap().ppid)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_alone_in_its_namespace_and_its_end_is_told_exactly() {
    if !is_possible().await {
        return;
    }
    for backend in BACKENDS {
        let pool = forks(backend).nested_namespaces(true).start().await.unwrap();
        let mut undertaker = Undertaker::default();
        let (_, template) = above(worker_pid(&pool).await);
        for (function, argument, expected) in [
            ("exits:os_exit", 7, Some(ExitOutcome::Exited(7))),
            ("exits:os_exit", 0, Some(ExitOutcome::Exited(0))),
            ("signal:raise_signal", libc::SIGKILL, killed()),
        ] {
            let worker = worker_pid(&pool).await;
            undertaker.add(worker);
            let (first, from) = above(worker);
            assert_eq!(from, template, "all are forked from the same template");
            let seen: Vec<String> = pool.call("os:listdir", ("/proc",)).await.unwrap();
            let seen: BTreeSet<u32> = seen.iter().filter_map(|name| name.parse().ok()).collect();
            assert_eq!(
                seen,
                BTreeSet::from([1, 2]),
                "it sees itself and what is above it"
            );
            assert_eq!(pool.call::<_, u32>("os:getpid", ()).await.unwrap(), 2);
            let shown: [Option<String>; 3] =
                pool.call("environments", ("SNAKEPIT_WORKER_ID",)).await.unwrap();
            assert!(shown[0].is_some() && shown[0] == shown[1], "{shown:?}");
            assert_eq!(outcome_of(&pool, function, argument).await, expected);
            until("the namespace is gone", async || is_gone(first)).await;
            until("there is another worker", async || {
                pool.call::<_, u32>("naps", (0,)).await.is_ok()
            })
            .await;
        }
        let (first, _) = above(worker_pid(&pool).await);
        pool.shutdown().await;
        assert!(is_gone(first), "an end is told when the namespace is gone");
        until("the template has ended", async || is_gone(template)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nested_worker_has_no_descriptor_that_another_has_not() {
    if !is_possible().await {
        return;
    }
    let mut descriptors = Vec::new();
    for nested in [false, true] {
        let pool = forks(Backend::ZygotePort).nested_namespaces(nested);
        let pool = pool.start().await.unwrap();
        let mut open: Vec<String> = pool.call("os:listdir", ("/proc/self/fd",)).await.unwrap();
        open.sort();
        descriptors.push(open);
        pool.shutdown().await;
    }
    // It has one less: it cannot watch a host in another namespace, which the first process of its own does.
    assert!(descriptors[1].len() <= descriptors[0].len(), "{descriptors:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_a_worker_ends_with_its_last_handle() {
    if !is_possible().await {
        return;
    }
    let settings = settings(&[]).with_nested_namespaces(true);
    let launcher = ZygoteLauncher::new(Backend::Port.launcher().unwrap(), settings);
    let spec = LaunchSpec {
        run_id: RunId::current(),
        worker_id: WorkerId::next(),
        program: "/bin/sh".into(),
        args: ["-c", "env -i setsid sleep 60 & exit 0"].map(Into::into).to_vec(),
        env: Vec::new(),
        env_remove: Vec::new(),
        cwd: None,
        channel: ChannelForm::Inherited,
        limits: LaunchLimits::default(),
    };
    let process = launcher.launch(&spec).await.unwrap();
    process.open_gate().await.unwrap();
    assert_eq!(process.exited().await, ExitOutcome::Exited(0));
    let first = process.containment().keeper.unwrap();
    assert!(first.is_alive().unwrap(), "something is left in its namespace");
    drop(process);
    until("it is gone", async || !first.is_alive().unwrap()).await;
    launcher.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hides_from_everything_ends_with_its_worker() {
    if !is_possible().await {
        return;
    }
    for backend in BACKENDS {
        let pool = forks(backend)
            .nested_namespaces(true)
            .workers(2)
            .start()
            .await
            .unwrap();
        let mut undertaker = Undertaker::default();
        // In the one worker or the other.
        pool.call::<_, u32>("disguises:hide_child", ()).await.unwrap();
        let workers = pids(&pool).await;
        let hidden: Vec<(u32, u32)> = workers
            .iter()
            .flat_map(|pid| {
                let below = descendants(&Pidfd::open(*pid).unwrap()).unwrap();
                below
                    .into_iter()
                    .map(|member| (*pid, member.stat.pid))
                    .collect::<Vec<_>>()
            })
            .collect();
        let [(victim, hidden)] = hidden[..] else {
            panic!("{hidden:?}")
        };
        undertaker.add(hidden);
        Pidfd::open(victim).unwrap().signal(libc::SIGKILL).unwrap();
        until("what it had started is gone", async || is_gone(hidden)).await;
        let other = workers.into_iter().find(|pid| *pid != victim).unwrap();
        assert!(!is_gone(other));
        pool.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_dies_spares_them_and_their_ends_are_told_all_the_same() {
    if !is_possible().await {
        return;
    }
    for backend in BACKENDS {
        let pool = forks(backend).nested_namespaces(true).start().await.unwrap();
        let worker = worker_pid(&pool).await;
        let (first, template) = above(worker);
        Pidfd::open(template).unwrap().signal(libc::SIGKILL).unwrap();
        until("the template is gone", async || is_gone(template)).await;
        assert_eq!(pool.call::<_, u32>("os:getpid", ()).await.unwrap(), 2);
        assert!(!is_gone(worker));
        // By the first process of its namespace, on any kernel and whoever adopts that.
        assert_eq!(
            outcome_of(&pool, "exits:os_exit", 7).await,
            Some(ExitOutcome::Exited(7))
        );
        until("the namespace is gone", async || is_gone(first)).await;
        until("there is another, from another template", async || {
            pool.call::<_, u32>("naps", (0,)).await.is_ok()
        })
        .await;
        let (_, new) = above(worker_pid(&pool).await);
        assert_ne!(new, template);
        pool.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_process_is_recorded_as_what_keeps_the_worker() {
    if !is_possible().await {
        return;
    }
    let ledger = Arc::new(MemoryLedger::new());
    let pool = forks(Backend::ZygotePort)
        .nested_namespaces(true)
        .ledger(Arc::clone(&ledger) as Arc<dyn Ledger>)
        .start()
        .await
        .unwrap();
    let worker = worker_pid(&pool).await;
    let rows = ledger.rows().await.unwrap();
    let row = rows
        .iter()
        .find(|row| {
            row.identity
                .as_ref()
                .is_some_and(|identity| identity.pid == worker)
        })
        .unwrap();
    assert_eq!(row.containment.level, ContainmentLevel::Namespace);
    let keeper = row.containment.keeper.as_ref().unwrap();
    assert_eq!(keeper.pid, above(worker).0);
    // Which is what a cleanup kills.
    keeper.open().unwrap().unwrap().signal(libc::SIGKILL).unwrap();
    until("the worker goes with it", async || is_gone(worker)).await;
    pool.shutdown().await;
    assert_eq!(ledger.rows().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_namespace_can_be_had_the_template_says_what_is_missing() {
    if !is_possible().await {
        return;
    }
    let command = PythonEnv::builder().build().unwrap().command(NonZeroUsize::MIN);
    // In a user namespace that may have no PID namespaces.
    let script = "echo 0 > /proc/sys/user/max_pid_namespaces && exec \"$0\" \"$@\"";
    let args = ["--user", "--map-root-user", "sh", "-c", script].map(Into::into);
    let args = args
        .into_iter()
        .chain([command.program.into_os_string()])
        .chain(command.args);
    let settings = ZygoteSettings::new("unshare", args)
        .with_env(command.env)
        .with_paths([fixtures()])
        .with_nested_namespaces(true);
    let launcher = ZygoteLauncher::new(Backend::Port.launcher().unwrap(), settings);
    match launcher.warm().await.unwrap_err().as_ref() {
        TemplateError::Unnested(why) => assert!(why.contains("make a PID namespace"), "{why}"),
        TemplateError::Exited { stderr_tail, .. } if stderr_tail.contains("max_pid_namespaces") => {
            eprintln!("SKIPPED: {stderr_tail}");
        }
        other => panic!("{other}"),
    }
}
