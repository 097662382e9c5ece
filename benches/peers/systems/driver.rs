//! Peers that are used from a Python program, which starts, calls and measures them.

use std::time::Duration;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{Result, interpreter::Interpreter, kind::Library, load::Cell, peer::Peer, stats::Sample};

/// The program, with workers of its own.
#[derive(Debug)]
pub(crate) struct Driver {
    program: Peer,
    /// Seconds until the workers had answered.
    pub(crate) seconds: f64,
    /// The workers' process ids.
    pub(crate) pids: Vec<u32>,
    /// Where it has its files; it goes when the program has gone.
    _directory: tempfile::TempDir,
}

/// What `start` answers.
#[derive(Deserialize)]
struct Started {
    seconds: f64,
    pids: Vec<u32>,
}

/// What the program says of what it could not do.
#[derive(Deserialize)]
struct Refused {
    error: String,
}

/// The longest an orderly end may take before it is made by force.
const END: Duration = Duration::from_secs(30);

impl Driver {
    /// Starts the program, and has it start `workers` workers of a peer.
    pub(crate) async fn start(
        python: &Interpreter,
        peer: &str,
        workers: usize,
        library: Library,
    ) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut command = python.program("driver.py");
        command.env("TMPDIR", directory.path());
        let mut program = Peer::start("the driver", command.arg(peer))?;
        let library = library.module().unwrap_or_default();
        let request = json!({"op": "start", "workers": workers, "library": library});
        let Started { seconds, pids } = ask(&mut program, &request).await?;
        Ok(Self {
            program,
            seconds,
            pids,
            _directory: directory,
        })
    }

    /// Has the program run the cell and report.
    pub(crate) async fn load(&mut self, cell: Cell) -> Result<Sample> {
        let (calls, duration) = cell.warm_up();
        let request = json!({
            "op": "load",
            "size": cell.payload.bytes,
            "array": cell.payload.array,
            "callers": cell.callers,
            "seconds": cell.duration.as_secs_f64(),
            "warm_up": [calls, duration.as_secs_f64()],
            "least": cell.least(),
        });
        ask(&mut self.program, &request).await
    }

    /// Has the program kill its only worker.
    pub(crate) async fn recover(&mut self) -> Result<f64> {
        #[derive(Deserialize)]
        struct Recovered {
            seconds: f64,
        }
        let recovered: Recovered = ask(&mut self.program, &json!({"op": "recover"})).await?;
        Ok(recovered.seconds)
    }

    /// The program itself.
    pub(crate) fn host(&self) -> u32 {
        self.program.pid()
    }

    /// Has the program end its workers.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let request = json!({"op": "stop"});
        let asked = tokio::time::timeout(END, ask::<Value>(&mut self.program, &request));
        if !matches!(asked.await, Ok(Ok(_))) {
            eprintln!("a peer did not end its workers; they are killed");
        }
        Ok(())
    }
}

async fn ask<T: DeserializeOwned>(program: &mut Peer, request: &Value) -> Result<T> {
    let answer = program.ask(request).await?;
    match serde_json::from_str::<Refused>(&answer) {
        Ok(refused) => Err(refused.error.into()),
        Err(_) => Ok(serde_json::from_str(&answer)?),
    }
}
