//! The pool's state as its users see it.

use std::sync::{Arc, atomic::Ordering};

use tokio::time::Instant;

use super::Dispatch;
use crate::{
    pool::status::{PoolStatus, WorkerStatus},
    supervision::ChildInfo,
};

impl Dispatch {
    pub(in crate::pool) fn status(&self, slots: Vec<ChildInfo>) -> PoolStatus {
        let state = self.lock();
        let now = Instant::now();
        let mut present = Vec::with_capacity(slots.len());
        let workers = slots.into_iter().map(|child| {
            let seat = state.seats.get(&child.status.slot);
            present.push(seat.map(|seat| Arc::clone(&seat.worker)));
            WorkerStatus {
                sessions: seat.map_or(0, |seat| state.bonds.on(seat.worker.id())),
                calls: seat.map_or(0, |seat| seat.calls()),
                running: seat.map_or(0, |seat| seat.lent_to_calls().min(seat.concurrency())),
                concurrency: seat.map_or(0, |seat| seat.concurrency()),
                busy_for: seat.and_then(|seat| seat.busy_for(now)),
                arena: None,
                check: state
                    .checked
                    .get(&child.status.slot)
                    .map(|checked| checked.told(now)),
                child,
            }
        });
        let mut status = PoolStatus {
            name: self.events.pool().to_owned(),
            phase: state.phase,
            workers: workers.collect(),
            ready: state.seats.len(),
            busy: state
                .seats
                .values()
                .chain(&state.retired)
                .filter(|seat| seat.lent_to_calls() > 0)
                .count(),
            queued: self.waiters.load(Ordering::Relaxed),
            queue_limit: self.rules.queue_limit,
            sessions: state.bonds.bound(),
            min_workers: state.bounds.min,
            max_workers: state.bounds.max,
            waited: self.latencies.waited.summary(),
            ran: self.latencies.ran.summary(),
            last_start_error: state.last_error.clone(),
        };
        drop(state);
        // It may give pages back, for which nobody else has to wait.
        for (worker, present) in status.workers.iter_mut().zip(present) {
            worker.arena = present.and_then(|present| present.arena());
        }
        status
    }
}
