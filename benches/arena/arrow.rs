//! Record batches of Arrow as arguments.

use std::{error::Error, sync::Arc, time::Duration};

use arrow_array::{ArrayRef, Float64Array, RecordBatch};
use snakepit::{ArrowData, Pool};
use tokio::time::Instant;

use crate::{RUNS, SIZES, median};

/// One column of `size` bytes to a function that counts its rows: from where it is, and copied into one piece before.
pub(crate) async fn measure(pool: &Pool) -> Result<(), Box<dyn Error>> {
    println!("\n      bytes   a batch from where it is   in one piece before   of that   (median)");
    for size in SIZES {
        let column: ArrayRef = Arc::new(Float64Array::from(vec![1.0; size / 8]));
        let batch = RecordBatch::try_from_iter([("x", column)])?;
        let (mut in_place, mut joined) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            in_place.push(send(pool, &batch, |data| data).await?);
            joined.push(send(pool, &batch, |data| ArrowData::new(data.kind, data.stream())).await?);
        }
        let [in_place, joined] = [in_place, joined].map(median);
        let ratio = in_place.as_secs_f64() / joined.as_secs_f64();
        println!("{size:>11} {in_place:>26.1?} {joined:>21.1?} {ratio:>9.2}");
    }
    Ok(())
}

async fn send(
    pool: &Pool,
    batch: &RecordBatch,
    form: impl Fn(ArrowData) -> ArrowData,
) -> Result<Duration, Box<dyn Error>> {
    let began = Instant::now();
    let rows: usize = pool.call("rows", (form(batch.try_into()?),)).await?;
    let took = began.elapsed();
    assert_eq!(rows, batch.num_rows());
    Ok(took)
}
