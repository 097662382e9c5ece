//! The end of a worker: asked, then made to, then recorded.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use super::{Live, client, start::clear_away};
use crate::{
    clock::after,
    process::{EndReport, EndStep, ExitOutcome},
    worker::DownReason,
};

/// An answer to the shutdown request only says that it was understood; a worker that does not say so soon is not
/// going to leave by itself.
const SHUTDOWN_ANSWER: Duration = Duration::from_secs(1);
/// Added to the drain for the stop hooks and the interpreter's own end.
const LEAVE: Duration = Duration::from_secs(1);

/// An ending under way. Whoever asks again joins it.
#[derive(Debug)]
pub(super) struct Ending {
    limits: watch::Sender<Limits>,
    report: watch::Receiver<Option<EndReport>>,
}

/// How long each step may take.
#[derive(Clone, Copy, Debug)]
struct Limits {
    left_by: Instant,
    drain: Duration,
    grace: Duration,
}

pub(super) async fn end(worker: &Arc<Live>, drain: Duration, grace: Duration) -> EndReport {
    let limits = Limits {
        left_by: after(Instant::now(), drain.saturating_add(LEAVE)),
        drain,
        grace,
    };
    let mut report = join(worker, limits);
    loop {
        if let Some(report) = report.borrow_and_update().clone() {
            return report;
        }
        if report.changed().await.is_err() {
            // The task is gone without a report: its runtime was shut down. Dropping the process kills it.
            return EndReport {
                outcome: worker.process.try_exited().unwrap_or(ExitOutcome::Unknown),
                step: EndStep::Incomplete,
                took: Duration::ZERO,
                swept: 0,
                remaining: Vec::new(),
            };
        }
    }
}

/// Begins the ending, or joins the one under way with the shorter limits.
fn join(worker: &Arc<Live>, limits: Limits) -> watch::Receiver<Option<EndReport>> {
    let mut ending = worker
        .ending
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(ending) = &*ending {
        ending.limits.send_modify(|current| {
            current.left_by = current.left_by.min(limits.left_by);
            current.drain = current.drain.min(limits.drain);
            current.grace = current.grace.min(limits.grace);
        });
        return ending.report.clone();
    }
    let (sender, report) = watch::channel(None);
    let (limits_sender, limits_receiver) = watch::channel(limits);
    *ending = Some(Ending {
        limits: limits_sender,
        report: report.clone(),
    });
    let worker = Arc::clone(worker);
    tokio::spawn(async move {
        let report = perform(&worker, limits_receiver).await;
        sender.send_replace(Some(report));
    });
    report
}

async fn perform(worker: &Arc<Live>, mut limits: watch::Receiver<Limits>) -> EndReport {
    let asked = worker.down.borrow().is_none();
    worker.condemn(DownReason::Requested);
    let ledger = &worker.spec.ledger;
    if let Err(error) = ledger.ending(worker.id).await {
        tracing::warn!(worker = %worker.id, %error, "the ledger does not know of the worker's end");
    }
    let drain = limits.borrow().drain;
    if asked && !drain.is_zero() {
        let mut hurried = limits.clone();
        tokio::select! {
            () = leave(worker, drain, &mut limits) => {}
            // Somebody else has no time for it.
            _ = hurried.wait_for(|limits| limits.drain.is_zero()) => {}
        }
    }
    let report = loop {
        let grace = limits.borrow_and_update().grace;
        tokio::select! {
            report = worker.process.end(grace) => break report,
            // Asking again with the shorter grace joins the ending that goes on.
            Ok(()) = limits.changed() => {}
        }
    };
    if report.is_complete() {
        clear_away(&worker.spec, worker.id).await;
    }
    report
}

/// Asks the worker to leave and waits until it has, or the drain and a little more is over.
async fn leave(worker: &Live, drain: Duration, limits: &mut watch::Receiver<Limits>) {
    let asked = timeout(SHUTDOWN_ANSWER, client::shutdown(&worker.control, drain)).await;
    if !matches!(asked, Ok(Ok(()))) {
        return;
    }
    let exited = worker.process.exited();
    tokio::pin!(exited);
    loop {
        let by = limits.borrow_and_update().left_by;
        tokio::select! {
            _ = &mut exited => return,
            () = sleep_until(by) => return,
            Ok(()) = limits.changed() => {}
        }
    }
}
