//! The systems under comparison, running.

mod copies;
mod driver;
mod floor;
mod grpcio;
mod ours;

use tokio::time::Instant;

use crate::{
    Result,
    interpreter::Interpreter,
    kind::{Kind, Library},
    load::Cell,
    stats::Sample,
};
use copies::Copies;
use driver::Driver;
use floor::Floor;
use grpcio::Grpcio;
use ours::Ours;

/// A system whose workers have all answered.
#[derive(Debug)]
pub(crate) struct System {
    /// Which.
    pub(crate) kind: Kind,
    /// Seconds from nothing until each worker had answered.
    pub(crate) seconds: f64,
    running: Running,
}

#[derive(Debug)]
enum Running {
    Ours(Ours),
    Grpcio(Grpcio),
    Driver(Driver),
    Floor(Floor),
    Copies(Copies),
}

impl System {
    /// Starts `workers` workers at once, each with a library imported.
    pub(crate) async fn start(
        kind: Kind,
        python: &Interpreter,
        workers: usize,
        library: Library,
    ) -> Result<Self> {
        let start = Instant::now();
        let running = if let Some(backend) = kind.backend() {
            Running::Ours(Ours::start(python, kind, backend, workers, library).await?)
        } else if let Some(peer) = kind.driver() {
            Running::Driver(Driver::start(python, peer, workers, library).await?)
        } else {
            match kind {
                Kind::Grpcio => {
                    Running::Grpcio(Grpcio::start(python, "grpcio_server.py", workers, library).await?)
                }
                Kind::GrpcioAio => {
                    Running::Grpcio(Grpcio::start(python, "grpcio_aio_server.py", workers, library).await?)
                }
                Kind::Floor => Running::Floor(Floor::start(python, workers).await?),
                Kind::Copies => Running::Copies(Copies),
                other => return Err(format!("{} has no workers that stay", other.name()).into()),
            }
        };
        let seconds = match &running {
            // The start of the program that uses the peer is not the peer's.
            Running::Driver(driver) => driver.seconds,
            Running::Ours(ours) => ours.seconds,
            _ => start.elapsed().as_secs_f64(),
        };
        Ok(Self {
            kind,
            seconds,
            running,
        })
    }

    /// Runs one cell.
    pub(crate) async fn load(&mut self, cell: Cell) -> Result<Sample> {
        match &mut self.running {
            Running::Ours(ours) => ours.load(cell).await,
            Running::Grpcio(grpcio) => grpcio.load(cell).await,
            Running::Driver(driver) => driver.load(cell).await,
            Running::Floor(floor) => floor.load(cell).await,
            Running::Copies(copies) => copies.load(cell).await,
        }
    }

    /// Kills the only worker of a fresh system. Returns the seconds until another has answered.
    pub(crate) async fn recover(&mut self) -> Result<f64> {
        match &mut self.running {
            Running::Ours(ours) => ours.recover().await,
            Running::Driver(driver) => driver.recover().await,
            _ => Err("nothing restarts its workers".into()),
        }
    }

    /// The workers' process ids.
    pub(crate) async fn pids(&self) -> Result<Vec<u32>> {
        match &self.running {
            Running::Ours(ours) => ours.pids().await,
            Running::Grpcio(grpcio) => Ok(grpcio.pids().collect()),
            Running::Driver(driver) => Ok(driver.pids.clone()),
            Running::Floor(floor) => Ok(floor.pids().collect()),
            Running::Copies(_) => Ok(Vec::new()),
        }
    }

    /// The program that uses the workers; all that the system consists of is below it.
    pub(crate) fn host(&self) -> u32 {
        match &self.running {
            Running::Driver(driver) => driver.host(),
            _ => std::process::id(),
        }
    }

    /// Ends it in its own proper way; dropping it does so by force.
    pub(crate) async fn stop(self) -> Result<()> {
        match self.running {
            Running::Ours(ours) => ours.stop().await,
            Running::Driver(driver) => driver.stop().await,
            Running::Grpcio(_) | Running::Floor(_) | Running::Copies(_) => Ok(()),
        }
    }
}
