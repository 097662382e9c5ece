//! The floor: bare socket loops in Python, called from the same runtime as the pool.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::{Mutex, Semaphore},
};

use crate::{
    Result,
    interpreter::Interpreter,
    load::{Cell, closed_loop},
    peer::Peer,
    stats::Sample,
};

/// Bytes of the length in front of each message.
const HEADER: usize = 4;

/// The servers' processes and the one connection to each.
#[derive(Debug)]
pub(crate) struct Floor {
    servers: Vec<Peer>,
    free: Arc<Free>,
    _directory: tempfile::TempDir,
}

/// Connections that nobody uses at the moment, and a permit for each.
#[derive(Debug)]
struct Free {
    permits: Semaphore,
    connections: Mutex<Vec<UnixStream>>,
}

impl Floor {
    /// Starts the servers and connects to them.
    pub(crate) async fn start(python: &Interpreter, workers: usize) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let (mut servers, mut connections) = (Vec::new(), Vec::new());
        for index in 0..workers {
            let path = directory.path().join(format!("{index}.sock"));
            let mut server = Peer::start("a floor's server", python.program("floor_server.py").arg(&path))?;
            server.line().await?;
            connections.push(UnixStream::connect(&path).await?);
            servers.push(server);
        }
        let free = Free {
            permits: Semaphore::new(workers),
            connections: Mutex::new(connections),
        };
        Ok(Self {
            servers,
            free: Arc::new(free),
            _directory: directory,
        })
    }

    /// The servers' process ids.
    pub(crate) fn pids(&self) -> impl Iterator<Item = u32> {
        self.servers.iter().map(Peer::pid)
    }

    /// Echoes as many bytes; callers take turns on the connections.
    pub(crate) async fn load(&self, cell: Cell) -> Result<Sample> {
        let mut message = u32::try_from(cell.payload.bytes)?.to_be_bytes().to_vec();
        message.resize(HEADER + cell.payload.bytes, b'x');
        let message: Arc<[u8]> = message.into();
        let free = Arc::clone(&self.free);
        closed_loop(cell, move |_| {
            let (free, message) = (Arc::clone(&free), Arc::clone(&message));
            async move {
                let _permit = free.permits.acquire().await?;
                let connection = free.connections.lock().await.pop();
                let mut connection = connection.ok_or("a connection for each permit")?;
                let answered = echo(&mut connection, &message).await;
                free.connections.lock().await.push(connection);
                answered
            }
        })
        .await
    }
}

async fn echo(connection: &mut UnixStream, message: &[u8]) -> Result<()> {
    // Writing and reading at once, or large messages fill both socket buffers and block for ever.
    let (mut reader, mut writer) = connection.split();
    let mut answer = Vec::with_capacity(message.len());
    let mut limited = (&mut reader).take(message.len() as u64);
    tokio::try_join!(writer.write_all(message), limited.read_to_end(&mut answer))?;
    if answer.len() == message.len() {
        Ok(())
    } else {
        Err("the floor's server closed the connection".into())
    }
}
