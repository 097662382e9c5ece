//! Items of an input, and arrays that Python hands to a function of the host and gets back.

use std::{error::Error, time::Duration};

use snakepit::{NdArray, Pool};
use tokio::time::Instant;

use super::median;

const RUNS: usize = 15;
/// Up to what an item, and a host call, can take.
const SIZES: [usize; 4] = [64 << 10, 1 << 20, 10_000_000, 32 << 20];
/// Of each input, and host calls of each call.
const ITEMS: u32 = 16;

pub(crate) async fn measure(shared: &Pool, inline: &Pool) -> Result<(), Box<dyn Error>> {
    println!(
        "\n      bytes   an item of an input   in messages   a host call there and back   in messages   (median)"
    );
    for size in SIZES {
        let array = NdArray {
            dtype: "|u1".to_owned(),
            shape: vec![size as u64],
            data: vec![1; size].into(),
        };
        let [mut items, mut items_inline, mut calls, mut calls_inline] = [const { Vec::new() }; 4];
        for _ in 0..RUNS {
            items.push(input(shared, &array).await?);
            items_inline.push(input(inline, &array).await?);
            calls.push(ask(shared, &array).await?);
            calls_inline.push(ask(inline, &array).await?);
        }
        let [items, items_inline, calls, calls_inline] =
            [items, items_inline, calls, calls_inline].map(median);
        println!("{size:>11} {items:>21.1?} {items_inline:>13.1?} {calls:>28.1?} {calls_inline:>13.1?}");
    }
    Ok(())
}

/// What each item takes of an input whose items are looked at.
async fn input(pool: &Pool, array: &NdArray) -> Result<Duration, Box<dyn Error>> {
    let items = tokio_stream::iter(vec![array.clone(); ITEMS as usize]);
    let began = Instant::now();
    let sum: usize = pool.request("lengths").input(items).send().await?;
    let took = began.elapsed();
    assert_eq!(sum, array.data.len() * ITEMS as usize);
    Ok(took / ITEMS)
}

/// What each call takes that a function makes of the host with its argument.
async fn ask(pool: &Pool, array: &NdArray) -> Result<Duration, Box<dyn Error>> {
    let began = Instant::now();
    let seconds: f64 = pool.call("ask", (array, ITEMS)).await?;
    assert!(Duration::from_secs_f64(seconds) < began.elapsed());
    Ok(Duration::from_secs_f64(seconds) / ITEMS)
}
