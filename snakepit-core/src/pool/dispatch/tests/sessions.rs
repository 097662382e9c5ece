//! Calls of sessions: who gets which worker, and what is left when callers and workers go.

use super::*;
use crate::pool::session::{LostBy, SessionMode};

const OTHER: SlotId = SlotId(1);

fn of(session: u64, mode: SessionMode) -> Turn {
    Turn {
        aim: Some(Aim {
            session: SessionId(session),
            at: At::Mode(mode),
        }),
        ..LAST
    }
}

fn strict(session: u64) -> Turn {
    of(session, SessionMode::StrictQueue)
}

/// Nothing is lent, nobody waits, and the sessions that are over have left nothing.
fn assert_nothing_is_left(dispatch: &Dispatch, sessions: impl IntoIterator<Item = u64>) {
    for session in sessions {
        dispatch.forget_session(SessionId(session));
    }
    let state = dispatch.lock();
    assert_eq!((queued_in(dispatch), state.lent), (0, 0));
    assert!(
        state.bonds.sessions.is_empty() && state.bonds.workers.is_empty(),
        "{:?}",
        state.bonds
    );
    assert!(
        state.seats.values().all(|seat| seat.place().is_some()),
        "each is idle"
    );
}

fn queued_in(dispatch: &Dispatch) -> usize {
    dispatch.waiters.load(Ordering::Relaxed)
}

#[tokio::test]
async fn a_worker_serves_who_waits_for_it_and_who_waits_for_any_by_priority_and_then_arrival() {
    let dispatch = pool(2, None);
    let worker = ready(&dispatch, SLOT);
    let bound = dispatch.checkout(strict(1), None).await.unwrap();
    let urgent = |turn: Turn| Turn { priority: 1, ..turn };
    let turns = [strict(1), LAST, strict(1), urgent(LAST), urgent(strict(1))];
    let mut waiting: Vec<_> = turns
        .into_iter()
        .map(|turn| Box::pin(dispatch.checkout(turn, None)))
        .collect();
    for waits in &mut waiting {
        assert!(poll(waits.as_mut()).is_pending());
    }
    let mut lease = bound;
    for next in [3, 4, 0, 1, 2] {
        drop(lease);
        let std::task::Poll::Ready(granted) = poll(waiting[next].as_mut()) else {
            panic!("number {next} is next");
        };
        lease = granted.unwrap();
        assert_eq!(lease.seat().worker.id(), worker.id());
    }
    drop((lease, waiting));
    assert_nothing_is_left(&dispatch, [1]);
}

#[tokio::test]
async fn callers_that_came_before_the_session_was_bound_follow_the_first_to_its_worker() {
    let dispatch = pool(2, None);
    let mut calls = [(); 3].map(|()| Box::pin(dispatch.checkout(strict(1), None)));
    let mut plain = pin!(dispatch.checkout(LAST, None));
    for call in &mut calls {
        assert!(poll(call.as_mut()).is_pending());
    }
    assert!(poll(plain.as_mut()).is_pending());
    let home = ready(&dispatch, SLOT);
    let [first, second, third] = calls;
    let first = first.await.unwrap();
    // It is not for the two that wait for the first one.
    let other = ready(&dispatch, OTHER);
    let plain = plain.await.unwrap();
    assert_eq!(plain.seat().worker.id(), other.id());
    drop(plain);
    assert_eq!(queued(&dispatch), 2);
    drop(first);
    let second = second.await.unwrap();
    assert_eq!(second.seat().worker.id(), home.id());
    drop(second);
    drop(third.await.unwrap());
    assert_nothing_is_left(&dispatch, [1]);
}

#[tokio::test]
async fn a_strict_session_fails_at_once_on_a_busy_worker_with_the_numbers() {
    let dispatch = pool(2, None);
    let [_worker, _other] = [SLOT, OTHER].map(|slot| ready(&dispatch, slot));
    let turn = of(1, SessionMode::StrictFail);
    let lease = dispatch.checkout(turn, None).await.unwrap();
    let worker = lease.seat().worker.id();
    let Err(Refusal::SessionBusy {
        session,
        worker: busy,
        running,
        concurrency,
    }) = dispatch.checkout(turn, None).await
    else {
        panic!("its worker is busy");
    };
    assert_eq!((session, busy), (SessionId(1), worker));
    assert_eq!((running, concurrency), (1, 1));
    drop(lease);
    assert_eq!(
        dispatch.checkout(turn, None).await.unwrap().seat().worker.id(),
        worker
    );
    assert_nothing_is_left(&dispatch, [1]);
}

#[tokio::test]
async fn a_hint_goes_elsewhere_when_its_worker_is_busy_and_comes_back() {
    let dispatch = pool(2, None);
    let [_first, _second] = [SLOT, OTHER].map(|slot| ready(&dispatch, slot));
    let turn = of(1, SessionMode::Hint);
    let home = dispatch.checkout(turn, None).await.unwrap();
    let elsewhere = dispatch.checkout(turn, None).await.unwrap();
    let [at_home, away] = [&home, &elsewhere].map(|lease| lease.seat().worker.id());
    assert_ne!(at_home, away);
    drop(home);
    drop(elsewhere);
    // The other one was used last and would be taken by a call without a session.
    let again = dispatch.checkout(turn, None).await.unwrap();
    assert_eq!(again.seat().worker.id(), at_home);
    drop(again);
    assert_eq!(dispatch.home(SessionId(1)), Some(at_home));
    assert_eq!(dispatch.to_be_told(SessionId(1)).len(), 2);
    assert_nothing_is_left(&dispatch, [1]);
}

#[tokio::test]
async fn the_loss_of_a_worker_is_told_to_its_sessions_and_to_no_other() {
    let dispatch = pool(2, None);
    let worker = ready(&dispatch, SLOT);
    let lease = dispatch.checkout(strict(1), None).await.unwrap();
    let _other = ready(&dispatch, OTHER);
    drop(dispatch.checkout(strict(2), None).await.unwrap());
    let mut waits = pin!(dispatch.checkout(strict(1), None));
    assert!(poll(waits.as_mut()).is_pending());
    down(&dispatch, &worker);
    let told = waits.await;
    assert!(
        matches!(&told, Err(Refusal::SessionLost(lost)) if lost.worker == worker.id()
        && lost.session == SessionId(1) && matches!(lost.by, LostBy::Down(_))),
        "{told:?}"
    );
    // Also later, and when the call that ran there is over.
    drop(lease);
    assert!(matches!(
        dispatch.checkout(strict(1), None).await,
        Err(Refusal::SessionLost(_))
    ));
    drop(dispatch.checkout(strict(2), None).await.unwrap());
    assert_nothing_is_left(&dispatch, [1, 2]);
}

#[tokio::test]
async fn a_worker_that_was_replaced_tells_why_and_a_hint_is_bound_anew() {
    let dispatch = pool(1, None);
    let _before = ready(&dispatch, SLOT);
    for turn in [strict(1), of(2, SessionMode::Hint)] {
        drop(dispatch.checkout(turn, None).await.unwrap());
    }
    dispatch.replacing(SLOT, ReplaceCause::Calls(7));
    let after = ready(&dispatch, SLOT);
    dispatch.replaced(SLOT);
    let told = dispatch.checkout(strict(1), None).await;
    assert!(
        matches!(&told, Err(Refusal::SessionLost(lost))
        if matches!(lost.by, LostBy::Replaced(ReplaceCause::Calls(7)))),
        "{told:?}"
    );
    drop(dispatch.checkout(of(2, SessionMode::Hint), None).await.unwrap());
    assert_eq!(dispatch.home(SessionId(2)), Some(after.id()));
    assert_nothing_is_left(&dispatch, [1, 2]);
}

#[tokio::test]
async fn a_caller_that_leaves_its_workers_queue_leaves_nothing() {
    let dispatch = pool(1, Some(1));
    let _worker = ready(&dispatch, SLOT);
    let lease = dispatch.checkout(strict(1), None).await.unwrap();
    for _ in 0..100 {
        let mut leaves = pin!(dispatch.checkout(strict(1), None));
        assert!(poll(leaves.as_mut()).is_pending(), "the queue is not full");
        assert_eq!(queued(&dispatch), 1);
        let full = dispatch.checkout(strict(1), None).await;
        assert!(
            matches!(full, Err(Refusal::Full { waiting: 1, limit: 1 })),
            "{full:?}"
        );
    }
    let kept = dispatch
        .lock()
        .bonds
        .workers
        .values()
        .next()
        .unwrap()
        .waiting
        .len();
    assert!(kept < 25, "{kept} of those that have left are kept");
    drop(lease);
    assert_nothing_is_left(&dispatch, [1]);
}

#[tokio::test]
async fn those_that_wait_for_a_worker_wait_out_a_pause_and_are_refused_by_a_stop() {
    let dispatch = pool(2, None);
    let [_worker, _other] = [SLOT, OTHER].map(|slot| ready(&dispatch, slot));
    let lease = dispatch.checkout(strict(1), None).await.unwrap();
    let home = lease.seat().worker.id();
    drop(lease);
    assert!(dispatch.pause());
    let mut waits = pin!(dispatch.checkout(strict(1), None));
    assert!(poll(waits.as_mut()).is_pending());
    assert!(dispatch.resume());
    let lease = waits.await.unwrap();
    assert_eq!(lease.seat().worker.id(), home);
    let mut refused = pin!(dispatch.checkout(strict(1), None));
    assert!(poll(refused.as_mut()).is_pending());
    dispatch.stop();
    assert!(matches!(refused.await, Err(Refusal::Phase(Phase::Stopped))));
    drop(lease);
    assert_nothing_is_left(&dispatch, [1]);
}

#[tokio::test]
async fn the_oldest_is_displaced_wherever_it_waits() {
    let settings = PoolSettings {
        workers: 1,
        queue_limit: Some(2),
        overflow: Overflow::DropOldest,
        ..PoolSettings::default()
    };
    let rules = Rules::new(&settings);
    let dispatch = Arc::new(Dispatch::new(settings.bounds(), rules, Events::new("test")));
    dispatch.open();
    let _worker = ready(&dispatch, SLOT);
    let lease = dispatch.checkout(strict(1), None).await.unwrap();
    let turns = [LAST, strict(1), LAST, strict(1)];
    let mut waiting = turns.map(|turn| Box::pin(dispatch.checkout(turn, None)));
    for (at, waits) in waiting.iter_mut().enumerate() {
        assert!(poll(waits.as_mut()).is_pending(), "number {at}");
    }
    let [first, second, third, fourth] = waiting;
    for displaced in [first, second] {
        assert!(matches!(displaced.await, Err(Refusal::Displaced { limit: 2 })));
    }
    drop(lease);
    drop(third.await.unwrap());
    drop(fourth.await.unwrap());
    assert_nothing_is_left(&dispatch, [1]);
}

#[tokio::test]
async fn a_pool_does_not_grow_for_callers_that_wait_for_a_certain_worker() {
    let settings = PoolSettings {
        workers: 4,
        min_workers: Some(1),
        spare_workers: 0,
        ..PoolSettings::default()
    };
    let rules = Rules::new(&settings);
    let dispatch = Arc::new(Dispatch::new(settings.bounds(), rules, Events::new("test")));
    dispatch.open();
    let _worker = ready(&dispatch, SLOT);
    let lease = dispatch.checkout(strict(1), None).await.unwrap();
    let mut pinned = pin!(dispatch.checkout(strict(1), None));
    assert!(poll(pinned.as_mut()).is_pending());
    let now = tokio::time::Instant::now();
    assert_eq!(dispatch.plan(now).unwrap().start, []);
    let mut any = pin!(dispatch.checkout(LAST, None));
    assert!(poll(any.as_mut()).is_pending());
    assert_eq!(dispatch.plan(now).unwrap().start, [OTHER]);
    drop(lease);
    drop(pinned.await.unwrap());
    drop(any.await.unwrap());
    assert_nothing_is_left(&dispatch, [1]);
}

#[tokio::test]
async fn a_pool_that_becomes_smaller_keeps_the_workers_that_have_sessions_while_it_can() {
    let dispatch = pool(3, None);
    let workers = [0, 1, 2].map(|slot| ready(&dispatch, SlotId(slot)));
    // The one that is new last is taken first.
    let leases = [
        dispatch.checkout(LAST, None).await.unwrap(),
        dispatch.checkout(strict(1), None).await.unwrap(),
        dispatch.checkout(LAST, None).await.unwrap(),
    ];
    let home = leases[1].seat().worker.id();
    assert_eq!(home, workers[1].id());
    drop(leases);
    dispatch.set_bounds(1, 1);
    let plan = dispatch.plan(tokio::time::Instant::now()).unwrap();
    let ended: Vec<_> = plan.end.iter().map(|(slot, _)| slot.0).collect();
    assert!(!ended.contains(&1) && ended.len() == 2, "{ended:?}");
    drop(dispatch.checkout(strict(1), None).await.unwrap());
    assert_nothing_is_left(&dispatch, [1]);
}

#[tokio::test]
async fn a_session_whose_worker_the_pool_gave_up_is_told_so() {
    let dispatch = pool(2, None);
    let _workers = [SLOT, OTHER].map(|slot| ready(&dispatch, slot));
    let leases = [
        dispatch.checkout(strict(1), None).await.unwrap(),
        dispatch.checkout(strict(2), None).await.unwrap(),
    ];
    let mut waits = pin!(dispatch.checkout(strict(1), None));
    assert!(poll(waits.as_mut()).is_pending());
    dispatch.set_bounds(0, 0);
    assert_eq!(dispatch.plan(tokio::time::Instant::now()).unwrap().end.len(), 2);
    let told = waits.await;
    assert!(
        matches!(&told, Err(Refusal::SessionLost(lost)) if matches!(lost.by, LostBy::ScaledIn)),
        "{told:?}"
    );
    drop(leases);
    assert_nothing_is_left(&dispatch, [1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sessions_leak_nothing_when_callers_and_workers_come_and_go_on_many_threads() {
    const SLOTS: u32 = 3;
    const CALLERS: u64 = 16;
    let dispatch = pool(SLOTS as usize, Some(20));
    let callers = (0..CALLERS).map(|caller| {
        let dispatch = Arc::clone(&dispatch);
        tokio::spawn(async move {
            let mut session = caller;
            let mode = match caller % 4 {
                0 => None,
                1 => Some(SessionMode::Hint),
                2 => Some(SessionMode::StrictQueue),
                _ => Some(SessionMode::StrictFail),
            };
            let mut worker = None;
            let (mut ends, mut served) = (0, 0);
            for turn in 0..400 {
                let wants = mode.map_or(LAST, |mode| of(session, mode));
                let patience = Duration::from_micros((caller * 31 + turn * 17) % 600) * 10;
                match tokio::time::timeout(patience, dispatch.checkout(wants, None)).await {
                    Ok(Ok(lease)) => {
                        served += 1;
                        let id = lease.seat().worker.id();
                        let strict = !matches!(mode, None | Some(SessionMode::Hint));
                        assert!(
                            !strict || *worker.get_or_insert(id) == id,
                            "it is bound to one worker"
                        );
                        tokio::task::yield_now().await;
                    }
                    Ok(Err(Refusal::SessionLost(lost))) => {
                        assert_eq!(lost.session, SessionId(session));
                        dispatch.forget_session(SessionId(session));
                        (session, worker) = (session + CALLERS, None);
                    }
                    Ok(Err(Refusal::Full { .. } | Refusal::SessionBusy { .. })) => {}
                    Ok(Err(other)) => panic!("{other:?}"),
                    Err(_) => {}
                }
                ends += 1;
            }
            assert_eq!(ends, 400);
            dispatch.forget_session(SessionId(session));
            served
        })
    });
    let callers: Vec<_> = callers.collect();
    let mut workers: Vec<_> = (0..SLOTS).map(|slot| ready(&dispatch, SlotId(slot))).collect();
    for turn in 0..300_u32 {
        let at = (turn % SLOTS) as usize;
        if turn % 2 == 0 {
            down(&dispatch, &workers[at]);
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        // Or it is replaced.
        workers[at] = ready(&dispatch, workers[at].slot());
    }
    let mut served = 0;
    for caller in callers {
        let caller = tokio::time::timeout(Duration::from_secs(60), caller).await;
        served += caller.expect("a caller was forgotten").unwrap();
    }
    assert!(served > 0);
    dispatch.drain();
    tokio::time::timeout(Duration::from_secs(60), dispatch.quiet())
        .await
        .expect("nobody is there any more");
    assert_nothing_is_left(&dispatch, []);
    let state = dispatch.lock();
    assert!(state.retired.is_empty());
}
