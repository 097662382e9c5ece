//! What holds whenever everything that can happen without time passing has happened.

use std::collections::BTreeSet;

use snakepit_core::{
    WorkerId,
    pool::{Phase, PoolStatus, WorkerStatus},
};
use tokio::time::Instant;

use crate::{
    caller::{LIMITED, function},
    model::{Call, Model, Stand},
};

/// Checks the state between two operations.
pub(crate) fn check(model: &Model, status: &PoolStatus, now: Instant) {
    callers_are_told(model, now);
    if model.ending {
        return;
    }
    counts_agree(model, status);
    nobody_waits_in_vain(model, status);
}

/// Whoever has to be told something has been, at the right time.
fn callers_are_told(model: &Model, now: Instant) {
    for (token, call) in &model.calls {
        assert!(
            !matches!(call.stand, Stand::Due(_)),
            "call {token} was not told: {call:?}"
        );
        if let Some((budget, at)) = call.limit() {
            assert!(now < at, "call {token} goes on after its {budget}: {call:?}");
        }
        if let Stand::Settling { until, .. } = call.stand {
            assert!(
                now < until,
                "call {token} was cancelled and keeps its worker: {call:?}"
            );
        }
        let reads = matches!(call.stand, Stand::Running { .. }) && call.wanted > 0;
        let has_all = call.ended.is_none() && call.taken == call.yielded;
        assert!(!reads || has_all, "stream {token} keeps items back: {call:?}");
    }
}

fn counts_agree(model: &Model, status: &PoolStatus) {
    let seen = || format!("{status:?}\n{}", model.calls_told());
    assert_eq!(status.phase, model.phase);
    assert_eq!(
        status.queued,
        model.waiting().count(),
        "callers that wait: {}",
        seen()
    );
    let lent: Vec<_> = model.calls.values().filter_map(Call::has).collect();
    let all: BTreeSet<_> = lent.iter().collect();
    let up = all.iter().filter(|worker| model.is_up(***worker)).count();
    // One that was replaced and has died is lent until the caller of its stream has had the end.
    assert!(
        (up..=all.len()).contains(&status.busy),
        "workers that are lent: {}",
        seen()
    );
    assert_eq!(
        status.waited.count, model.begun,
        "calls that were given to a worker"
    );
    assert_eq!(
        status.ran.count,
        model.begun - lent.len() as u64,
        "calls that are over: {}",
        seen()
    );
    assert_eq!(
        (status.min_workers, status.max_workers),
        (model.setup.min, model.setup.max)
    );
    if let Some(limit) = model.setup.queue_limit {
        let fresh = |call: &Call| matches!(call.stand, Stand::Waiting { again: false, .. });
        let waiting = model.calls.values().filter(|call| fresh(call)).count();
        assert!(waiting <= limit, "{waiting} calls wait, {limit} may");
    }
    let serving = serving(model).count();
    assert!(
        status.ready <= serving,
        "{} of {serving} workers are ready",
        status.ready
    );
    assert!(
        model.shrinks || status.ready == serving,
        "{} of {serving} workers are ready",
        status.ready
    );
}

/// Workers that are up and that no other has followed.
fn serving(model: &Model) -> impl Iterator<Item = WorkerId> {
    let up = model
        .up
        .iter()
        .filter(|(worker, up)| **up && !model.followed.contains(worker));
    up.map(|(worker, _)| *worker)
}

/// No worker is free while somebody waits whom it could serve.
fn nobody_waits_in_vain(model: &Model, status: &PoolStatus) {
    let hands_out = matches!(model.phase, Phase::Running | Phase::Draining);
    // A slot that is about to go has no worker for the pool any more.
    let stays = |slot: &&WorkerStatus| slot.concurrency > 0;
    let slots = status
        .workers
        .iter()
        .filter(stays)
        .map(|slot| slot.child.status.slot);
    let lendable: BTreeSet<_> = slots.filter_map(|slot| model.last.get(&slot)).collect();
    let free = serving(model).find(|worker| {
        let stays = lendable.contains(worker) && !model.retired.contains_key(worker);
        stays && model.on(*worker) < model.setup.concurrency
    });
    if let Some(free) = free.filter(|_| hands_out) {
        let plain = model.waiting().find(|(_, call)| !call.spec.limited);
        assert!(plain.is_none(), "{free} is free and {plain:?} waits");
        for limited in LIMITED {
            let waits = model.waiting().find(|(_, call)| function(&call.spec) == limited);
            let may = model.permits(limited) < model.setup.limited;
            assert!(waits.is_none() || !may, "{free} is free and {waits:?} waits");
        }
    }
    let waiting = model.waiting().count();
    if waiting > 0 && model.phase == Phase::Running {
        let lent = model.calls.values().filter(|call| call.has().is_some()).count();
        let needed = (lent + waiting)
            .div_ceil(model.setup.concurrency)
            .min(model.setup.max);
        let slots = status.workers.len();
        assert!(
            slots >= needed,
            "{waiting} calls wait for more than {slots} slots"
        );
    }
}
