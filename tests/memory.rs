//! Large calls that are cancelled leave nothing in the host. A file of its own, since it measures its whole process.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::time::Duration;

use common::{PATIENCE, builder, until, worker_pid};
use snakepit::{Pool, Value};
use tokio::time::timeout;

const LARGE: usize = 100 << 20;
const CALLS: u32 = 10;

/// Resident memory of a process, in bytes.
fn resident(process: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    let kib: usize = line.trim().trim_end_matches(" kB").parse().unwrap();
    kib << 10
}

/// Ten calls with so large an argument and ten with so large a result, each left a little later than the one before.
async fn round(pool: &Pool, data: &Value) {
    for late in 0..CALLS {
        let wait = Duration::from_millis(25) * late;
        let sent = timeout(wait, pool.call::<_, u64>("outlives:length", (data,))).await;
        if let Ok(answer) = sent {
            assert_eq!(answer.unwrap(), LARGE as u64);
        }
        let received = timeout(wait, pool.call::<_, Value>("outlives:zeros", (LARGE,))).await;
        if let Ok(answer) = received {
            let Value::Bytes(data) = answer.unwrap() else {
                panic!("not bytes")
            };
            assert_eq!(data.len(), LARGE);
        }
    }
    timeout(PATIENCE, pool.drain()).await.unwrap();
    pool.resume();
    // The worker, too, has let go of them.
    assert_eq!(pool.call::<_, u64>("outlives:length", ("",)).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_calls_of_a_hundred_megabytes_that_are_cancelled_leave_nothing() {
    let pool = builder().cancel_grace(PATIENCE).start().await.unwrap();
    let pid = worker_pid(&pool).await;
    let data = Value::Bytes(vec![1; LARGE].into());
    // What is allocated once and kept, buffers of connections and of the allocator, is there after the first round.
    round(&pool, &data).await;
    let measure = || [resident("self"), resident(&pid.to_string())];
    let mut before = [usize::MAX; 2];
    // What was dropped may still be given back.
    until("it has settled", async || {
        let now = measure();
        let settled = now == before;
        before = now;
        tokio::time::sleep(Duration::from_millis(50)).await;
        settled
    })
    .await;
    round(&pool, &data).await;
    // Of twenty calls not even the data of one is kept.
    until("it has come back to where it was", async || {
        let now = measure();
        now.iter().zip(before).all(|(now, before)| *now < before + LARGE)
    })
    .await;
    assert_eq!(worker_pid(&pool).await, pid);
    pool.shutdown().await;
}
