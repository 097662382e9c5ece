//! Items a second that a function reads, by the credit of its input: `cargo bench --bench input`.
//!
//! A credit of 1 is what each item costs without the ones ahead of it.

use std::{error::Error, time::Duration};

use snakepit::{Concurrency, Pool, Value};
use tokio::time::Instant;
use tokio_stream::StreamExt as _;

/// Each figure is the median of as many runs.
const RUNS: usize = 5;
/// Workers that are started for the figure of a start.
const STARTS: usize = 40;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    println!("bytes    credit  read, `for`  read, `async for`  back and forth  yielded only   (items/s)");
    for (size, count) in [(64, 20_000), (1 << 20, 400)] {
        for credit in [1, 2, 16, 64] {
            let plain = pool(Concurrency::One).start().await?;
            let asyncio = pool(Concurrency::Asyncio(8)).start().await?;
            let by_for = rate(count, async || read(&plain, "count", size, count, credit).await).await?;
            let by_async_for = rate(count, async || {
                read(&asyncio, "count_async", size, count, credit).await
            })
            .await?;
            let back = rate(count, async || both(&plain, size, count, credit).await).await?;
            let yielded = rate(count, async || give(&plain, size, count, credit).await).await?;
            println!(
                "{size:>7} {credit:>7} {by_for:>12.0} {by_async_for:>18.0} {back:>15.0} {yielded:>13.0}"
            );
            plain.shutdown().await;
            asyncio.shutdown().await;
        }
    }
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        without.push(start(pool(Concurrency::One)).await?);
        with.push(
            start(pool(Concurrency::One).host_function("f", |(): ()| async { Ok::<_, String>(()) })).await?,
        );
    }
    let (without, with) = (median(without), median(with));
    println!("start without the host stream {without:.1?}, with it {with:.1?}");
    Ok(())
}

fn pool(concurrency: Concurrency) -> snakepit::PoolBuilder {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/input");
    let builder = Pool::builder().workers(1).adapter("readers").path(path);
    builder.concurrency(concurrency).metrics(false).without_registry()
}

fn items(size: usize, count: usize) -> impl tokio_stream::Stream<Item = Value> + Send + 'static {
    let item = Value::Bytes(vec![7; size].into());
    tokio_stream::iter(0..count).map(move |_| item.clone())
}

async fn read(
    pool: &Pool,
    function: &str,
    size: usize,
    count: usize,
    credit: u32,
) -> Result<(), Box<dyn Error>> {
    let request = pool
        .request(function)
        .input(items(size, count))
        .input_credit(credit);
    assert_eq!(request.send::<usize>().await?, count);
    Ok(())
}

async fn both(pool: &Pool, size: usize, count: usize, credit: u32) -> Result<(), Box<dyn Error>> {
    let request = pool.request("back").credit(credit).input(items(size, count));
    let mut back = request.input_credit(credit).stream::<Value>().await?;
    while let Some(item) = back.next().await {
        item?;
    }
    Ok(())
}

async fn give(pool: &Pool, size: usize, count: usize, credit: u32) -> Result<(), Box<dyn Error>> {
    let request = pool.request("give").args(&(size, count))?.credit(credit);
    let mut given = request.stream::<Value>().await?;
    while let Some(item) = given.next().await {
        item?;
    }
    Ok(())
}

/// Items a second.
async fn rate(
    count: usize,
    work: impl AsyncFn() -> Result<(), Box<dyn Error>>,
) -> Result<f64, Box<dyn Error>> {
    work().await?;
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let began = Instant::now();
        work().await?;
        times.push(began.elapsed());
    }
    Ok(count as f64 / median(times).as_secs_f64())
}

async fn start(builder: snakepit::PoolBuilder) -> Result<Duration, Box<dyn Error>> {
    let began = Instant::now();
    let pool = builder.start().await?;
    let took = began.elapsed();
    pool.shutdown().await;
    Ok(took)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
