//! Prints what this backend costs on this machine.
//!
//! `cargo run --release -p snakepit-backend-port --example port_figures [MIB [CROWD]]` touches MIB MiB first, as a large
//! host would have, and starts CROWD processes (100) where it starts many.

use std::{sync::Arc, time::Duration};

use snakepit_backend_port::PortLauncher;
use snakepit_core::{
    RunId, WorkerId,
    launch::{ChannelForm, LaunchLimits, LaunchSpec, LaunchedProcess, Launcher},
    process::sweep::{SweepQuery, SweepTarget, sweep},
};
use tokio::time::Instant;

const GRACE: Duration = Duration::from_secs(5);

fn spec() -> LaunchSpec {
    LaunchSpec {
        run_id: RunId::current(),
        worker_id: WorkerId::next(),
        program: "sleep".into(),
        args: vec!["60".into()],
        env: Vec::new(),
        env_remove: Vec::new(),
        cwd: None,
        channel: ChannelForm::Inherited,
        limits: LaunchLimits::default(),
    }
}

async fn launch() -> Arc<dyn LaunchedProcess> {
    let launched = PortLauncher::new().launch(&spec()).await;
    launched.expect("`sleep` is installed")
}

fn show(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    println!(
        "{what:40} p50 {:>9.3?}  p95 {:>9.3?}  max {:>9.3?}",
        at(50),
        at(95),
        at(100)
    );
}

#[tokio::main]
async fn main() {
    let mib: usize = std::env::args()
        .nth(1)
        .map_or(0, |arg| arg.parse().expect("a number of MiB"));
    let crowd_size: usize = std::env::args()
        .nth(2)
        .map_or(100, |arg| arg.parse().expect("a number"));
    let ballast = vec![1_u8; mib << 20];
    let others = std::fs::read_dir("/proc").map_or(0, |dir| {
        dir.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
            .count()
    });
    println!("{mib} MiB touched, {others} processes on the machine");

    let (mut launches, mut ends, mut takes) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..100 {
        let begun = Instant::now();
        let process = launch().await;
        launches.push(begun.elapsed());
        let begun = Instant::now();
        let report = process.end(GRACE).await;
        ends.push(begun.elapsed());
        takes.push(report.took);
    }
    show("launch, one at a time", launches);
    show("end of an obedient process, as awaited", ends);
    show("end of an obedient process, as reported", takes);

    let mut exits = Vec::new();
    for _ in 0..100 {
        let process = launch().await;
        let begun = Instant::now();
        process.signal(9).expect("it runs");
        process.exited().await;
        exits.push(begun.elapsed());
        process.end(GRACE).await;
    }
    show("SIGKILL to exit known", exits);

    let (mut launches, mut ends) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        let begun = Instant::now();
        let launching: Vec<_> = (0..crowd_size).map(|_| tokio::spawn(launch())).collect();
        let mut crowd = Vec::new();
        for one in launching {
            crowd.push(one.await.expect("no panic"));
        }
        launches.push(begun.elapsed());
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
    show(&format!("{crowd_size} launches in parallel"), launches);
    show(&format!("{crowd_size} ends in parallel"), ends);

    let mut sweeps = Vec::new();
    for _ in 0..100 {
        let begun = Instant::now();
        let target = SweepTarget::Run(RunId::random());
        sweep(SweepQuery::new(target)).await.expect("/proc is readable");
        sweeps.push(begun.elapsed());
    }
    show("one sweep", sweeps);
    drop(ballast);
}
