//! A worker on our Python runtime, in a host that is going to be killed.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use snakepit::{
    Pool, Shutdown,
    core::{
        conformance::{Hosted, StartingHosted},
        launch::Launcher,
        ledger::MemoryLedger,
    },
};

/// Has a pool of one worker start the script's children and daemons.
pub(super) fn start(launcher: Arc<dyn Launcher>, script: PathBuf) -> StartingHosted {
    Box::pin(async move {
        let mut shutdown = Shutdown::BRUTAL;
        shutdown.grace = Duration::from_millis(200);
        // In memory: a registry would have the next host end what this one is seen to leave.
        let ledger = Arc::new(MemoryLedger::new());
        let pool = Pool::builder()
            .workers(1)
            .launcher(launcher)
            .ledger(ledger)
            .shutdown(shutdown)
            .start()
            .await?;
        let line = format!("/bin/sh '{}'", script.display());
        let code: i32 = pool.call("os:system", (line,)).await?;
        if code != 0 {
            return Err(format!("the script ended with {code}").into());
        }
        let workers = pool.status().await.workers;
        let worker = workers.first().and_then(|worker| worker.child.status.pid);
        let worker = worker.ok_or("the worker is gone")?;
        Ok(Box::new(PythonWorker { pool, worker }) as Box<dyn Hosted>)
    })
}

struct PythonWorker {
    pool: Pool,
    worker: u32,
}

#[async_trait]
impl Hosted for PythonWorker {
    fn worker(&self) -> u32 {
        self.worker
    }

    async fn end(self: Box<Self>) {
        self.pool.shutdown().await;
    }
}
