//! Workers that are killed all the time: every caller gets an answer or one precise error, and the pool recovers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{sync::Arc, time::Duration};

use common::{builder, until};
use snakepit::{
    CallError, Value,
    core::{
        ledger::{Ledger as _, MemoryLedger, RowState},
        process::Pidfd,
    },
};
use tokio::time::sleep;

const WORKERS: usize = 4;
const CALLERS: usize = 8;
const KILLS: usize = 16;

#[tokio::test(flavor = "multi_thread")]
async fn every_call_is_answered_once_while_workers_are_killed() {
    storm(25, 0.01).await;
}

/// Short calls wait in their workers for each other: those that a kill finds waiting are nobody's loss.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_costs_one_call_at_most_also_where_others_wait_behind_it() {
    storm(400, 0.0).await;
}

async fn storm(calls: usize, seconds: f64) {
    let ledger = Arc::new(MemoryLedger::new());
    let pool = builder()
        .workers(WORKERS)
        .ledger(ledger.clone())
        .start()
        .await
        .unwrap();
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let (mut answered, mut lost) = (0, 0);
                for call in 0..calls {
                    let number = i64::try_from(caller * calls + call).unwrap();
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
            })
        })
        .collect();
    for kill in 0..KILLS {
        sleep(Duration::from_millis(20 + (kill as u64 * 37) % 50)).await;
        let status = pool.status().await;
        let pids: Vec<_> = status
            .workers
            .iter()
            .filter_map(|worker| worker.child.status.pid)
            .collect();
        if let Some(pid) = pids.get(kill % WORKERS)
            && let Ok(pidfd) = Pidfd::open(*pid)
        {
            // One that is gone already was killed by an earlier turn.
            let _ = pidfd.signal(libc::SIGKILL);
        }
    }
    let (mut total, mut all_lost) = (0, 0);
    for caller in callers {
        let (answered, lost) = caller.await.unwrap();
        total += answered + lost;
        all_lost += lost;
    }
    assert!(all_lost <= KILLS, "{all_lost} calls were lost to {KILLS} kills");
    assert_eq!(total, CALLERS * calls);
    until("all serve again", async || pool.status().await.ready == WORKERS).await;
    let status = pool.status().await;
    assert_eq!((status.busy, status.queued), (0, 0));
    let mut living: Vec<_> = status
        .workers
        .iter()
        .filter_map(|worker| worker.child.status.pid)
        .collect();
    let rows = ledger.rows().await.unwrap();
    assert!(rows.iter().all(|row| row.state == RowState::Active));
    let mut recorded: Vec<_> = rows
        .iter()
        .filter_map(|row| Some(row.identity.as_ref()?.pid))
        .collect();
    living.sort_unstable();
    recorded.sort_unstable();
    assert_eq!(living, recorded, "the ledger is not what lives");
    pool.shutdown().await;
    assert!(ledger.rows().await.unwrap().is_empty());
}
