//! Only what is certain to belong to a dead run is ended.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{
    fs,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use common::{
    HostSpec, SLEEP, Scene, all_alive, all_gone, assert_cleaned, can_unshare, kill, of_run, run_role,
};
use snakepit_core::process::ProcessIdentity;

#[test]
#[ignore = "run by the other tests of this file, as a host"]
fn host() {
    common::host(|word, _| word.to_owned());
}

/// Starts a process that has exactly this pid, as soon as nobody else has it. In a PID namespace of our own.
fn start_as(pid: u32) -> std::process::Child {
    for _ in 0..1000 {
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).unwrap();
        let mut child = Command::new("sleep")
            .arg("600")
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        if child.id() == pid {
            return child;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    panic!("pid {pid} does not come round");
}

/// In a PID namespace of its own, of which this is the first process: a worker of a dead run ends, and its pid goes to
/// somebody else.
#[tokio::test]
#[ignore = "run by the other tests of this file, in a PID namespace"]
async fn recycles_a_pid() {
    if std::env::var_os("RECYCLE").is_none() {
        return;
    }
    let scene = Scene::new();
    let mut host = HostSpec::new(&scene, &[SLEEP, SLEEP]).start();
    let orphans = host.await_family(2);
    host.kill();
    let recycled = host.workers[0];
    let before = ProcessIdentity::of_pid(recycled).unwrap();
    kill(&before);
    // Orphans are the first process's children; its pid is free once it is reaped.
    common::eventually("it is gone", || {
        let pid = rustix::process::Pid::from_raw(i32::try_from(recycled).unwrap());
        matches!(
            rustix::process::waitpid(pid, rustix::process::WaitOptions::NOHANG),
            Ok(Some(_))
        )
    });
    // Start times are told in ticks of 10 ms. Within one of them nothing but a handle tells the two apart.
    std::thread::sleep(std::time::Duration::from_millis(20));
    let mut innocent = start_as(recycled);
    let now = ProcessIdentity::of_pid(recycled).unwrap();
    assert_eq!((now.pid, now.pgid), (before.pid, before.pgid));
    assert_ne!(now.start_ticks, before.start_ticks);
    let report = scene.cleanup().await;
    let ended = innocent.try_wait().unwrap();
    innocent.kill().unwrap();
    innocent.wait().unwrap();
    assert_eq!(ended, None, "it was killed for somebody else: {report:#?}");
    assert_cleaned(&report, host.run);
    let found = of_run(&report, host.run);
    assert_eq!((found.rows, found.found.len()), (2, 1), "{report:#?}");
    assert_eq!(found.found[0].pid, host.workers[1]);
    assert!(all_gone(&orphans));
}

fn recycle(settings: &[(&str, &std::ffi::OsStr)]) {
    let alone = ["unshare", "--pid", "--fork", "--mount-proc"];
    if can_unshare(&alone[1..]) {
        run_role("recycles_a_pid", &alone, settings);
    }
}

#[test]
fn a_process_that_got_the_pid_of_a_recorded_worker_is_not_ended() {
    recycle(&[("RECYCLE", "1".as_ref())]);
}

#[test]
fn nor_is_it_where_the_kernel_has_no_handles_and_the_start_time_decides() {
    recycle(&[("RECYCLE", "1".as_ref()), ("HOST_NO_HANDLES", "1".as_ref())]);
}

#[tokio::test]
async fn after_a_reboot_nothing_is_ended() {
    let scene = Scene::new();
    let another = "00000000-0000-4000-8000-000000000000";
    let mut host = HostSpec::new(&scene, &[SLEEP])
        .with("HOST_BOOT_ID", another)
        .start();
    // All that is left of the run is as if it were another's, though the pid and all else agree.
    let family = host.await_family(1);
    host.kill();
    let path = scene.app_dir().join(host.run.to_string()).join("host");
    let text = fs::read_to_string(&path).unwrap();
    let ours = snakepit_core::process::boot_id().unwrap();
    assert!(text.contains(ours));
    fs::write(&path, text.replace(ours, another)).unwrap();
    let options = scene.options().with_unrecorded(false);
    let report = snakepit_registry::cleanup::run(&options).await.unwrap();
    assert!(all_alive(&family), "{report:#?}");
    assert_cleaned(&report, host.run);
    assert_eq!(of_run(&report, host.run).found, []);
    assert_eq!(scene.entries(), [""; 0]);
}
