//! Callers: each is a task that writes down what it is told.

use snakepit_core::{
    pool::{CallError, Pool, Request},
    testing::FakeWorkerFactory,
};
use tokio::{sync::mpsc, task::AbortHandle};

use crate::{
    ops::Spec,
    stage::{Item, Seen, Stage, Token},
};

/// A caller that has not left.
#[derive(Debug)]
pub(crate) struct Caller {
    task: AbortHandle,
    /// To a stream's caller: that it wants one more.
    wants: mpsc::UnboundedSender<()>,
}

impl Caller {
    /// Makes a call.
    pub(crate) fn new(
        pool: &Pool,
        workers: &FakeWorkerFactory,
        stage: &Stage,
        token: Token,
        spec: &Spec,
    ) -> Self {
        let (pool, workers, stage, spec) = (pool.clone(), workers.clone(), stage.clone(), spec.clone());
        let (wants, wanted) = mpsc::unbounded_channel();
        let caller = async move {
            let request = request(&pool, token, &spec);
            let outcome = if spec.stream {
                consume(request, &stage, token, wanted).await
            } else {
                request.send().await
            };
            let up = workers.workers().iter().filter(|worker| worker.is_up()).count();
            stage.saw(Seen::Outcome(token, outcome, up));
        };
        let task = tokio::spawn(caller).abort_handle();
        Self { task, wants }
    }

    pub(crate) fn leave(&self) {
        self.task.abort();
    }

    pub(crate) fn want(&self, items: u8) {
        for _ in 0..items {
            // It has had the end, or an error.
            let _ = self.wants.send(());
        }
    }
}

pub(crate) fn function(spec: &Spec) -> &'static str {
    match (spec.stream, spec.deaf, spec.limited) {
        (true, _, false) => "stream",
        (true, _, true) => "stream limited",
        (false, false, false) => "call",
        (false, false, true) => "call limited",
        (false, true, false) => "deaf",
        (false, true, true) => "deaf limited",
    }
}

pub(crate) const LIMITED: [&str; 3] = ["stream limited", "call limited", "deaf limited"];

fn request<'a>(pool: &'a Pool, token: Token, spec: &Spec) -> Request<'a> {
    let mut request = pool
        .request(function(spec))
        .args(&(token,))
        .unwrap()
        .priority(spec.priority)
        .credit(spec.credit)
        .queue_timeout(spec.queue_timeout)
        .run_timeout(spec.run_timeout);
    if let Some(deadline) = spec.deadline {
        request = request.deadline(deadline);
    }
    if spec.idempotent {
        request = request.idempotent();
    }
    request
}

/// Takes items as they are wanted, up to the end.
async fn consume(
    request: Request<'_>,
    stage: &Stage,
    token: Token,
    mut wanted: mpsc::UnboundedReceiver<()>,
) -> Result<Token, CallError> {
    let mut items = request.stream::<Item>().await?;
    while wanted.recv().await.is_some() {
        match items.next().await {
            Some(item) => stage.saw(Seen::Item(token, item?)),
            None => return Ok(token),
        }
    }
    // The test is over, or has failed.
    std::future::pending().await
}
