//! Notices when a worker cannot serve any more.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{Live, client};
use crate::{
    clock::within,
    rpc::Connection,
    worker::{Down, DownReason},
};

/// A dying process closes its sockets a moment before its exit can be seen.
const EXIT_FOLLOWS_EOF: Duration = Duration::from_millis(250);
/// How long to wait for the end of standard error once the process is gone; a grandchild may hold it open.
const STDERR_FOLLOWS_EXIT: Duration = Duration::from_millis(50);

/// Watches a worker until it is down, then says so. Holds no handle that would keep the worker alive longer than
/// its users do.
pub(super) fn spawn(worker: &Arc<Live>, connections: Vec<Connection>) {
    let weak = Arc::downgrade(worker);
    let process = Arc::clone(&worker.process);
    let mut condemned = worker.condemned.subscribe();
    let stderr = worker.stderr.clone();
    let heartbeat = tokio::spawn(heartbeat(Arc::downgrade(worker)));
    tokio::spawn(async move {
        let reason = tokio::select! {
            // An exit explains everything else that happens with it.
            biased;
            _ = process.exited() => DownReason::Exited,
            condemnation = condemnation(&mut condemned) => match condemnation {
                Some(reason) => reason,
                // The last handle is gone, and with it everybody who would want to know.
                None => return,
            },
            () = any_closed(&connections) => if within(EXIT_FOLLOWS_EOF, process.exited()).await.is_some() {
                DownReason::Exited
            } else {
                DownReason::ChannelClosed
            },
        };
        heartbeat.abort();
        let outcome = process.try_exited();
        if outcome.is_some() {
            // What is missing after that bound is only missing from an error's text.
            let _ = timeout(STDERR_FOLLOWS_EXIT, stderr.drained()).await;
        }
        if let Some(worker) = weak.upgrade() {
            worker.down.send_replace(Some(Down {
                reason,
                outcome,
                stderr_tail: stderr.text(),
            }));
        }
    });
}

/// `None` when the worker's last handle was dropped.
async fn condemnation(condemned: &mut watch::Receiver<Option<DownReason>>) -> Option<DownReason> {
    condemned.wait_for(Option::is_some).await.ok()?.clone()
}

async fn any_closed(connections: &[Connection]) {
    match connections {
        [data, control, ..] => tokio::select! {
            () = data.closed() => {}
            () = control.closed() => {}
        },
        [both] => both.closed().await,
        [] => std::future::pending().await,
    }
}

/// Pings the control thread; a worker that leaves a ping unanswered for long enough is condemned.
async fn heartbeat(worker: std::sync::Weak<Live>) {
    let Some(settings) = worker.upgrade().map(|worker| worker.spec.heartbeat) else {
        return;
    };
    loop {
        sleep(settings.interval).await;
        let Some(control) = worker.upgrade().map(|worker| worker.control.clone()) else {
            return;
        };
        // An error is an answer as well, or the connection's end, which is noticed by whoever watches it.
        if within(settings.stuck_after, client::ping(&control))
            .await
            .is_none()
        {
            if let Some(worker) = worker.upgrade() {
                worker.condemn(DownReason::Unresponsive(settings.stuck_after));
            }
            return;
        }
    }
}
