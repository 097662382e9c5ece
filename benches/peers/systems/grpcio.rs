//! Ordinary grpcio servers, one process each, called by the client stack that the pool uses.

use std::path::PathBuf;

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::{
    Result,
    client::Client,
    interpreter::Interpreter,
    load::{Cell, closed_loop},
    peer::Peer,
    stats::Sample,
};

/// Threads of the server: one call at a time, as our worker does it. Four and sixteen threads were tried and
/// served it worse or no better, since they wait for each other's GIL.
const THREADS: &str = "1";

/// Servers that have answered a call each.
#[derive(Debug)]
pub(crate) struct Grpcio {
    workers: Vec<(Peer, Client)>,
    _directory: tempfile::TempDir,
}

impl Grpcio {
    /// Starts `workers` servers at once; returns when each has answered.
    pub(crate) async fn start(python: &Interpreter, workers: usize) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut starting = JoinSet::new();
        for index in 0..workers {
            let path = directory.path().join(format!("{index}.sock"));
            let mut command = python.program("grpcio_server.py");
            command.arg(&path).arg(&python.stubs).arg(THREADS);
            let peer = Peer::start("a grpcio server", &mut command)?;
            starting.spawn(serve(peer, path));
        }
        let mut ready = Vec::with_capacity(workers);
        while let Some(worker) = starting.join_next().await {
            ready.push(worker??);
        }
        Ok(Self {
            workers: ready,
            _directory: directory,
        })
    }

    /// The servers' process ids.
    pub(crate) fn pids(&self) -> impl Iterator<Item = u32> {
        self.workers.iter().map(|(peer, _)| peer.pid())
    }

    /// Calls the first server.
    pub(crate) async fn load(&self, cell: Cell) -> Result<Sample> {
        let (_, client) = self.workers.first().ok_or("a server was started")?;
        let (client, args) = (client.clone(), arguments(cell.payload));
        closed_loop(cell, move || {
            let (client, args) = (client.clone(), args.clone());
            async move { client.echo(args).await }
        })
        .await
    }
}

async fn serve(mut peer: Peer, path: PathBuf) -> Result<(Peer, Client)> {
    peer.line().await?;
    let client = Client::connect(&path).await?;
    client.echo(arguments(1)).await?;
    Ok((peer, client))
}

/// MessagePack of `[bytes]`, as the pool sends it: an array of one, a 32-bit bin.
fn arguments(payload: usize) -> Bytes {
    let mut args = vec![0x91, 0xc6];
    args.extend_from_slice(&(payload as u32).to_be_bytes());
    args.resize(args.len() + payload, b'x');
    args.into()
}
