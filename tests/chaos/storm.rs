//! Workers that are killed all the time: every caller gets an answer or one precise error, and the pool recovers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use snakepit::{
    CallError, Pool, Value,
    core::{
        ledger::{Ledger as _, RowState},
        process::Pidfd,
    },
};
use snakepit_registry::Registry;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    common::{PATIENCE, is_gone},
    contender::{Contender, own_contenders, registry},
    settings::Random,
};

const WORKERS: usize = 8;
const CALLERS: usize = 16;
const STRIKES: usize = 30;
const VICTIMS: usize = 2;
/// Between two strikes, and as much again at random: a slot is hit about every second. Three restarts in 5 s are granted to a
/// starter and three more by its supervisor, so that few slots come to rest in quarantine.
const PAUSE: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread")]
async fn every_call_is_answered_once_while_workers_are_killed() {
    storm("storm", 200, 0.01).await;
}

/// Short calls wait in their workers for each other: those that a kill finds waiting are nobody's loss.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_costs_one_call_at_most_also_where_others_wait_behind_it() {
    storm("short calls", 400, 0.0).await;
}

/// Over all contenders at the same time: most of it is waiting.
async fn storm(name: &str, calls: usize, seconds: f64) {
    let mut storms = JoinSet::new();
    for contender in own_contenders() {
        let random = Random::of(&format!("{name}, {contender}"));
        storms.spawn(storm_over(contender, random, calls, seconds));
    }
    while let Some(storm) = storms.join_next().await {
        storm.unwrap();
    }
}

async fn storm_over(contender: Contender, mut random: Random, calls: usize, seconds: f64) {
    let dir = tempfile::tempdir().unwrap();
    let settings = registry(dir.path());
    let ledger = Registry::shared(&settings).unwrap();
    let pool = contender
        .pool(contender.launcher(ledger.clone()), &settings)
        .workers(WORKERS)
        .start()
        .await
        .unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| tokio::spawn(call(pool.clone(), caller, calls, seconds, Arc::clone(&over))))
        .collect();
    let (mut killed, mut strikes) = (0, 0);
    let began = Instant::now();
    // On a busy machine a strike may find nobody: workers take their time to come back.
    while strikes < STRIKES || killed <= STRIKES && began.elapsed() < PATIENCE {
        strikes += 1;
        sleep(PAUSE + random.within(PAUSE)).await;
        let mut pids = living(&pool).await;
        for _ in 0..VICTIMS.min(pids.len()) {
            // One that is gone already was killed by an earlier strike.
            if let Ok(pidfd) = Pidfd::open(pids.swap_remove(random.below(pids.len()))) {
                killed += usize::from(pidfd.signal(libc::SIGKILL).is_ok());
            }
        }
    }
    over.store(true, Ordering::Relaxed);
    let (mut answered, mut lost) = (0, 0);
    for caller in callers {
        let (answers, losses) = caller.await.unwrap();
        assert!(answers + losses >= calls);
        (answered, lost) = (answered + answers, lost + losses);
    }
    eprintln!("{contender}: {killed} kills, {answered} calls answered, {lost} lost");
    assert!(killed > STRIKES, "only {killed} workers were there to be killed");
    assert!(lost <= killed, "{lost} calls were lost to {killed} kills");
    let began = Instant::now();
    while pool.status().await.ready < WORKERS {
        assert!(began.elapsed() < PATIENCE, "{contender}: not all serve again");
        sleep(Duration::from_millis(5)).await;
    }
    let status = pool.status().await;
    assert_eq!((status.busy, status.queued), (0, 0));
    let mut rows = ledger.rows().await.unwrap();
    assert!(rows.iter().all(|row| row.state == RowState::Active));
    // A template has a row as well.
    rows.retain(|row| row.launcher == contender.backend);
    let mut recorded: Vec<_> = rows
        .iter()
        .filter_map(|row| Some(row.identity.as_ref()?.pid))
        .collect();
    recorded.sort_unstable();
    assert_eq!(living(&pool).await, recorded, "the ledger is not what lives");
    pool.shutdown().await;
    assert!(ledger.rows().await.unwrap().is_empty());
}

/// At least so many calls, and on until the storm is over; how many were answered and how many lost.
async fn call(
    pool: Pool,
    caller: usize,
    calls: usize,
    seconds: f64,
    over: Arc<AtomicBool>,
) -> (usize, usize) {
    let (mut answered, mut lost) = (0, 0);
    while answered + lost < calls || !over.load(Ordering::Relaxed) {
        let number = i64::try_from((answered + lost) * CALLERS + caller).unwrap();
        match pool.call::<_, Value>("slow:echo_after", (number, seconds)).await {
            Ok(answer) => {
                assert_eq!(answer, Value::Int(number), "somebody else's answer");
                answered += 1;
            }
            Err(CallError::WorkerLost(_)) => lost += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    (answered, lost)
}

async fn living(pool: &Pool) -> Vec<u32> {
    let status = pool.status().await;
    let pids = status.workers.iter().filter_map(|worker| worker.child.status.pid);
    // One that died is told until its slot knows.
    let mut pids: Vec<_> = pids.filter(|pid| !is_gone(*pid)).collect();
    pids.sort_unstable();
    pids
}
