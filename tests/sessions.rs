//! Sessions on real workers: state that stays, calls that wait for their worker, and what is told when it is gone.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{path::Path, sync::Arc, time::Duration};

use common::{PATIENCE, builder, until, worker_pid};
use snakepit::{
    CallError, CallErrorKind, Concurrency, LostBy, Pool, PoolBuilder, ReplaceCause, Session, SessionLost,
    SessionMode, Value,
    core::{process::Pidfd, worker::DownReason},
};
use tokio::{task::JoinHandle, time::timeout};

/// Process, and how many calls its session has made there.
type Count = (u32, u64);

async fn pool_of(workers: usize) -> Pool {
    builder().workers(workers).start().await.unwrap()
}

async fn count(session: &Session) -> Result<Count, CallError> {
    session.call("sessions:count", ()).await
}

/// Has the end of the session written down.
async fn journal(session: &Session, path: &Path) -> u32 {
    session.call("sessions:keep", ("journal", path)).await.unwrap()
}

fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn spawn<T: serde::de::DeserializeOwned + Send + 'static>(
    session: &Arc<Session>,
    function: &'static str,
    args: impl serde::Serialize + Send + 'static,
) -> JoinHandle<Result<T, CallError>> {
    let session = Arc::clone(session);
    let call = async move { session.request(function).args(&args)?.send().await };
    tokio::spawn(call)
}

async fn outcome<T>(call: JoinHandle<Result<T, CallError>>) -> Result<T, CallError> {
    timeout(PATIENCE, call).await.expect("the call ends").unwrap()
}

/// Keeps the session's worker busy until the file is there; it has begun when this returns.
async fn hold(session: &Arc<Session>, until_there: &Path) -> JoinHandle<Result<Count, CallError>> {
    let call = spawn(session, "sessions:hold", (until_there.to_owned(),));
    let begun = until_there.with_extension("begun");
    until("it has begun", async || begun.exists()).await;
    call
}

async fn until_queued(pool: &Pool, callers: usize) {
    until("they wait", async || pool.status().await.queued == callers).await;
}

fn kill(pid: u32) {
    Pidfd::open(pid).unwrap().signal(libc::SIGKILL).unwrap();
}

fn lost(error: CallError) -> Arc<SessionLost> {
    assert_eq!(error.kind(), CallErrorKind::SessionLost, "{error}");
    assert!(!error.may_have_executed() && !error.is_retryable());
    match error {
        CallError::SessionLost(lost) => lost,
        other => panic!("{other}"),
    }
}

async fn no_sessions(pool: &Pool) {
    until("nothing is left of sessions", async || {
        let status = pool.status().await;
        status.sessions == 0
            && status.queued == 0
            && status.busy == 0
            && status.workers.iter().all(|worker| worker.sessions == 0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn state_stays_over_the_calls_of_a_session_and_two_sessions_are_apart() {
    for mode in [
        SessionMode::StrictQueue,
        SessionMode::StrictFail,
        SessionMode::Hint,
    ] {
        let pool = pool_of(3).await;
        let [first, second] = [pool.session(mode), pool.session(mode)];
        let (home, _) = count(&first).await.unwrap();
        for number in 2..10 {
            assert_eq!(count(&first).await.unwrap(), (home, number));
            assert_eq!(count(&second).await.unwrap().1, number - 1);
            // Calls without a session go wherever they like.
            assert_eq!(
                pool.call::<_, Option<u64>>("sessions:current", ()).await.unwrap(),
                None
            );
        }
        let id: Option<u64> = first.call("sessions:current", ()).await.unwrap();
        assert_eq!(id, Some(first.id().0));
        let status = pool.status().await;
        assert_eq!(status.sessions, 2);
        assert_eq!(
            status.workers.iter().map(|worker| worker.sessions).sum::<usize>(),
            2
        );
        drop((first, second));
        no_sessions(&pool).await;
        pool.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_belongs_to_its_session_which_ends_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let written = dir.path().join("journal");
    let pool = pool_of(2).await;
    let session = pool.session(SessionMode::StrictQueue);
    journal(&session, &written).await;
    let request = session.request("sessions:numbers").args(&(100,)).unwrap();
    let mut items = request.credit(1).stream::<u32>().await.unwrap();
    assert_eq!(items.next().await.unwrap().unwrap(), 0);
    let end = tokio::spawn(session.end());
    assert_eq!(items.next().await.unwrap().unwrap(), 1);
    assert!(!end.is_finished() && lines(&written).is_empty());
    drop(items);
    timeout(PATIENCE, end).await.unwrap().unwrap().unwrap();
    assert_eq!(lines(&written).len(), 1);
    no_sessions(&pool).await;
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_returns_when_the_hooks_have_run_on_every_worker_that_the_session_has_been_on() {
    let dir = tempfile::tempdir().unwrap();
    let (written, gate) = (dir.path().join("journal"), dir.path().join("gate"));
    let pool = pool_of(2).await;
    let session = Arc::new(pool.session(SessionMode::Hint));
    let home = journal(&session, &written).await;
    let held = hold(&session, &gate).await;
    // Its worker is busy.
    assert_ne!(journal(&session, &written).await, home);
    assert_eq!(pool.status().await.sessions, 1);
    assert!(
        pool.status()
            .await
            .workers
            .iter()
            .all(|worker| worker.sessions == 1)
    );
    std::fs::write(&gate, "").unwrap();
    assert_eq!(outcome(held).await.unwrap(), (home, 1));
    assert_eq!(count(&session).await.unwrap(), (home, 2), "it comes back");
    let id = session.id().0;
    Arc::into_inner(session).unwrap().end().await.unwrap();
    let mut ends = lines(&written);
    ends.sort();
    assert_eq!(ends, [format!("{id} ended at 0"), format!("{id} ended at 2")]);
    no_sessions(&pool).await;
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn threads_and_event_loops_run_the_calls_of_a_session_side_by_side_and_its_end_after_them() {
    for (concurrency, function) in [
        (Concurrency::Threads(2), "sessions:count"),
        (Concurrency::Asyncio(2), "sessions:async_count"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let written = dir.path().join("journal");
        let pool = builder()
            .workers(2)
            .concurrency(concurrency)
            .start()
            .await
            .unwrap();
        let session = Arc::new(pool.session(SessionMode::StrictFail));
        let home = journal(&session, &written).await;
        let meeting = [(); 2].map(|()| spawn::<Count>(&session, "sessions:meet", ()));
        for call in meeting {
            assert_eq!(outcome(call).await.unwrap().0, home);
        }
        let (pid, number): Count = session.call(function, ()).await.unwrap();
        assert_eq!((pid, number), (home, 3));
        let id = session.id().0;
        Arc::into_inner(session).unwrap().end().await.unwrap();
        assert_eq!(lines(&written), [format!("{id} ended at 3")]);
        pool.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_dropped_ends_in_the_background_and_a_shutdown_waits_for_that() {
    let dir = tempfile::tempdir().unwrap();
    let written = dir.path().join("journal");
    let pool = pool_of(1).await;
    let dropped = pool.session(SessionMode::StrictQueue);
    journal(&dropped, &written).await;
    drop(dropped);
    until("its hook has run", async || lines(&written).len() == 1).await;
    let dropped = pool.session(SessionMode::Hint);
    journal(&dropped, &written).await;
    drop(dropped);
    pool.shutdown().await;
    assert_eq!(lines(&written).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_and_a_restart_run_the_end_hooks_of_sessions_that_are_open() {
    let dir = tempfile::tempdir().unwrap();
    let written = dir.path().join("journal");
    let pool = pool_of(1).await;
    let session = pool.session(SessionMode::StrictQueue);
    let pid = journal(&session, &written).await;
    let hint = pool.session(SessionMode::Hint);
    journal(&hint, &written).await;
    pool.restart().await.unwrap();
    until("the worker that was replaced is gone", async || {
        common::is_gone(pid)
    })
    .await;
    assert_eq!(lines(&written).len(), 2);
    let told = lost(count(&session).await.unwrap_err());
    assert!(
        matches!(told.by, LostBy::Replaced(ReplaceCause::Restart)),
        "{told}"
    );
    assert_eq!(told.session, session.id());
    assert_eq!(session.worker(), None);
    // A hint goes on, with nothing of what it had.
    assert_eq!(count(&hint).await.unwrap().1, 1);
    assert!(
        lost(session.end().await.unwrap_err())
            .to_string()
            .contains("the pool is restarted")
    );
    let open = pool.session(SessionMode::StrictQueue);
    journal(&open, &written).await;
    pool.shutdown().await;
    assert_eq!(
        lines(&written).len(),
        3,
        "the worker ended the session that was open"
    );
    assert_eq!(count(&open).await.unwrap_err().kind(), CallErrorKind::NotServing);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recycled_worker_ends_its_sessions_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let written = dir.path().join("journal");
    let pool = builder().max_calls(3).recycle_jitter(0.0).start().await.unwrap();
    let session = pool.session(SessionMode::StrictQueue);
    journal(&session, &written).await;
    for number in [1, 2] {
        assert_eq!(count(&session).await.unwrap().1, number);
    }
    until("its hook has run", async || lines(&written).len() == 1).await;
    let told = lost(count(&session).await.unwrap_err());
    assert!(
        matches!(told.by, LostBy::Replaced(ReplaceCause::Calls(_))),
        "{told}"
    );
    assert_eq!(lines(&written), [format!("{} ended at 2", session.id().0)]);
    let anew = pool.session(SessionMode::StrictQueue);
    assert_eq!(count(&anew).await.unwrap().1, 1);
    drop((session, anew));
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_queue_waits_for_its_worker_while_others_are_idle() {
    let dir = tempfile::tempdir().unwrap();
    let gate = dir.path().join("gate");
    let pool = pool_of(2).await;
    let session = Arc::new(pool.session(SessionMode::StrictQueue));
    let held = hold(&session, &gate).await;
    let waits = spawn::<Count>(&session, "sessions:count", ());
    until_queued(&pool, 1).await;
    // The other worker is idle and serves.
    pool.call::<_, Value>("os:getpid", ()).await.unwrap();
    assert!(!waits.is_finished());
    let bounded = session
        .request("sessions:count")
        .queue_timeout(Duration::from_millis(50));
    let error = bounded.send::<Count>().await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::QueueTimeout);
    assert!(!error.may_have_executed());
    let abandoned = spawn::<Count>(&session, "sessions:count", ());
    until_queued(&pool, 2).await;
    abandoned.abort();
    until_queued(&pool, 1).await;
    std::fs::write(&gate, "").unwrap();
    let (home, first) = outcome(held).await.unwrap();
    assert_eq!(first, 1);
    assert_eq!(
        outcome(waits).await.unwrap(),
        (home, 2),
        "who left was not executed"
    );
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_fail_is_refused_with_the_numbers_while_its_worker_is_busy() {
    let dir = tempfile::tempdir().unwrap();
    let gate = dir.path().join("gate");
    let pool = pool_of(2).await;
    let session = Arc::new(pool.session(SessionMode::StrictFail));
    let held = hold(&session, &gate).await;
    let error = count(&session).await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::SessionBusy);
    assert!(error.is_retryable() && !error.may_have_executed());
    let (id, worker) = (session.id(), session.worker().unwrap());
    assert_eq!(
        error.to_string(),
        format!("{id} is not served now: {worker}, which it is bound to, runs 1 of 1 calls")
    );
    std::fs::write(&gate, "").unwrap();
    let (home, _) = outcome(held).await.unwrap();
    assert_eq!(count(&session).await.unwrap(), (home, 2));
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_is_told_to_every_call_of_its_sessions_and_to_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let [gate, never] = ["gate", "never"].map(|name| dir.path().join(name));
    let pool = pool_of(2).await;
    let other = pool.session(SessionMode::StrictQueue);
    let session = Arc::new(pool.session(SessionMode::StrictQueue));
    let held = hold(&session, &gate).await;
    // Bound while the first one's worker is busy, so to the other.
    let (away, _) = count(&other).await.unwrap();
    std::fs::write(&gate, "").unwrap();
    let (home, _) = outcome(held).await.unwrap();
    assert_ne!(home, away);
    let running = hold(&session, &never).await;
    let waiting = [(); 3].map(|()| spawn::<Count>(&session, "sessions:count", ()));
    until_queued(&pool, 3).await;
    kill(home);
    let error = outcome(running).await.unwrap_err();
    let CallError::WorkerLost(down) = &error else {
        panic!("{error}");
    };
    assert_eq!((down.pid, &down.down.reason), (Some(home), &DownReason::Exited));
    for call in waiting {
        let told = lost(outcome(call).await.unwrap_err());
        let LostBy::Down(down) = &told.by else {
            panic!("{told}")
        };
        assert_eq!(down.reason, DownReason::Exited);
        assert!(told.to_string().contains("killed by SIGKILL"), "{told}");
    }
    lost(count(&session).await.unwrap_err());
    assert_eq!(count(&other).await.unwrap(), (away, 2));
    // Not even a retry that is allowed leads to another worker.
    let request = session.request("sessions:count").idempotent();
    lost(request.send::<Count>().await.unwrap_err());
    lost(Arc::into_inner(session).unwrap().end().await.unwrap_err());
    other.end().await.unwrap();
    no_sessions(&pool).await;
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_that_fail_hang_or_die_end_the_session_all_the_same() {
    let pool = builder().run_timeout(PATIENCE).start().await.unwrap();
    let ends = async |pool: &Pool, key: &str| {
        let session = pool.session(SessionMode::StrictQueue);
        let keep = session.request("sessions:keep").args(&(key, true)).unwrap();
        let pid: u32 = keep.run_timeout(None).send().await.unwrap();
        (pid, session.end().await)
    };
    let (pid, ended) = ends(&pool, "fails").await;
    ended.unwrap();
    let (same, ended) = ends(&pool, "dies").await;
    assert_eq!(same, pid);
    let CallError::WorkerLost(lost) = ended.unwrap_err() else {
        panic!("the hook ended its worker");
    };
    assert!(lost.to_string().contains("the end of session"), "{lost}");
    assert_ne!(worker_pid_later(&pool, pid).await, pid);
    no_sessions(&pool).await;
    pool.shutdown().await;

    let impatient = builder()
        .run_timeout(Duration::from_millis(300))
        .cancel_grace(PATIENCE)
        .start()
        .await
        .unwrap();
    let (pid, ended) = ends(&impatient, "hangs").await;
    assert_eq!(ended.unwrap_err().kind(), CallErrorKind::RunTimeout);
    no_sessions(&impatient).await;
    assert_eq!(
        worker_pid(&impatient).await,
        pid,
        "the hook stopped when it was told to"
    );
    impatient.shutdown().await;
}

async fn worker_pid_later(pool: &Pool, before: u32) -> u32 {
    until("another worker serves", async || {
        let status = pool.status().await;
        status.ready == 1 && status.workers[0].child.status.pid != Some(before)
    })
    .await;
    worker_pid(pool).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_of_an_elastic_pool_goes_with_its_session_only_when_it_must() {
    let pool = elastic().start().await.unwrap();
    let session = pool.session(SessionMode::StrictQueue);
    count(&session).await.unwrap();
    until("it has shrunk", async || pool.status().await.workers.is_empty()).await;
    let told = lost(count(&session).await.unwrap_err());
    assert!(matches!(told.by, LostBy::ScaledIn), "{told}");
    pool.shutdown().await;
}

fn elastic() -> PoolBuilder {
    builder()
        .workers(2)
        .min_workers(0)
        .idle_timeout(Duration::from_millis(200))
}

#[tokio::test(flavor = "multi_thread")]
async fn many_sessions_on_few_workers_that_are_killed_get_their_own_answers_or_are_told() {
    const SESSIONS: u64 = 24;
    const CALLS: u64 = 40;
    let pool = pool_of(3).await;
    let killer = tokio::spawn(kills(pool.clone(), 6));
    let callers: Vec<_> = (0..SESSIONS)
        .map(|number| tokio::spawn(calls(pool.clone(), number, CALLS)))
        .collect();
    let mut answered = 0;
    for caller in callers {
        answered += timeout(4 * PATIENCE, caller)
            .await
            .expect("every call ends")
            .unwrap();
    }
    timeout(PATIENCE, killer)
        .await
        .expect("the workers come back")
        .unwrap();
    assert!(answered > 0);
    no_sessions(&pool).await;
    pool.shutdown().await;
}

/// Kills one worker after the other.
async fn kills(pool: Pool, count: usize) {
    for number in 0..count {
        while pool.status().await.ready < 3 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        if let Some(pid) = pool.status().await.workers[number % 3].child.status.pid
            && let Ok(pidfd) = Pidfd::open(pid)
        {
            // It may have ended since.
            let _ = pidfd.signal(libc::SIGKILL);
        }
    }
}

/// Makes calls in a session, in a new one when that is lost; how many were answered.
async fn calls(pool: Pool, number: u64, count: u64) -> u64 {
    let mode = match number % 3 {
        0 => SessionMode::Hint,
        1 => SessionMode::StrictFail,
        _ => SessionMode::StrictQueue,
    };
    let mut session = pool.session(mode);
    // Of a strict session: where it is, and its calls there.
    let mut expected: Option<Count> = None;
    let mut answered = 0;
    for _ in 0..count {
        match session.call::<_, Count>("sessions:count", ()).await {
            Ok(found) => {
                answered += 1;
                if mode != SessionMode::Hint {
                    let (pid, calls) = expected.unwrap_or((found.0, 0));
                    assert_eq!(found, (pid, calls + 1), "it is the right worker's answer");
                    expected = Some(found);
                }
            }
            Err(CallError::SessionBusy { .. }) if mode == SessionMode::StrictFail => {
                tokio::task::yield_now().await;
            }
            Err(CallError::WorkerLost(_)) => {}
            Err(CallError::SessionLost(lost)) if mode != SessionMode::Hint => {
                assert_eq!(lost.session, session.id());
                let before = std::mem::replace(&mut session, pool.session(mode));
                expected = None;
                before.end().await.unwrap_err();
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    answered
}
