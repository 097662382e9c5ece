//! A call for its one result, from the queue to the answer.

use std::{sync::Arc, time::Duration};

use snakepit_proto::v1::{CallResponse, call_error::Kind, call_response::Outcome};
use tokio::time::timeout;

use super::{
    attempt::Attempt,
    dispatch::{Returning, Turn},
    error::CallError,
    settle::Underway,
};
use crate::worker::{Received, TransportError};

/// How long a call waits in a worker for the one before it. That one was expected to be short.
const PATIENCE: Duration = Duration::from_millis(2);

impl Attempt {
    /// Makes the call, on one worker after the other where that is allowed.
    pub(super) async fn run(mut self, mut turn: Turn) -> Result<Received, CallError> {
        // The call is not over while it has no worker.
        let mut returning = None;
        loop {
            let mut lease = self.checkout(turn).await?;
            drop(returning.take());
            (turn.first, turn.accepted) = (true, true);
            self.fits(&lease)?;
            let call_id = self.begin(&mut lease);
            let work = self.call(&*lease.seat().client, self.call_request(call_id));
            let mut underway = Underway::new(self.settler(), lease, call_id, work);
            let Some(answer) = self.within(attended(&mut underway)).await else {
                return Err(self.overdue(underway.abandon()));
            };
            match answer {
                // The call before it takes long: some other worker may be free sooner.
                Attended::Recalled(recalled) => {
                    returning = Some(recalled);
                    self.unexecuted();
                }
                Attended::Over(Ok(answer)) if is_shutting_down(&answer) => {
                    // Certainly not executed. That worker is leaving, so each turn takes another one.
                    let lease = underway.finish();
                    returning = lease.returning();
                    self.leaving(lease);
                    self.unexecuted();
                }
                Attended::Over(Ok(answer)) => return self.answer(&underway.finish(), answer),
                Attended::Over(Err(error)) => {
                    let lease = underway.finish();
                    returning = lease.returning();
                    let worker = Arc::clone(&lease.seat().worker);
                    let mut loss = self.lost(lease, error);
                    let error = self.explain(&mut loss).await;
                    // What a worker that has ended did not begin was certainly not executed.
                    let ended = matches!(&error, CallError::WorkerLost(lost) if lost.down.outcome.is_some());
                    if ended && worker.has_begun(call_id) == Some(false) {
                        self.unexecuted();
                    } else {
                        self.try_again(error)?;
                    }
                }
            }
        }
    }
}

/// What became of a call in its worker.
enum Attended {
    Over(Result<CallResponse, TransportError>),
    /// It had to wait there for too long and was taken back, unexecuted.
    Recalled(Returning),
}

async fn attended(underway: &mut Underway<CallResponse>) -> Attended {
    // Most have their worker for themselves, and need no timer.
    if let Some(answer) = underway.work_alone().await {
        return Attended::Over(answer);
    }
    if let Ok(answer) = timeout(PATIENCE, underway.work()).await {
        return Attended::Over(answer);
    }
    match underway.recall().await {
        Some(recalled) => Attended::Recalled(recalled),
        None => Attended::Over(underway.work().await),
    }
}

pub(super) fn is_shutting_down(answer: &CallResponse) -> bool {
    matches!(&answer.outcome, Some(Outcome::Error(error)) if error.kind() == Kind::ShuttingDown)
}
