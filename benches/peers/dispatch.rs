//! The host's own share of a call: queue and lease, with workers in memory that answer at once.
//!
//! `cargo bench -p snakepit-core --bench dispatch` looks at the same more closely.

#[path = "../../snakepit-core/benches/dispatch/noop.rs"]
mod noop;

use tokio::time::Instant;

use crate::{Result, options::Options, record::Record};

/// Sizes of the pool.
pub(crate) const WORKERS: [usize; 4] = [1, 10, 100, 1000];

/// Calls timed together, since one is too short for the clock.
const CALLS: u32 = 100_000;

/// The record's name of one dispatch, in microseconds.
pub(crate) fn key(workers: usize) -> String {
    format!("dispatch/{workers}/us")
}

/// Times calls from a spawned task, on a pool of each size in each round.
pub(crate) async fn measure(options: &Options, record: &mut Record) -> Result<()> {
    eprintln!("dispatch: {} rounds", options.rounds);
    let mut pools = Vec::new();
    for workers in WORKERS {
        pools.push((workers, noop::pool(workers).await?));
    }
    for _ in 0..options.rounds {
        for (workers, pool) in &pools {
            let pool = pool.clone();
            let caller = tokio::spawn(async move {
                let start = Instant::now();
                for _ in 0..CALLS {
                    if !noop::call(&pool).await {
                        return Err("a worker in memory failed");
                    }
                }
                Ok(start.elapsed())
            });
            record.push(
                key(*workers),
                caller.await??.as_secs_f64() * 1e6 / f64::from(CALLS),
            );
        }
        pools.rotate_left(1);
    }
    for (_, pool) in pools {
        pool.shutdown().await;
    }
    Ok(())
}
