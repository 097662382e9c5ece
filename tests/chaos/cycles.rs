//! S12: processes that come and go cost nothing that stays.

use std::{fs, sync::Arc, time::Duration};

use snakepit::core::{
    RunId, WorkerId,
    launch::{ChannelForm, LaunchLimits, LaunchSpec},
    ledger::{Ledger as _, Row},
    process::{ExitOutcome, Member, Pidfd, Stat, descendants},
};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    common::until,
    contender::contenders,
    host::Host,
    names::{GUARDIAN, KEEPER, MADE_AHEAD, has_name},
    orders::{Command, Orders, tell},
    round::{Round, state_dir},
    settings::cycles,
};

/// At a time, as a pool that starts does it.
const AT_A_TIME: usize = 8;
/// Resident memory may grow by this: what an allocator keeps back, not what is leaked. 100,000 leaks of 200 bytes
/// show.
const SLACK_KIB: u64 = 16 * 1024;

/// The long form may take this.
const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn processes_that_come_and_go_leave_no_descriptor_zombie_thread_row_or_memory() {
    for contender in contenders() {
        let mut orders = Orders::new(&contender);
        let _dir = state_dir(&mut orders);
        let mut round = Round::start(&orders);
        round.wait_ready();
        round.tell(&Command::Cycle(cycles()));
        let told = round.wait_within("cycles:", HOUR);
        eprintln!("{contender}: {told}");
        round.tell(&Command::Shutdown);
        round.wait_for("done");
        round.must_end(Instant::now(), &contender.to_string());
    }
}

/// What the host and the processes below it have.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Belongings {
    processes: usize,
    zombies: usize,
    threads: u32,
    descriptors: usize,
    rows: usize,
}

async fn belongings(host: &Host) -> Belongings {
    let own = Pidfd::open(std::process::id()).unwrap();
    let mut all: Vec<_> = descendants(&own)
        .unwrap()
        .iter()
        .map(|member| member.stat.pid)
        .collect();
    all.push(own.pid());
    let mut sum = Belongings {
        processes: all.len(),
        zombies: 0,
        threads: 0,
        descriptors: 0,
        rows: host.ledger.rows().await.unwrap().len(),
    };
    for pid in all {
        sum.threads += Stat::read(pid).map_or(0, |stat| stat.threads);
        sum.descriptors += fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        sum.zombies += zombies_of(pid);
    }
    sum
}

fn zombies_of(pid: u32) -> usize {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let children: Vec<_> = lists
        .flat_map(|list| {
            list.split(' ')
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<u32>>()
        })
        .collect();
    let stats = children.into_iter().filter_map(|child| Stat::read(child).ok());
    stats.filter(Stat::is_dead).count()
}

/// Whether a guardian, where there is one, has made ahead all that it makes ahead, and every other keeper has its worker.
fn is_idle(host: &Host) -> bool {
    let own = Pidfd::open(std::process::id()).unwrap();
    let below = descendants(&own).unwrap();
    let named = |name: &str| below.iter().filter(|member| has_name(member, name)).count();
    if named(GUARDIAN) == 0 {
        return true;
    }
    let has_worker = |keeper: &Member| {
        let mut others = below.iter();
        others.any(|member| member.stat.ppid == keeper.stat.pid && !has_name(member, MADE_AHEAD))
    };
    let keepers = below.iter().filter(|member| has_name(member, KEEPER));
    let spare = keepers.filter(|keeper| !has_worker(keeper)).count();
    // One that has a cgroup is born into it when it is asked for.
    let made_ahead = usize::from(host.contender().level != "cgroup");
    (spare, named(MADE_AHEAD)) == (1, made_ahead)
}

/// Resident memory of the host and what is below it, in KiB.
fn resident() -> u64 {
    let own = Pidfd::open(std::process::id()).unwrap();
    let below = descendants(&own).unwrap();
    let pids = below.iter().map(|member| member.stat.pid).chain([own.pid()]);
    pids.filter_map(|pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()
    })
    .sum()
}

/// In the host: the cycles, and what they have left.
pub(crate) async fn run(host: &Host, count: usize) {
    // What is made once is made here: threads, arenas, the ledger's files.
    many(host, count / 10 + 2 * AT_A_TIME).await;
    until("nothing is being made", async || is_idle(host)).await;
    // The blocking pool's threads are as many as happened to be busy at once, and leave after ten seconds.
    let before = Belongings {
        threads: u32::MAX,
        ..belongings(host).await
    };
    let memory = resident();
    let began = Instant::now();
    many(host, count).await;
    let took = began.elapsed();
    until("all is given back", async || {
        let now = belongings(host).await;
        now.threads < 100
            && Belongings {
                threads: u32::MAX,
                ..now
            } == before
    })
    .await;
    let grown = resident().saturating_sub(memory);
    assert!(
        grown < SLACK_KIB,
        "{count} cycles, and {grown} KiB more are resident"
    );
    tell(format_args!(
        "cycles: {count} in {took:.1?}, {grown} KiB more resident, {:?}",
        belongings(host).await
    ));
}

async fn many(host: &Host, count: usize) {
    let mut running = JoinSet::new();
    for _ in 0..count {
        if running.len() == AT_A_TIME {
            running.join_next().await.unwrap().unwrap();
        }
        running.spawn(one(host.clone()));
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
}

/// One process through all its states, as a worker goes through them.
async fn one(host: Host) {
    let worker_id = WorkerId::next();
    let spec = LaunchSpec {
        run_id: RunId::current(),
        worker_id,
        program: "true".into(),
        args: Vec::new(),
        env: Vec::new(),
        env_remove: Vec::new(),
        cwd: None,
        channel: ChannelForm::Inherited,
        limits: LaunchLimits::default(),
    };
    let row = Row::reserved(
        spec.run_id,
        worker_id,
        spec.program.clone(),
        host.launcher.name(),
        spec.channel.to_string(),
    );
    host.ledger.reserve(row).await.unwrap();
    let process = host.launcher.launch(&spec).await.unwrap();
    let containment = process.containment();
    host.ledger
        .activate(worker_id, process.identity(), &containment)
        .await
        .unwrap();
    let io = process.take_io();
    process.open_gate().await.unwrap();
    assert_eq!(process.exited().await, ExitOutcome::Exited(0));
    host.ledger.ending(worker_id).await.unwrap();
    let report = process.end(Duration::from_secs(5)).await;
    assert!(report.remaining.is_empty(), "{report:?}");
    drop((io, Arc::clone(&process)));
    host.ledger.release(worker_id).await.unwrap();
}
