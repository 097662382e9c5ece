//! Many cycles cost no descriptor, thread or zombie. Alone in its file: it counts what the whole program has.

mod common;

use common::{LONG, launch_with, settings, spec};
use snakepit_backend_exec::ExecLauncher;
use snakepit_core::launch::{LaunchSpec, Launcher};

at_every_level!();

fn entries(path: &str) -> usize {
    std::fs::read_dir(path).expect("/proc").count()
}

fn children(pid: u32) -> String {
    let mut all = String::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).expect("/proc") {
        let path = task.expect("/proc").path().join("children");
        all.push_str(&std::fs::read_to_string(path).unwrap_or_default());
    }
    all
}

/// Kilobytes that a process has resident.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("/proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let text = line.expect("it has memory").trim().trim_end_matches(" kB");
    text.parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_cycles_leave_nothing() {
    // The process that runs this one at every level has children and descriptors for that.
    if !common::is_run_for_a_level() {
        return;
    }
    let launcher = ExecLauncher::new(settings());
    let cycle = async |n: usize| {
        if n % 5 == 4 {
            let line = ["setsid_daemon.py", "same_group_child.py"][n / 5 % 2];
            let mut launched = launch_with(&launcher, &spec(line)).await;
            drop(launched.process.take());
            return;
        }
        let spec = LaunchSpec {
            program: ["true", "/no/such/program"][n % 2].into(),
            args: Vec::new(),
            ..spec("waits.py")
        };
        let process = launcher.launch(&spec).await.expect("it starts");
        match n % 4 {
            0 => {
                process.open_gate().await.expect("it executes");
                process.exited().await;
            }
            1 => assert!(process.open_gate().await.is_err()),
            2 => drop(process.signal(9)),
            _ => {}
        }
        process.end(LONG).await;
    };
    for n in 0..20 {
        cycle(n).await;
    }
    let guardian = launcher.guardian_pid().expect("it lives");
    let (fds, of_guardian) = (entries("/proc/self/fd"), format!("/proc/{guardian}/fd"));
    let guardians = entries(&of_guardian);
    let below = children(guardian);
    let memory = resident(guardian);
    for n in 0..200 {
        cycle(n).await;
    }
    // What was dropped ends in the background.
    common::eventually("all is given back", || {
        entries("/proc/self/fd") <= fds && entries(&of_guardian) <= guardians
    })
    .await;
    common::eventually("no process is left", || children(guardian).len() <= below.len()).await;
    // Its two workers, a blocking thread or more, and the threads of the test harness; never one for each process.
    let threads = entries("/proc/self/task");
    assert!(threads < 40, "{threads}");
    assert!(
        resident(guardian) < memory + 256,
        "{} kB after {memory} kB",
        resident(guardian)
    );
    assert_eq!(launcher.guardian_pid(), Some(guardian));
    launcher.shutdown(LONG).await;
    assert!(children(std::process::id()).is_empty());
}
