//! How sessions end, and what their workers are told, on fake workers.

mod common;

use std::{sync::Arc, time::Duration};

use common::{FOREVER, builder, gated, nil, until, until_queued};
use snakepit_core::{
    id::SlotId,
    pool::{CallError, CallErrorKind, LostBy, Session, SessionMode},
    testing::{FakeBehaviour, FakeWorkerFactory},
};
use snakepit_proto::v1::CallRequest;
use tokio::time::{Instant, timeout};

/// What the worker of a slot was asked for.
fn requests(factory: &FakeWorkerFactory, slot: u32) -> Vec<CallRequest> {
    let worker = factory.worker(SlotId(slot)).expect("it serves");
    worker.fake_client().requests()
}

fn begin(session: &Arc<Session>) -> tokio::task::JoinHandle<Result<(), CallError>> {
    let session = Arc::clone(session);
    tokio::spawn(async move { session.call("f", ()).await })
}

#[tokio::test(start_paused = true)]
async fn a_workers_calls_carry_their_session_and_its_end_is_the_last_one() {
    let factory = FakeWorkerFactory::new();
    let pool = builder(&factory).start().await.unwrap();
    let session = pool.session(SessionMode::StrictQueue);
    let id = session.id().0;
    session.call::<_, [(); 0]>("f", ()).await.unwrap();
    pool.call::<_, [(); 0]>("g", ()).await.unwrap();
    session.end().await.unwrap();
    let asked: Vec<_> = requests(&factory, 0)
        .into_iter()
        .map(|request| (request.function, request.session, request.end_session))
        .collect();
    let expected = [("f", Some(id), false), ("g", None, false), ("", Some(id), true)];
    assert_eq!(
        asked,
        expected.map(|(name, session, end)| (name.to_owned(), session, end))
    );
    assert_eq!(pool.status().await.sessions, 0);
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_without_a_call_has_nothing_to_end() {
    let factory = FakeWorkerFactory::new();
    let pool = builder(&factory).start().await.unwrap();
    pool.session(SessionMode::Hint).end().await.unwrap();
    drop(pool.session(SessionMode::StrictFail));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(requests(&factory, 0).is_empty());
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn an_end_waits_for_calls_that_were_cancelled_and_goes_on_without_its_caller() {
    // It takes a second to notice that it is cancelled.
    let slow = FakeBehaviour::handler(|request| async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(nil(request.call_id))
    });
    let factory = FakeWorkerFactory::new().with_behaviour(slow);
    let pool = builder(&factory).start().await.unwrap();
    let session = Arc::new(pool.session(SessionMode::StrictQueue));
    let call = begin(&session);
    until(async || requests(&factory, 0).len() == 1).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    let session = Arc::into_inner(session).unwrap();
    let gives_up = timeout(Duration::ZERO, session.end()).await;
    assert!(gives_up.is_err(), "the call is not over");
    until(async || pool.status().await.sessions == 0).await;
    let [call, end] = &requests(&factory, 0)[..] else {
        panic!("the call, then the end");
    };
    assert!(!call.end_session && end.end_session);
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn hooks_that_do_not_end_are_cancelled_after_five_seconds_where_no_run_timeout_is_set() {
    let stuck = FakeBehaviour::handler(|request: CallRequest| async move {
        if request.end_session {
            std::future::pending::<()>().await;
        }
        Ok(nil(request.call_id))
    });
    let factory = FakeWorkerFactory::new().with_behaviour(stuck);
    let pool = builder(&factory).start().await.unwrap();
    let session = pool.session(SessionMode::StrictQueue);
    session.call::<_, ()>("f", ()).await.unwrap();
    let name = session.id().to_string();
    let began = Instant::now();
    let error = session.end().await.unwrap_err();
    assert_eq!(began.elapsed(), Duration::from_secs(5));
    assert_eq!(error.kind(), CallErrorKind::RunTimeout);
    assert!(
        error
            .to_string()
            .contains(&format!("for the end of {name} passed")),
        "{error}"
    );
    until(async || pool.status().await.busy == 0).await;
    assert_eq!(pool.status().await.sessions, 0);
    pool.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn neither_a_full_queue_nor_a_drain_refuses_an_end() {
    let (behaviour, gate, _) = gated();
    let factory = FakeWorkerFactory::new().with_behaviour(behaviour);
    let pool = builder(&factory).queue_limit(Some(0)).start().await.unwrap();
    let [ends, open] = [(); 2].map(|()| Arc::new(pool.session(SessionMode::StrictQueue)));
    gate.add_permits(1);
    ends.call::<_, ()>("f", ()).await.unwrap();
    let running = begin(&open);
    until(async || pool.status().await.busy == 1).await;
    let end = tokio::spawn(Arc::into_inner(ends).unwrap().end());
    until_queued(&pool, 1).await;
    let ending = pool.clone();
    let shutdown = tokio::spawn(async move { ending.shutdown().await });
    tokio::task::yield_now().await;
    gate.add_permits(2);
    running.await.unwrap().unwrap();
    end.await.unwrap().unwrap();
    timeout(FOREVER, shutdown).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_dropped_in_a_pause_does_not_keep_the_pool() {
    let factory = FakeWorkerFactory::new();
    let pool = builder(&factory).start().await.unwrap();
    let session = pool.session(SessionMode::StrictQueue);
    session.call::<_, [(); 0]>("f", ()).await.unwrap();
    let worker = factory.worker(SlotId(0)).unwrap();
    pool.pause();
    drop(session);
    until_queued(&pool, 1).await;
    drop(pool);
    until(async || !worker.is_up()).await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_is_told_with_its_cause_and_a_new_session_begins_anew() {
    let factory = FakeWorkerFactory::new();
    let pool = builder(&factory).start().await.unwrap();
    let session = pool.session(SessionMode::StrictFail);
    session.call::<_, [(); 0]>("f", ()).await.unwrap();
    let (id, worker) = (session.id(), session.worker().unwrap());
    factory.worker(SlotId(0)).unwrap().crash();
    until(async || session.worker().is_none()).await;
    let error = session.call::<_, [(); 0]>("f", ()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{id} is lost: {worker}, which it was bound to, is down: killed by SIGKILL")
    );
    assert!(!error.may_have_executed() && !error.is_retryable());
    let CallError::SessionLost(lost) = error else {
        panic!("{error}");
    };
    assert!(matches!(lost.by, LostBy::Down(_)));
    let anew = pool.session(SessionMode::StrictFail);
    anew.call::<_, [(); 0]>("f", ()).await.unwrap();
    drop((session, anew));
    pool.shutdown().await;
}
