//! How soon workers answer, and what they weigh while idle.

use std::{path::Path, process::Command};

use tokio::time::Instant;

use crate::{
    Result,
    interpreter::Interpreter,
    options::Options,
    peer::Peer,
    proc::rollup_kib,
    record::Record,
    systems::{Executor, Grpcio, Ours, name},
};

/// Numbers of workers started at once.
pub(crate) const WORKERS: [usize; 3] = [1, 16, 100];

/// Who starts workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Starts {
    /// A pool of this project: started, and each worker's worth of calls answered.
    Ours,
    /// As many grpcio servers at once; each has answered a call.
    Grpcio,
    /// The standard library's pool by spawn; each worker has answered.
    Spawn,
    /// The same by fork, which costs no interpreter start.
    Fork,
    /// As many `python -c pass` at once, until all have ended: the floor of anything that starts interpreters.
    Bare,
}

impl Starts {
    /// All of them.
    pub(crate) const ALL: [Self; 5] = [Self::Ours, Self::Grpcio, Self::Spawn, Self::Fork, Self::Bare];

    /// Name in results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => name::OURS,
            Self::Grpcio => name::GRPCIO,
            Self::Spawn => "ProcessPoolExecutor (spawn)",
            Self::Fork => "ProcessPoolExecutor (fork)",
            Self::Bare => "python -c pass",
        }
    }

    /// Starts and ends `workers` workers; adds the time and, where it can be compared, the memory.
    async fn once(self, python: &Interpreter, workers: usize, record: &mut Record) -> Result<()> {
        let start = Instant::now();
        let seconds = match self {
            Self::Ours => {
                let ours = Ours::start(python, workers).await?;
                let seconds = start.elapsed().as_secs_f64();
                weigh(name::OURS, &ours.pids().await?, workers, record)?;
                ours.stop().await?;
                seconds
            }
            Self::Grpcio => {
                let grpcio = Grpcio::start(python, workers).await?;
                let seconds = start.elapsed().as_secs_f64();
                weigh(name::GRPCIO, &grpcio.pids().collect::<Vec<_>>(), workers, record)?;
                seconds
            }
            Self::Spawn => Executor::ready(python, workers, "spawn").await?,
            Self::Fork => Executor::ready(python, workers, "fork").await?,
            Self::Bare => {
                bare(&python.python, workers).await?;
                start.elapsed().as_secs_f64()
            }
        };
        record.push(key(workers, self), seconds * 1e3);
        Ok(())
    }
}

/// The record's name of a start, in milliseconds.
pub(crate) fn key(workers: usize, who: Starts) -> String {
    format!("ready/{workers}/{}/ms", who.name())
}

/// The record's name of the memory of one idle worker among `workers`, in KiB.
pub(crate) fn memory_key(workers: usize, system: &str) -> String {
    format!("memory/{workers}/{system}/pss_kib")
}

/// Runs the rounds, after one start of each that only fills the page cache.
pub(crate) async fn measure(python: &Interpreter, options: &Options, record: &mut Record) -> Result<()> {
    let mut all = Starts::ALL;
    for who in all {
        who.once(python, 1, &mut Record::default()).await?;
    }
    for round in 0..options.rounds {
        eprintln!("ready: round {} of {}", round + 1, options.rounds);
        for workers in WORKERS {
            for who in all {
                who.once(python, workers, record).await?;
            }
        }
        all.rotate_left(1);
    }
    Ok(())
}

fn weigh(system: &str, pids: &[u32], workers: usize, record: &mut Record) -> Result<()> {
    if pids.len() != workers {
        return Err(format!("{system} has {} of {workers} workers", pids.len()).into());
    }
    let total: f64 = pids
        .iter()
        .map(|pid| rollup_kib(*pid, "Pss"))
        .sum::<Result<_>>()?;
    record.push(memory_key(workers, system), total / workers as f64);
    Ok(())
}

async fn bare(python: &Path, workers: usize) -> Result<()> {
    let start = || Peer::start("a bare interpreter", Command::new(python).args(["-c", "pass"]));
    let mut peers = (0..workers).map(|_| start()).collect::<Result<Vec<_>>>()?;
    for peer in &mut peers {
        peer.finished().await?;
    }
    Ok(())
}
