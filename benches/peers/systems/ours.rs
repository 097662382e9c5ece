//! This project's pool: the port backend and default settings.

use bytes::Bytes;
use snakepit::{Backend, Pool, Value};
use tokio::task::JoinSet;

use crate::{
    Result,
    interpreter::Interpreter,
    load::{Cell, closed_loop},
    stats::Sample,
};

/// A pool whose workers have all answered.
#[derive(Debug)]
pub(crate) struct Ours {
    pool: Pool,
    workers: usize,
}

impl Ours {
    /// Starts a pool of `workers`; returns when each worker is ready and as many calls were answered.
    pub(crate) async fn start(python: &Interpreter, workers: usize) -> Result<Self> {
        let pool = Pool::builder()
            .name("peers")
            .backend(Backend::Port)
            .python(python.environment.clone())
            .workers(workers)
            .adapter("echo_adapter")
            .path(&python.programs)
            .start()
            .await?;
        let ours = Self { pool, workers };
        let mut calls = JoinSet::new();
        for _ in 0..workers {
            let pool = ours.pool.clone();
            calls.spawn(async move { echo(&pool, Bytes::from_static(b"x")).await });
        }
        while let Some(done) = calls.join_next().await {
            done??;
        }
        Ok(ours)
    }

    /// The workers' process ids.
    pub(crate) async fn pids(&self) -> Result<Vec<u32>> {
        let tree = self.pool.tree().await;
        let pids: Vec<_> = tree
            .children()
            .iter()
            .filter_map(|slot| slot.status.pid)
            .collect();
        if pids.len() == self.workers {
            Ok(pids)
        } else {
            Err(format!("the pool has {} of {} workers", pids.len(), self.workers).into())
        }
    }

    /// Asks a worker for its process id.
    pub(crate) async fn worker_pid(&self) -> Result<u32> {
        Ok(self.pool.call("os:getpid", ()).await?)
    }

    /// Echoes through the pool, with the same serialisation that any caller has.
    pub(crate) async fn load(&self, cell: Cell) -> Result<Sample> {
        let payload = Bytes::from(vec![b'x'; cell.payload]);
        let pool = self.pool.clone();
        closed_loop(cell, move || {
            let (pool, payload) = (pool.clone(), payload.clone());
            async move { echo(&pool, payload).await }
        })
        .await
    }

    /// Drains and ends the pool.
    pub(crate) async fn stop(self) -> Result<()> {
        self.pool.shutdown().await;
        Ok(())
    }
}

async fn echo(pool: &Pool, payload: Bytes) -> Result<()> {
    let sent = payload.len();
    match pool.call("echo", (Value::Bytes(payload),)).await? {
        Value::Bytes(answer) if answer.len() == sent => Ok(()),
        other => Err(format!("the pool answered something else: {other:?}").into()),
    }
}
