//! Ordinary grpcio servers, one process each, called by the client stack that the pool uses.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::{
    Result,
    client::Client,
    interpreter::Interpreter,
    kind::Library,
    load::{Cell, closed_loop},
    peer::Peer,
    stats::Sample,
};

/// Servers that have answered a call each.
#[derive(Debug)]
pub(crate) struct Grpcio {
    workers: Vec<(Peer, Client)>,
    _directory: tempfile::TempDir,
}

impl Grpcio {
    /// Starts `workers` servers of a program at once; returns when each has answered.
    pub(crate) async fn start(
        python: &Interpreter,
        program: &str,
        workers: usize,
        library: Library,
    ) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut starting = JoinSet::new();
        for index in 0..workers {
            let path = directory.path().join(format!("{index}.sock"));
            let mut command = python.program(program);
            let library = library.module().unwrap_or_default();
            command.arg(&path).arg(&python.stubs).arg(library);
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

    /// Calls the servers; each caller has one of them.
    pub(crate) async fn load(&self, cell: Cell) -> Result<Sample> {
        let clients: Arc<[Client]> = self.workers.iter().map(|(_, client)| client.clone()).collect();
        let args = arguments(cell.payload.bytes);
        closed_loop(cell, move |caller| {
            let (client, args) = (clients[caller % clients.len()].clone(), args.clone());
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
