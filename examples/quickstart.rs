//! Calls, keyword arguments, deadlines and streams in twenty lines.

use snakepit::Pool;
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pool = Pool::builder().workers(2).start().await?;
    // Any function of any importable module, with the types you ask for.
    let hypotenuse: f64 = pool.call("math:hypot", (3.0, 4.0)).await?;
    println!("hypot: {hypotenuse}");
    // Keyword arguments and a deadline over queue and execution.
    let request = pool.request("builtins:sorted").args(&([3, 1, 2],))?;
    let request = request.kwargs(&std::collections::HashMap::from([("reverse", true)]))?;
    let sorted: Vec<i64> = request.deadline(Duration::from_secs(5)).send().await?;
    println!("sorted: {sorted:?}");
    // What a function yields arrives item by item; dropping the stream stops the producer.
    let mut numbers = pool.request("itertools:count").stream::<u64>().await?;
    println!("first: {:?}", numbers.next().await.transpose()?);
    drop(numbers);
    pool.shutdown().await;
    Ok(())
}
