//! A few connections for each worker, there for as long as it is.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use snakepit::core::{
    SlotId, WorkerId,
    supervision::{Resource, ResourceError, ResourceFactory},
    worker::Worker,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::{Mutex, watch},
};

type Open = Arc<Vec<Mutex<UnixStream>>>;

/// The connections of each worker.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connections {
    of: watch::Sender<HashMap<WorkerId, Open>>,
}

impl Connections {
    /// Asks over a connection of the worker that is free, else over its first.
    pub(crate) async fn ask(&self, worker: WorkerId, question: u8) -> io::Result<u32> {
        // A worker may be called a moment before its resources have started. Whoever waits here leaves with its call.
        let mut of = self.of.subscribe();
        let opened = of.wait_for(|of| of.contains_key(&worker)).await;
        let connections = opened
            .ok()
            .and_then(|of| of.get(&worker).cloned())
            .unwrap_or_default();
        let free = connections
            .iter()
            .find_map(|connection| connection.try_lock().ok());
        let mut connection = match (free, connections.first()) {
            (Some(free), _) => free,
            (None, Some(first)) => first.lock().await,
            (None, None) => return Err(io::Error::other("it has no connections")),
        };
        connection.write_u8(question).await?;
        connection.read_u32().await
    }
}

/// Opens so many connections beside each worker.
#[derive(Debug)]
pub(crate) struct ConnectionsFactory {
    pub(crate) server: PathBuf,
    pub(crate) count: usize,
    pub(crate) connections: Connections,
}

#[async_trait]
impl ResourceFactory for ConnectionsFactory {
    fn name(&self) -> Arc<str> {
        "connections".into()
    }

    async fn start(&self, _: SlotId, worker: &Arc<dyn Worker>) -> Result<Arc<dyn Resource>, ResourceError> {
        // Dropped half-way, it closes those that are open.
        let opened = open(&self.server, self.count).await;
        let opened = opened.map_err(|error| ResourceError(format!("cannot connect: {error}")))?;
        let worker = worker.id();
        let connections = self.connections.clone();
        connections.of.send_modify(|of| {
            of.insert(worker, Arc::new(opened));
        });
        Ok(Arc::new(OfWorker { worker, connections }))
    }
}

async fn open(server: &Path, count: usize) -> io::Result<Vec<Mutex<UnixStream>>> {
    let mut opened = Vec::with_capacity(count);
    for _ in 0..count {
        opened.push(Mutex::new(UnixStream::connect(server).await?));
    }
    Ok(opened)
}

/// The connections of one worker.
#[derive(Debug)]
struct OfWorker {
    worker: WorkerId,
    connections: Connections,
}

#[async_trait]
impl Resource for OfWorker {
    async fn end(&self) {
        // Whoever asks over one right now keeps it open until it has its answer.
        self.connections.of.send_modify(|of| {
            of.remove(&self.worker);
        });
    }
}
