//! Closed-loop callers in the benchmark's own process.

use std::{future::Future, time::Duration};

use tokio::{task::JoinSet, time::Instant};

use crate::{Result, stats::Sample};

/// One combination of payload and callers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    /// Bytes each way.
    pub(crate) payload: usize,
    /// Calls under way at the same time.
    pub(crate) callers: usize,
    /// How long to call.
    pub(crate) duration: Duration,
}

/// Calls before the clock starts: enough to grow buffers and windows on both sides.
const WARM_UP: usize = 10;

/// Runs `cell.callers` spawned tasks that call, wait, and call again until the time is over.
///
/// The callers are tasks of the runtime, as they are in a service, not the thread that blocks on it.
pub(crate) async fn closed_loop<F, Fut>(cell: Cell, call: F) -> Result<Sample>
where
    F: Fn() -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<()>> + Send,
{
    let warm = call.clone();
    let mut callers = JoinSet::new();
    callers.spawn(async move {
        for _ in 0..WARM_UP {
            warm().await?;
        }
        Ok::<_, crate::Error>(Vec::new())
    });
    while let Some(done) = callers.join_next().await {
        done??;
    }
    let start = Instant::now();
    for _ in 0..cell.callers {
        let call = call.clone();
        callers.spawn(async move {
            let mut took = Vec::with_capacity(1 << 16);
            let mut before = Instant::now();
            while before.duration_since(start) < cell.duration {
                call().await?;
                let after = Instant::now();
                took.push(u64::try_from((after - before).as_nanos())?);
                before = after;
            }
            Ok(took)
        });
    }
    let mut took = Vec::new();
    while let Some(done) = callers.join_next().await {
        took.append(&mut done??);
    }
    Sample::of(took, start.elapsed().as_secs_f64()).ok_or_else(|| "no call was answered".into())
}
