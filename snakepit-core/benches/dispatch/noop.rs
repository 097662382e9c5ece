//! Workers in memory that answer at once: what remains of a call is the host's own share.
//!
//! The fakes of `snakepit_core::testing` remember every request, which millions of calls cannot afford.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use snakepit_core::{
    SlotId, WorkerId,
    event::Events,
    pool::{Pool, PoolStartError},
    process::{EndReport, EndStep, ExitOutcome},
    worker::{
        BoxFuture, Down, DownReason, ItemStream, StartError, StartTurn, TransportError, Worker, WorkerClient,
        WorkerFactory,
    },
};
use snakepit_proto::v1::{CallRequest, CallResponse, call_response::Outcome};
use tokio::sync::watch;

/// MessagePack nil.
const NIL: Bytes = Bytes::from_static(&[0xc0]);

/// A pool of so many workers in memory.
pub(crate) async fn pool(workers: usize) -> Result<Pool, PoolStartError> {
    let builder = Pool::builder(Arc::new(NoopFactory), Events::new("noop"));
    builder.workers(workers).start().await
}

/// One call through queue and lease.
pub(crate) async fn call(pool: &Pool) -> bool {
    pool.request("noop").send_raw().await.is_ok()
}

#[derive(Debug)]
struct NoopFactory;

#[async_trait]
impl WorkerFactory for NoopFactory {
    async fn start(&self, _slot: SlotId, _turn: StartTurn) -> Result<Arc<dyn Worker>, StartError> {
        Ok(Arc::new(Noop {
            id: WorkerId::next(),
            ended: watch::Sender::new(false),
        }))
    }
}

#[derive(Debug)]
struct Noop {
    id: WorkerId,
    ended: watch::Sender<bool>,
}

#[async_trait]
impl Worker for Noop {
    fn id(&self) -> WorkerId {
        self.id
    }

    fn pid(&self) -> Option<u32> {
        None
    }

    fn client(&self) -> Arc<dyn WorkerClient> {
        Arc::new(NoopClient)
    }

    fn condemn(&self, _reason: DownReason) {
        self.ended.send_replace(true);
    }

    async fn down(&self) -> Down {
        let mut ended = self.ended.subscribe();
        // The sender is ours and lives as long as this borrow.
        let _ = ended.wait_for(|ended| *ended).await;
        Down {
            reason: DownReason::Requested,
            outcome: None,
            stderr_tail: String::new(),
        }
    }

    async fn end(&self, _drain: Duration, _grace: Duration) -> EndReport {
        self.ended.send_replace(true);
        EndReport {
            outcome: ExitOutcome::Exited(0),
            step: EndStep::Term,
            took: Duration::ZERO,
            swept: 0,
            remaining: Vec::new(),
        }
    }
}

#[derive(Debug)]
struct NoopClient;

impl WorkerClient for NoopClient {
    fn call(&self, request: CallRequest) -> BoxFuture<Result<CallResponse, TransportError>> {
        Box::pin(std::future::ready(Ok(CallResponse {
            call_id: request.call_id,
            outcome: Some(Outcome::Value(NIL)),
        })))
    }

    fn call_stream(
        &self,
        _request: CallRequest,
        _credit: u32,
    ) -> BoxFuture<Result<ItemStream, TransportError>> {
        Box::pin(std::future::ready(Err(TransportError {
            message: "the benchmark makes no streams".into(),
        })))
    }

    fn cancel(&self, _call_id: u64) -> BoxFuture<Result<bool, TransportError>> {
        Box::pin(std::future::ready(Ok(false)))
    }
}
