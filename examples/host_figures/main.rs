//! What a call of a host function costs beside a plain call: `cargo run --release --example host_figures`.
//!
//! The figures in docs/guide/host-functions.md are from here.

use std::{error::Error, time::Duration};

use snakepit::{Pool, Value};
use tokio::time::Instant;

/// Round trips of each kind; the median of them is printed.
const ROUNDS: usize = 5000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let pool = Pool::builder()
        .workers(1)
        .adapter("round_trips")
        .path(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host_figures"))
        .host_function("echo", |(value,): (Value,)| async move { Ok::<_, String>(value) })
        .without_registry()
        .start()
        .await?;
    println!("bytes  plain call  host call  host call, async  host calls/s from 16 threads");
    for (size, rounds) in [(0, ROUNDS), (1 << 10, ROUNDS), (1 << 20, ROUNDS / 10)] {
        let plain = median(&pool, rounds, size).await?;
        let host: f64 = pool.call("median", (rounds, size)).await?;
        let host_async: f64 = pool.call("median_async", (rounds, size)).await?;
        let per_second: f64 = pool.call("per_second", (16, rounds, size)).await?;
        let plain = plain.as_secs_f64() * 1e6;
        println!("{size:>7} {plain:>8.1} us {host:>7.1} us {host_async:>14.1} us {per_second:>16.0}");
    }
    pool.shutdown().await;
    Ok(())
}

/// The median round trip of a call that echoes so many bytes.
async fn median(pool: &Pool, rounds: usize, size: usize) -> Result<Duration, Box<dyn Error>> {
    let value = Value::Bytes(vec![0; size].into());
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let began = Instant::now();
        pool.call::<_, Value>("echo", (&value,)).await?;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    Ok(times[rounds / 2])
}
