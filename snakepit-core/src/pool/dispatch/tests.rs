//! Callers and workers that leave at awkward moments.

mod sessions;

use std::{
    pin::pin,
    task::{Context, Waker},
    time::Duration,
};

use super::*;
use crate::{
    supervision::{SlotEvent, SlotObserver as _},
    testing::{FakeBehaviour, FakeWorker},
    worker::{Down, DownReason, Worker},
};

const SLOT: SlotId = SlotId(0);

/// As a new call waits.
const LAST: Turn = Turn {
    priority: 0,
    ahead: true,
    first: false,
    accepted: false,
    aim: None,
};

fn pool(slots: usize, limit: Option<usize>) -> Arc<Dispatch> {
    let settings = PoolSettings {
        workers: slots,
        queue_limit: limit,
        ..PoolSettings::default()
    };
    let rules = Rules::new(&settings);
    let dispatch = Arc::new(Dispatch::new(settings.bounds(), rules, Events::new("test")));
    dispatch.open();
    dispatch
}

fn ready(dispatch: &Arc<Dispatch>, slot: SlotId) -> Arc<FakeWorker> {
    let worker = FakeWorker::new(slot, FakeBehaviour::Echo);
    dispatch.slot_event(SlotEvent::Ready {
        slot,
        worker: Arc::clone(&worker) as Arc<dyn Worker>,
    });
    worker
}

fn down(dispatch: &Arc<Dispatch>, worker: &FakeWorker) {
    dispatch.slot_event(SlotEvent::Down {
        slot: worker.slot(),
        worker: worker.id(),
        down: Down {
            reason: DownReason::Exited,
            outcome: None,
            stderr_tail: String::new(),
        },
    });
}

fn poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> std::task::Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn queued(dispatch: &Dispatch) -> usize {
    dispatch.status(Vec::new()).queued
}

#[tokio::test]
async fn workers_that_came_and_went_idle_are_not_kept() {
    let dispatch = pool(2, None);
    let _stays = ready(&dispatch, SlotId(1));
    for _ in 0..100 {
        let worker = ready(&dispatch, SLOT);
        let weak = Arc::downgrade(&worker);
        down(&dispatch, &worker);
        drop(worker);
        assert!(weak.upgrade().is_none(), "the pool holds a worker that is gone");
    }
    assert_eq!(dispatch.lock().idle.len(), 1);
}

#[tokio::test]
async fn a_caller_that_was_lent_a_worker_waits_no_more_and_makes_room_at_once() {
    let dispatch = pool(1, Some(1));
    let _worker = ready(&dispatch, SLOT);
    let first = dispatch.checkout(LAST, None).await.unwrap();
    let mut second = pin!(dispatch.checkout(LAST, None));
    assert!(poll(second.as_mut()).is_pending());
    assert_eq!(queued(&dispatch), 1);
    // It is granted here, and polled only later.
    drop(first);
    assert_eq!(queued(&dispatch), 0);
    let mut third = pin!(dispatch.checkout(LAST, None));
    assert!(
        poll(third.as_mut()).is_pending(),
        "the queue is empty, and so not full"
    );
    drop(second.await.unwrap());
    drop(third.await.unwrap());
    assert_eq!((queued(&dispatch), dispatch.lock().lent), (0, 0));
}

#[tokio::test]
async fn a_worker_granted_to_a_caller_that_leaves_goes_on_to_the_next() {
    let dispatch = pool(1, None);
    let _worker = ready(&dispatch, SLOT);
    let first = dispatch.checkout(LAST, None).await.unwrap();
    let mut next = pin!(dispatch.checkout(LAST, None));
    {
        let mut leaves = pin!(dispatch.checkout(LAST, None));
        assert!(poll(leaves.as_mut()).is_pending());
        assert!(poll(next.as_mut()).is_pending());
        drop(first);
        assert_eq!(queued(&dispatch), 1);
    }
    let lease = next.await.unwrap();
    assert_eq!((queued(&dispatch), dispatch.lock().lent), (0, 1));
    drop(lease);
    assert_eq!(dispatch.lock().idle.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn quiet_comes_when_the_last_waiting_caller_leaves_while_nobody_serves() {
    let dispatch = pool(1, None);
    let caller = Arc::clone(&dispatch);
    let caller = tokio::spawn(async move { caller.checkout(LAST, None).await.map(drop) });
    tokio::task::yield_now().await;
    assert_eq!(queued(&dispatch), 1);
    dispatch.drain();
    let quiet = tokio::spawn({
        let dispatch = Arc::clone(&dispatch);
        async move { dispatch.quiet().await }
    });
    tokio::task::yield_now().await;
    caller.abort();
    tokio::time::timeout(Duration::from_secs(60), quiet)
        .await
        .expect("nobody waits any more")
        .unwrap();
}

#[tokio::test]
async fn refused_callers_are_counted_out_once() {
    let dispatch = pool(1, None);
    let mut stays = pin!(dispatch.checkout(LAST, None));
    {
        let mut leaves = pin!(dispatch.checkout(LAST, None));
        assert!(poll(leaves.as_mut()).is_pending());
        assert!(poll(stays.as_mut()).is_pending());
        assert_eq!(queued(&dispatch), 2);
    }
    assert_eq!(queued(&dispatch), 1);
    dispatch.stop();
    assert_eq!(queued(&dispatch), 0);
    assert!(matches!(stays.await, Err(Refusal::Phase(Phase::Stopped))));
    assert_eq!(queued(&dispatch), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_leaks_when_callers_and_workers_come_and_go_on_many_threads() {
    const SLOTS: u32 = 3;
    let dispatch = pool(SLOTS as usize, Some(20));
    let callers = (0..16_u64).map(|caller| {
        let dispatch = Arc::clone(&dispatch);
        tokio::spawn(async move {
            let (mut served, mut left, mut full) = (0, 0, 0);
            for turn in 0..400 {
                // Some wait for as long as it takes, some for no time at all.
                let patience = Duration::from_micros((caller * 31 + turn * 17) % 600);
                let checkout = dispatch.checkout(LAST, None);
                match tokio::time::timeout(patience * 10, checkout).await {
                    Ok(Ok(_lease)) => {
                        served += 1;
                        tokio::task::yield_now().await;
                    }
                    Ok(Err(Refusal::Full { .. })) => full += 1,
                    Ok(Err(other)) => panic!("{other:?}"),
                    Err(_) => left += 1,
                }
            }
            (served, left, full)
        })
    });
    let callers: Vec<_> = callers.collect();
    // The first slot's worker stays, the others crash all the time.
    let mut workers: Vec<_> = (0..SLOTS).map(|slot| ready(&dispatch, SlotId(slot))).collect();
    for turn in 0..300_u32 {
        let at = (1 + turn % (SLOTS - 1)) as usize;
        down(&dispatch, &workers[at]);
        tokio::time::sleep(Duration::from_micros(200)).await;
        workers[at] = ready(&dispatch, workers[at].slot());
    }
    for caller in callers {
        let caller = tokio::time::timeout(Duration::from_secs(60), caller).await;
        let (served, left, full) = caller.expect("a caller was forgotten").unwrap();
        assert_eq!(served + left + full, 400);
    }
    dispatch.drain();
    tokio::time::timeout(Duration::from_secs(60), dispatch.quiet())
        .await
        .expect("nobody is there any more");
    assert_eq!(queued(&dispatch), 0);
    let state = dispatch.lock();
    assert_eq!((state.lent, state.idle.len()), (0, SLOTS as usize));
    let mut slots: Vec<_> = state.idle.iter().map(|seat| seat.slot).collect();
    slots.sort_unstable();
    slots.dedup();
    assert_eq!(slots.len(), SLOTS as usize);
}
