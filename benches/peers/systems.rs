//! The systems under comparison, each able to run one [`Cell`] of calls.

mod executor;
mod floor;
mod grpcio;
mod ours;

pub(crate) use executor::Executor;
pub(crate) use floor::Floor;
pub(crate) use grpcio::Grpcio;
pub(crate) use ours::Ours;

use crate::{Result, interpreter::Interpreter, load::Cell, stats::Sample};

/// Names as they appear in results.
pub(crate) mod name {
    /// This project.
    pub(crate) const OURS: &str = "snakepit";
    /// A grpcio server called by the same client.
    pub(crate) const GRPCIO: &str = "grpcio";
    /// The standard library's pool.
    pub(crate) const EXECUTOR: &str = "ProcessPoolExecutor";
    /// A bare socket loop.
    pub(crate) const FLOOR: &str = "socket floor";
}

/// A system with one worker, started and warm.
#[derive(Debug)]
pub(crate) enum System {
    /// This project.
    Ours(Ours),
    /// A grpcio server called by the same client.
    Grpcio(Grpcio),
    /// The standard library's pool.
    Executor(Executor),
    /// A bare socket loop.
    Floor(Floor),
}

impl System {
    /// Starts one of each.
    pub(crate) async fn all(python: &Interpreter) -> Result<Vec<Self>> {
        Ok(vec![
            Self::Ours(Ours::start(python, 1).await?),
            Self::Grpcio(Grpcio::start(python, 1).await?),
            Self::Executor(Executor::start(python)?),
            Self::Floor(Floor::start(python).await?),
        ])
    }

    /// Its name in results.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Ours(_) => name::OURS,
            Self::Grpcio(_) => name::GRPCIO,
            Self::Executor(_) => name::EXECUTOR,
            Self::Floor(_) => name::FLOOR,
        }
    }

    /// Runs one cell.
    pub(crate) async fn load(&mut self, cell: Cell) -> Result<Sample> {
        match self {
            Self::Ours(ours) => ours.load(cell).await,
            Self::Grpcio(grpcio) => grpcio.load(cell).await,
            Self::Executor(executor) => executor.load(cell).await,
            Self::Floor(floor) => floor.load(cell).await,
        }
    }

    /// Ends it in its own proper way; dropping it does so by force.
    pub(crate) async fn stop(self) -> Result<()> {
        match self {
            Self::Ours(ours) => ours.stop().await,
            Self::Grpcio(_) | Self::Executor(_) | Self::Floor(_) => Ok(()),
        }
    }
}
