//! Closed-loop callers in the benchmark's own process.

use std::{future::Future, time::Duration};

use tokio::{task::JoinSet, time::Instant};

use crate::{Result, stats::Sample};

/// What goes there and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Payload {
    /// Name in results.
    pub(crate) name: &'static str,
    /// Bytes each way.
    pub(crate) bytes: usize,
    /// Whether it is an array of float64, for systems that know such; else it is bytes.
    pub(crate) array: bool,
}

/// One combination of payload and callers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    /// What is sent.
    pub(crate) payload: Payload,
    /// Calls under way at the same time.
    pub(crate) callers: usize,
    /// How long to call; so a cell has as many calls as its size allows, and all cells take about the same time.
    pub(crate) duration: Duration,
}

impl Cell {
    /// Calls that each caller makes even when one takes longer than the duration: several of a lonely caller, whose
    /// median they are.
    pub(crate) const fn least(self) -> usize {
        if self.callers == 1 { 3 } else { 1 }
    }

    /// Calls before the clock starts, at most, and for how long: enough to grow buffers and windows on both sides.
    pub(crate) fn warm_up(self) -> (usize, Duration) {
        (10, self.duration / 4)
    }
}

/// Runs `cell.callers` spawned tasks that call, wait, and call again until the time is over. The call is given the
/// number of its caller.
///
/// The callers are tasks of the runtime, as they are in a service, not the thread that blocks on it.
pub(crate) async fn closed_loop<F, Fut>(cell: Cell, call: F) -> Result<Sample>
where
    F: Fn(usize) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<()>> + Send,
{
    let warm = call.clone();
    let mut callers = JoinSet::new();
    callers.spawn(async move {
        let ((most, duration), start) = (cell.warm_up(), Instant::now());
        for caller in 0..most {
            warm(caller).await?;
            if start.elapsed() > duration {
                break;
            }
        }
        Ok::<_, crate::Error>(Vec::new())
    });
    while let Some(done) = callers.join_next().await {
        done??;
    }
    let start = Instant::now();
    for caller in 0..cell.callers {
        let call = call.clone();
        callers.spawn(async move {
            let mut took = Vec::with_capacity(1 << 16);
            let mut before = Instant::now();
            while took.len() < cell.least() || before.duration_since(start) < cell.duration {
                call(caller).await?;
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
