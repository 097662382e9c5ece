//! A program run to its end, and what it wrote.

use std::{io, time::Duration};

use snakepit_core::process::ExitOutcome;
use tokio::{io::AsyncReadExt, net::unix::pipe, sync::watch};

use super::{Running, error::OutputError, running::is_success};

/// How long the end of the output is waited for once nothing is left of the program. Somebody else may hold the pipe: a
/// descriptor can be handed to anybody.
const DRAIN_BOUND: Duration = Duration::from_secs(1);
/// What is read at a time.
const CHUNK: usize = 64 * 1024;

/// How a program ended, and all that it wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Output {
    /// How it ended.
    pub outcome: ExitOutcome,
    /// What it, and what it started, wrote to standard output.
    pub stdout: Vec<u8>,
    /// The same of standard error; empty where that was routed elsewhere.
    pub stderr: Vec<u8>,
}

pub(super) async fn collect(mut running: Running, codes: &[i32]) -> Result<Output, OutputError> {
    // Where it is a pipe, nobody is left to write to it.
    running.close_stdin();
    let (done, over) = watch::channel(false);
    let stdout = read(running.take_stdout(), over.clone());
    let stderr = read(running.take_stderr(), over);
    let ending = async {
        let outcome = running.exited().await;
        running.stop().await;
        done.send_replace(true);
        outcome
    };
    let (outcome, stdout, stderr) = tokio::join!(ending, stdout, stderr);
    let output = Output {
        outcome,
        stdout: stdout.map_err(OutputError::Read)?,
        stderr: stderr.map_err(OutputError::Read)?,
    };
    if is_success(codes, outcome) {
        Ok(output)
    } else {
        Err(OutputError::Unsuccessful(output))
    }
}

/// Reads to the end, or until shortly after the program is over.
async fn read(pipe: Option<pipe::Receiver>, mut over: watch::Receiver<bool>) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    let Some(mut pipe) = pipe else { return Ok(all) };
    let bound = async {
        // The sender outlives the reading.
        let _ = over.wait_for(|over| *over).await;
        tokio::time::sleep(DRAIN_BOUND).await;
    };
    tokio::pin!(bound);
    loop {
        all.reserve(CHUNK);
        tokio::select! {
            biased;
            read = pipe.read_buf(&mut all) => {
                if read? == 0 {
                    return Ok(all);
                }
            }
            () = &mut bound => return Ok(all),
        }
    }
}
