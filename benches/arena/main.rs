//! Arrays there and back through shared memory, beside plain copies of them: `cargo bench --bench arena`.
//!
//! With `--all-features` record batches of Arrow, too. Needs a Python with NumPy and pyarrow: `SNAKEPIT_BENCH_PYTHON`, or the one that `python/check` makes.

#[cfg(feature = "arrow")]
mod arrow;
mod asked;

use std::{convert::Infallible, env, error::Error, hint::black_box, path::PathBuf, time::Duration};

use snakepit::{FilledArray, NdArray, Pool, PythonEnv, SharedArray};
use tokio::time::Instant;

/// Each figure is the median of as many runs, taken in turn so that all see the same machine.
const RUNS: usize = 31;
const SIZES: [usize; 5] = [64 << 10, 1 << 20, 10_000_000, 32 << 20, 100_000_000];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let shared = pool(Some(1 << 30)).await?;
    let inline = pool(None).await?;
    println!(
        "      bytes   two copies   there and back   of the copies   made there   left there   both in place   in messages   (median)"
    );
    for size in SIZES {
        let array = NdArray {
            dtype: "<f8".to_owned(),
            shape: vec![size as u64 / 8],
            data: vec![1; size / 8 * 8].into(),
        };
        let (mut copies, mut trips, mut messages) = (Vec::new(), Vec::new(), Vec::new());
        let (mut made, mut left, mut both) = (Vec::new(), Vec::new(), Vec::new());
        let (mut first, mut second) = (vec![0; size], vec![0; size]);
        for _ in 0..RUNS {
            let began = Instant::now();
            first[..array.data.len()].copy_from_slice(black_box(&array.data));
            second.copy_from_slice(black_box(&first));
            black_box(&second);
            copies.push(began.elapsed());
            trips.push(trip(&shared, &array).await?);
            made.push(get(&shared, size / 8).await?);
            left.push(leave(&shared, size / 8).await?);
            both.push(in_place(&shared, size / 8).await?);
        }
        // By themselves: glibc gives the memory of such messages back to the system, and the next array's pages are made anew,
        // which takes longer than copying into them.
        for _ in 0..RUNS {
            messages.push(trip(&inline, &array).await?);
        }
        let [copies, trips, made, left, both, messages] =
            [copies, trips, made, left, both, messages].map(median);
        let times = trips.as_secs_f64() / copies.as_secs_f64();
        println!(
            "{size:>11} {copies:>12.1?} {trips:>16.1?} {times:>15.2} {made:>12.1?} {left:>12.1?} {both:>15.1?} {messages:>13.1?}"
        );
    }
    #[cfg(feature = "arrow")]
    arrow::measure(&shared).await?;
    asked::measure(&shared, &inline).await?;
    shared.shutdown().await;
    inline.shutdown().await;
    Ok(())
}

async fn pool(arena: Option<u64>) -> Result<Pool, Box<dyn Error>> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/target/python-venv/bin/python");
    let python = env::var_os("SNAKEPIT_BENCH_PYTHON").map_or_else(|| PathBuf::from(root), PathBuf::from);
    let builder = Pool::builder()
        .workers(1)
        .python_builder(PythonEnv::builder().interpreter(python))
        .adapter("arrays")
        .path(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/arena"))
        .arena(arena)
        .host_function("same", |(array,): (NdArray,)| async move {
            Ok::<_, Infallible>(array)
        })
        .metrics(false);
    Ok(builder.without_registry().start().await?)
}

/// An array through a function that returns it.
async fn trip(pool: &Pool, array: &NdArray) -> Result<Duration, Box<dyn Error>> {
    let began = Instant::now();
    let back: NdArray = pool.call("same", (array,)).await?;
    let took = began.elapsed();
    assert_eq!(back.data.len(), array.data.len());
    Ok(took)
}

/// An array that was made in shared memory before.
async fn get(pool: &Pool, count: usize) -> Result<Duration, Box<dyn Error>> {
    let began = Instant::now();
    let made: NdArray = pool.call("ready_made", (count,)).await?;
    let took = began.elapsed();
    assert_eq!(made.shape, [count as u64]);
    Ok(took)
}

/// The same, left where it is.
async fn leave(pool: &Pool, count: usize) -> Result<Duration, Box<dyn Error>> {
    let began = Instant::now();
    let made: SharedArray = pool.call("ready_made", (count,)).await?;
    let took = began.elapsed();
    assert_eq!(made.shape(), [count as u64]);
    Ok(took)
}

/// An array that is made where Python sees it, one element of it, through a function that returns it, and left where it is.
async fn in_place(pool: &Pool, count: usize) -> Result<Duration, Box<dyn Error>> {
    let array = FilledArray::new::<f64>(&[count as u64], |out| assert!(out.write_elements(0, &[1.0])))?;
    let began = Instant::now();
    let back: SharedArray = pool.call("same", (array,)).await?;
    let took = began.elapsed();
    assert!(back.is_shared() && back.shape() == [count as u64]);
    Ok(took)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
