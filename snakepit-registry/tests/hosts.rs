//! Several hosts at a time, and hosts that die in unusual ways.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(unsafe_code, reason = "a host that forks without executing a program")]

mod common;

use std::{fs, pin::pin, sync::Arc, task::Poll};

use common::{
    HostSpec, SLEEP, Scene, TREE, all_alive, all_gone, assert_cleaned, can_unshare, eventually, hold, of_run,
    role, row,
};
use snakepit_core::{WorkerId, ledger::Ledger, process::ProcessIdentity};
use snakepit_registry::{
    Registry,
    cleanup::{self, FoundBy, ProcessEnd, RunState},
};

#[test]
#[ignore = "run by the other tests of this file, as a host"]
fn host() {
    common::host(answer);
}

#[test]
#[ignore = "run by the other tests of this file, as somebody who cleans up"]
fn cleaner() {
    common::cleaner();
}

/// What a host does when it is told to.
fn answer(word: &str, registry: &Arc<Registry>) -> String {
    match word {
        "fork" => fork(registry).to_string(),
        "rows" => format!("{:?}", futures_free_rows(registry)),
        _ => "what?".to_owned(),
    }
}

/// Forks. The child tries what a host may do with its registry, drops it, and stays.
fn fork(registry: &Arc<Registry>) -> i32 {
    // SAFETY: nothing is done in the child that another thread of the parent could be in the middle of, but for memory
    // allocation, which glibc keeps usable over a fork.
    let pid = unsafe { libc::fork() };
    if pid != 0 {
        return pid;
    }
    let refused = now(registry.reserve(row(WorkerId(77)))).is_err();
    // SAFETY: the count is ours since the fork; with it the child's only handle goes, as if main had returned.
    unsafe { Arc::decrement_strong_count(Arc::as_ptr(registry)) };
    if !refused {
        std::process::abort();
    }
    loop {
        std::thread::park();
    }
}

/// The result of a future that does not wait.
fn now<T>(future: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("it waits"),
    }
}

fn futures_free_rows(registry: &Arc<Registry>) -> usize {
    now(registry.rows()).unwrap().len()
}

#[tokio::test]
async fn hosts_of_one_application_neither_see_nor_block_nor_end_each_other() {
    let scene = Scene::new();
    let mut hosts: Vec<_> = (0..4).map(|_| scene.host(&[TREE, SLEEP])).collect();
    let families: Vec<_> = hosts.iter().map(|host| host.await_family(3)).collect();
    let report = scene.cleanup().await;
    assert_eq!(report.runs.len(), 4);
    for run in &report.runs {
        assert_eq!((run.state, run.rows), (RunState::Alive, 2), "{report:#?}");
    }
    hosts[0].kill();
    assert!(all_alive(&families[0]), "the port backend's documented remainder");
    let report = scene.cleanup().await;
    assert_cleaned(&report, hosts[0].run);
    let found = of_run(&report, hosts[0].run);
    assert_eq!(
        (found.rows, found.count(ProcessEnd::Ended)),
        (2, 3),
        "{report:#?}"
    );
    assert!(all_gone(&families[0]));
    for (host, family) in hosts.iter_mut().zip(&families).skip(1) {
        assert!(all_alive(family), "{report:#?}");
        assert_eq!(host.ask("rows"), "2");
        host.close();
        assert!(all_gone(family));
    }
    assert_eq!(scene.entries(), [""; 0]);
}

#[test]
fn all_that_holds_for_a_user_who_may_do_nothing_special() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can be somebody else; the other tests are this one");
        return;
    }
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    for name in [
        "hosts_of_one_application_neither_see_nor_block_nor_end_each_other",
        "a_fork_of_the_host_neither_writes_nor_keeps_its_run_alive",
        "processes_of_a_dead_host_without_a_record_are_found_by_what_their_environment_says_of_it",
    ] {
        common::run_role(name, &nobody, &[]);
    }
}

#[tokio::test]
async fn a_fork_of_the_host_neither_writes_nor_keeps_its_run_alive() {
    let scene = Scene::new();
    let mut host = scene.host(&[SLEEP]);
    let family = host.await_family(1);
    let fork: u32 = host.ask("fork").parse().unwrap();
    let fork = ProcessIdentity::of_pid(fork).unwrap();
    eventually("the fork has dropped its copy", || {
        let text = fs::read_to_string(format!("/proc/{}/wchan", fork.pid)).unwrap_or_default();
        text.contains("futex") || text == "0"
    });
    assert_eq!(host.ask("rows"), "1");
    assert_eq!(of_run(&scene.cleanup().await, host.run).state, RunState::Alive);
    host.kill();
    let report = scene.cleanup().await;
    let forked = fork.is_alive().unwrap();
    common::kill(&fork);
    assert_cleaned(&report, host.run);
    assert!(all_gone(&family));
    assert!(
        forked,
        "a fork carries nothing of the run and is nobody's business"
    );
    assert_eq!(scene.entries(), [""; 0]);
}

#[tokio::test]
async fn a_host_that_dies_slowly_counts_as_dead_at_once() {
    let scene = Scene::new();
    let mut host = HostSpec::new(&scene, &[TREE]).with("HOST_MIB", "1200").start();
    let family = host.await_family(2);
    let pidfd = hold(host.child.id());
    host.child.kill().unwrap();
    let mut looks = 0;
    let report = loop {
        let report = scene.cleanup().await;
        looks += 1;
        // Until the signal has been taken it lives.
        if of_run(&report, host.run).state != RunState::Alive {
            break report;
        }
        assert!(looks < 1000);
    };
    println!("{looks} looks, the host was still there: {}", !pidfd.has_exited());
    assert_cleaned(&report, host.run);
    assert!(all_gone(&family));
    assert_eq!(scene.entries(), [""; 0]);
}

/// A worker of a dead run cleans up. Then `script` says how it is run, `$CLEANER` being the command.
async fn cleans_up_inside(script: &str, ancestors: usize) {
    let scene = Scene::new();
    let report = scene.file("report");
    let command = role("cleaner", &[]);
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_str().unwrap()).collect();
    // What its harness prints must not go to the host, which is dead perhaps before it begins to.
    let command = format!("{} >{} 2>&1", words.join(" "), scene.file("output").display());
    let script = script.replace("$CLEANER", &command);
    let mut host = HostSpec::new(&scene, &[&script, TREE])
        .with("CLEAN_STATE", scene.state())
        .with("CLEAN_APP", &scene.app)
        .with("CLEAN_REPORT", &report)
        .with("CLEAN_WHEN", scene.file("go"))
        .start();
    let family = host.await_family(4);
    host.kill();
    fs::write(scene.file("go"), "").unwrap();
    eventually("the report is there", || report.exists());
    let inside: serde_json::Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    let run = &inside["runs"][0];
    assert_eq!(run["record"], "kept", "{inside:#}");
    let left: Vec<_> = run["found"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|process| process["end"] == "left")
        .collect();
    assert_eq!(left.len(), 1 + ancestors, "{inside:#}");
    for process in left {
        assert_eq!(process["why"], "this cleanup runs inside it", "{inside:#}");
    }
    let report = scene.cleanup().await;
    assert_cleaned(&report, host.run);
    assert!(all_gone(&family));
}

#[tokio::test]
async fn a_cleanup_inside_a_worker_of_the_dead_run_ends_all_but_itself_and_its_ancestors() {
    cleans_up_inside("$CLEANER; exec sleep 600", 1).await;
}

#[tokio::test]
async fn a_cleanup_in_the_group_of_a_worker_that_is_no_ancestor_of_it_survives_that_workers_end() {
    cleans_up_inside("($CLEANER &) ; exec sleep 600", 0).await;
}

#[tokio::test]
async fn what_ran_in_another_pid_namespace_is_found_by_its_environment() {
    if !can_unshare(&["--pid", "--fork", "--mount-proc"]) {
        return;
    }
    let scene = Scene::new();
    // The shell is the first process of the namespace and outlives the host in it.
    let shell = [
        "unshare",
        "--pid",
        "--fork",
        "--mount-proc",
        "--kill-child",
        "sh",
        "-c",
        "exec 3<&0; \"$@\" <&3 & wait; exec sleep 600",
        "sh",
    ];
    let host = HostSpec::new(&scene, &[TREE]).behind(&shell).start();
    // By the pids that they have here.
    let family = host.await_family(2);
    let report = scene.cleanup().await;
    assert_eq!(
        of_run(&report, host.run).state,
        RunState::Alive,
        "its lock is held"
    );
    let outer = family_parent(&family);
    common::kill(&outer);
    eventually("the host is gone", || !outer.is_alive().unwrap());
    let report = scene.cleanup().await;
    assert_cleaned(&report, host.run);
    let found = of_run(&report, host.run);
    assert!(
        found
            .found
            .iter()
            .all(|process| process.by == FoundBy::Environment)
    );
    assert!(
        found.notes.iter().any(|note| note.contains("PID namespace")),
        "{report:#?}"
    );
    assert!(all_gone(&family));
}

/// The host, as it is seen from here: the parent of the worker that is its direct child.
fn family_parent(family: &[ProcessIdentity]) -> ProcessIdentity {
    let leader = family.iter().find(|who| {
        who.pgid == who.pid && {
            let stat = snakepit_core::process::Stat::read(who.pid).unwrap();
            let parent = fs::read(format!("/proc/{}/cmdline", stat.ppid)).unwrap_or_default();
            parent.windows(6).any(|part| part == b"host\0-")
        }
    });
    let parent = snakepit_core::process::Stat::read(leader.unwrap().pid)
        .unwrap()
        .ppid;
    ProcessIdentity::of_pid(parent).unwrap()
}

#[tokio::test]
async fn from_a_new_pid_namespace_the_lock_alone_tells_who_lives() {
    if !can_unshare(&["--pid", "--fork", "--mount-proc"]) {
        return;
    }
    let scene = Scene::new();
    let (mut dead, living) = (scene.host(&[SLEEP]), scene.host(&[TREE]));
    dead.await_family(1);
    let family = living.await_family(2);
    dead.kill();
    let report = scene.file("report");
    common::run_role(
        "cleaner",
        &["unshare", "--pid", "--fork", "--mount-proc"],
        &[
            ("CLEAN_STATE", scene.state().as_os_str()),
            ("CLEAN_APP", scene.app.as_ref()),
            ("CLEAN_REPORT", report.as_os_str()),
        ],
    );
    let done: serde_json::Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    let state = |run: &str| {
        let runs = done["runs"].as_array().unwrap();
        runs.iter().find(|found| found["run_id"] == run).unwrap().clone()
    };
    assert_eq!(state(&living.run.to_string())["state"], "alive");
    let dead = state(&dead.run.to_string());
    assert_eq!(dead["state"], "dead");
    assert!(
        dead["notes"][0].as_str().unwrap().contains("PID namespace"),
        "{done:#}"
    );
    assert!(all_alive(&family));
}

#[tokio::test]
async fn processes_of_a_dead_host_without_a_record_are_found_by_what_their_environment_says_of_it() {
    let scene = Scene::new();
    // Nothing can be recorded below a file.
    fs::write(scene.state(), "").unwrap();
    let host = || {
        HostSpec::new(&scene, &[TREE])
            .with("HOST_BEST_EFFORT", "1")
            .start()
    };
    let (mut dead, living) = (host(), host());
    let (orphans, family) = (dead.await_family(2), living.await_family(2));
    dead.kill();
    fs::remove_file(scene.state()).unwrap();
    // Neither another application's nor one's of the same name with records elsewhere.
    for (state, app) in [
        (scene.state(), "another"),
        (scene.file("elsewhere"), scene.app.as_str()),
    ] {
        let other = cleanup::CleanupOptions::new(state, app);
        assert_eq!(cleanup::run(&other).await.unwrap().runs, []);
    }
    let looked = cleanup::run(&scene.options().with_dry_run(true)).await.unwrap();
    assert_eq!(of_run(&looked, dead.run).found.len(), 2);
    assert!(all_alive(&orphans));
    let report = scene.cleanup().await;
    let found = of_run(&report, dead.run);
    assert_eq!(
        (found.state, found.host_pid),
        (RunState::Unrecorded, Some(dead.pid))
    );
    assert!(report.is_clean() && all_gone(&orphans), "{report:#?}");
    assert!(all_alive(&family));
    assert_eq!(report.runs.len(), 1);
}

#[tokio::test]
async fn a_cgroup_of_the_run_is_killed_as_a_whole_and_removed() {
    let Some(own) = snakepit_core::process::cgroup::Cgroup::own().unwrap() else {
        eprintln!("SKIPPED: there is no cgroup v2 here");
        return;
    };
    let scene = Scene::new();
    let cgroup = own.child(&scene.app);
    if let Err(error) = cgroup.create() {
        eprintln!("SKIPPED: no cgroup can be made here: {error}");
        return;
    }
    // What it starts after it was moved is in the cgroup whatever it does to its environment.
    let mut host = HostSpec::new(&scene, &["sleep 0.2; env -i setsid sleep 600 & exec sleep 600"])
        .with("HOST_CGROUP", cgroup.path())
        .start();
    eventually("they are in it", || {
        let names = cgroup.processes().unwrap();
        let is_sleep = |pid: &u32| {
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            arguments == b"sleep\x00600\0"
        };
        names.len() == 2 && names.iter().all(is_sleep)
    });
    host.kill();
    let report = scene.cleanup().await;
    let left = cgroup.processes().unwrap();
    // Before anything can fail.
    cgroup.kill().unwrap();
    assert_cleaned(&report, host.run);
    let found = &of_run(&report, host.run).found;
    let by = |by| found.iter().filter(|process| process.by == by).count();
    assert_eq!((by(FoundBy::Record), by(FoundBy::Cgroup)), (1, 1), "{report:#?}");
    assert!(left.is_empty(), "{left:?}");
    assert!(!cgroup.child(&format!("snakepit-{}", host.run)).exists());
    cgroup.remove(common::PATIENCE).unwrap();
}
