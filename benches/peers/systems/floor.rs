//! The floor: a bare socket loop in Python, called from the same runtime as the pool.

use std::{path::Path, sync::Arc};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::Mutex,
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

/// The server's process and the one connection to it.
#[derive(Debug)]
pub(crate) struct Floor {
    _server: Peer,
    connection: Arc<Mutex<UnixStream>>,
    _directory: tempfile::TempDir,
}

impl Floor {
    /// Starts the server and connects.
    pub(crate) async fn start(python: &Interpreter) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("floor.sock");
        let mut server = Peer::start("the floor's server", python.program("floor_server.py").arg(&path))?;
        server.line().await?;
        Ok(Self {
            connection: Arc::new(Mutex::new(connect(&path).await?)),
            _server: server,
            _directory: directory,
        })
    }

    /// Echoes `cell.payload` bytes; several callers take turns on the one connection.
    pub(crate) async fn load(&self, cell: Cell) -> Result<Sample> {
        let mut message = u32::try_from(cell.payload)?.to_be_bytes().to_vec();
        message.resize(HEADER + cell.payload, b'x');
        let message: Arc<[u8]> = message.into();
        let connection = Arc::clone(&self.connection);
        closed_loop(cell, move || {
            let (connection, message) = (Arc::clone(&connection), Arc::clone(&message));
            async move {
                let mut stream = connection.lock().await;
                // Writing and reading at once, or large messages fill both socket buffers and block for ever.
                let (mut reader, mut writer) = stream.split();
                let mut answer = Vec::with_capacity(message.len());
                let mut limited = (&mut reader).take(message.len() as u64);
                tokio::try_join!(writer.write_all(&message), limited.read_to_end(&mut answer))?;
                if answer.len() == message.len() {
                    Ok(())
                } else {
                    Err("the floor's server closed the connection".into())
                }
            }
        })
        .await
    }
}

async fn connect(path: &Path) -> Result<UnixStream> {
    Ok(UnixStream::connect(path).await?)
}
