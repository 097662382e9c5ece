//! `concurrent.futures.ProcessPoolExecutor`, driven and measured inside a Python program.

use serde::Deserialize;
use serde_json::json;

use crate::{Result, interpreter::Interpreter, load::Cell, peer::Peer, stats::Sample};

/// A driver program with an executor of one worker.
#[derive(Debug)]
pub(crate) struct Executor(Peer);

impl Executor {
    /// Starts the driver; it makes its executor at the first load.
    pub(crate) fn start(python: &Interpreter) -> Result<Self> {
        Ok(Self(Peer::start(
            "the executor's driver",
            &mut python.program("executor_driver.py"),
        )?))
    }

    /// Has the driver run the cell and report.
    pub(crate) async fn load(&mut self, cell: Cell) -> Result<Sample> {
        let request = json!({
            "op": "load",
            "payload": cell.payload,
            "callers": cell.callers,
            "seconds": cell.duration.as_secs_f64(),
        });
        Ok(serde_json::from_str(&self.0.ask(&request).await?)?)
    }

    /// Seconds until all of an executor's workers have answered, by start method.
    pub(crate) async fn ready(python: &Interpreter, workers: usize, method: &str) -> Result<f64> {
        #[derive(Deserialize)]
        struct Answer {
            seconds: f64,
        }
        // A driver of its own: forking beside the threads of another executor would be another measurement.
        let mut driver = Self::start(python)?;
        // The driver's own start is not counted: an answered load of zero seconds would start an executor,
        // so the clock is the driver's.
        let request = json!({"op": "ready", "workers": workers, "method": method});
        let answer: Answer = serde_json::from_str(&driver.0.ask(&request).await?)?;
        Ok(answer.seconds)
    }
}
