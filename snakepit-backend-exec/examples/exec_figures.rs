//! Prints what this backend costs on this machine, level by level.
//!
//! `cargo run --release -p snakepit-backend-exec --example exec_figures [MIB [CROWD]]` touches MIB MiB first, as a large
//! host would have, and starts CROWD processes (100) where it starts many.

use std::{sync::Arc, time::Duration};

use snakepit_backend_exec::{ExecLauncher, ExecSettings};
use snakepit_core::{
    RunId, WorkerId,
    launch::{ChannelForm, LaunchLimits, LaunchSpec, LaunchedProcess, Launcher},
    process::ContainmentLevel,
};
use tokio::time::Instant;

const GRACE: Duration = Duration::from_secs(5);

fn spec() -> LaunchSpec {
    LaunchSpec {
        run_id: RunId::current(),
        worker_id: WorkerId::next(),
        // With its path, so that no look-up in `PATH` is measured.
        program: "/bin/sleep".into(),
        args: vec!["60".into()],
        env: Vec::new(),
        env_remove: Vec::new(),
        cwd: None,
        channel: ChannelForm::Inherited,
        limits: LaunchLimits::default(),
    }
}

async fn launch(launcher: &ExecLauncher) -> Arc<dyn LaunchedProcess> {
    launcher.launch(&spec()).await.expect("`sleep` is installed")
}

async fn start(launcher: ExecLauncher) -> Arc<dyn LaunchedProcess> {
    let process = launch(&launcher).await;
    process.open_gate().await.expect("`sleep` is installed");
    process
}

fn show(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    println!(
        "  {what:40} p50 {:>9.3?}  p95 {:>9.3?}  max {:>9.3?}",
        at(50),
        at(95),
        at(100)
    );
}

/// A field of `/proc/PID/status`, as it stands there.
fn memory(pid: u32, field: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value = status.lines().find_map(|line| line.strip_prefix(field));
    value
        .unwrap_or_default()
        .trim_start_matches(':')
        .trim()
        .to_owned()
}

async fn level(name: &str, settings: ExecSettings, crowd_size: usize) {
    let launcher = ExecLauncher::new(settings.clone());
    match launcher.ready().await {
        Ok(report) => println!("{name}: {report}"),
        Err(error) => {
            println!("{name}: {error}");
            return;
        }
    }
    let guardian = launcher.guardian_pid().expect("it is ready");
    let mut starts = Vec::new();
    for _ in 0..50 {
        let launcher = ExecLauncher::new(settings.clone());
        let begun = Instant::now();
        launcher.ready().await.expect("it was ready before");
        starts.push(begun.elapsed());
        launcher.shutdown(GRACE).await;
    }
    show("start of the guardian", starts);

    let (mut launches, mut gates, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..300 {
        let begun = Instant::now();
        let process = launch(&launcher).await;
        launches.push(begun.elapsed());
        let begun = Instant::now();
        process.open_gate().await.expect("it executes");
        gates.push(begun.elapsed());
        let begun = Instant::now();
        process.end(GRACE).await;
        ends.push(begun.elapsed());
    }
    show("launch up to the gate, one at a time", launches);
    show("gate to the program executed", gates);
    show("end of an obedient process", ends);

    let mut exits = Vec::new();
    for _ in 0..100 {
        let process = start(launcher.clone()).await;
        let begun = Instant::now();
        process.signal(9).expect("it runs");
        process.exited().await;
        exits.push(begun.elapsed());
        process.end(GRACE).await;
    }
    show("SIGKILL to exit known", exits);

    let (mut launches, mut ends) = (Vec::new(), Vec::new());
    let mut keeper = String::new();
    for _ in 0..10 {
        let begun = Instant::now();
        let launching: Vec<_> = (0..crowd_size)
            .map(|_| tokio::spawn(start(launcher.clone())))
            .collect();
        let mut crowd = Vec::new();
        for one in launching {
            crowd.push(one.await.expect("no panic"));
        }
        launches.push(begun.elapsed());
        if let Some(one) = crowd[0].containment().keeper {
            keeper = format!(
                "{}, of its own {}",
                memory(one.pid, "VmRSS"),
                memory(one.pid, "RssAnon")
            );
        }
        let begun = Instant::now();
        let ending: Vec<_> = crowd
            .into_iter()
            .map(|process| tokio::spawn(async move { process.end(GRACE).await }))
            .collect();
        for one in ending {
            assert!(one.await.expect("no panic").remaining.is_empty());
        }
        ends.push(begun.elapsed());
    }
    show(&format!("{crowd_size} starts in parallel"), launches);
    show(&format!("{crowd_size} ends in parallel"), ends);
    println!(
        "  resident: the guardian {}, of its own {}; a keeper {keeper}",
        memory(guardian, "VmRSS"),
        memory(guardian, "RssAnon"),
    );
    let shutdown = launcher.shutdown(GRACE).await;
    println!("  shutdown with nothing running: {:.3?}", shutdown.took);
}

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let mib: usize = args.next().map_or(0, |arg| arg.parse().expect("a number of MiB"));
    let crowd_size: usize = args.next().map_or(100, |arg| arg.parse().expect("a number"));
    let ballast = vec![1_u8; mib << 20];
    println!("{mib} MiB touched");
    let named = |level| ExecSettings::default().with_containment(level);
    for (name, settings) in [
        ("namespace", named(ContainmentLevel::Namespace)),
        (
            "shared namespace",
            named(ContainmentLevel::Namespace).with_shared_namespace(true),
        ),
        ("cgroup", named(ContainmentLevel::Cgroup)),
        ("subreaper", named(ContainmentLevel::Subreaper)),
    ] {
        level(name, settings, crowd_size).await;
    }
    drop(ballast);
}
