//! From wherever Python calls: many at once, from hooks, over other channels, and back into the pool.

use std::sync::{
    Arc, Mutex, OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use snakepit::{CallError, HostCall, Pool, Value, core::worker::ChannelSpec};
use tokio::sync::Barrier;

use crate::{
    common::{PATIENCE, builder, worker_pid},
    support::{Counts, SHORT, pool, with_functions},
};

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_run_at_once_and_more_wait_in_their_worker() {
    let (all, running, peak) = (
        Arc::new(Barrier::new(64)),
        Counts::default(),
        Arc::new(AtomicUsize::new(0)),
    );
    let (counts, highest) = (running.clone(), Arc::clone(&peak));
    let pool = builder()
        .adapter("asks_host")
        .host_function("meet", move |(i,): (u64,)| {
            let (all, counted) = (Arc::clone(&all), counts.begin());
            highest.fetch_max(counts.begun() - counts.over(), Ordering::SeqCst);
            async move {
                let _counted = counted;
                // Passes only when 64 are here.
                all.wait().await;
                Ok::<_, String>(i)
            }
        })
        .start()
        .await
        .unwrap();
    let expected: Vec<u64> = (0..128).collect();
    for form in ["asks_host:ask_from_threads", "asks_host:ask_all_async"] {
        let answers: Vec<u64> = pool.call(form, ("meet", 128)).await.unwrap();
        assert_eq!(answers, expected, "{form}");
    }
    assert_eq!(peak.load(Ordering::SeqCst), 64);
    pool.shutdown().await;
}

/// A pool whose host function `again` calls the pool.
async fn reentrant(workers: usize) -> Pool {
    let cell: Arc<OnceLock<Pool>> = Arc::default();
    let inner = Arc::clone(&cell);
    let pool = builder()
        .workers(workers)
        .adapter("asks_host")
        .host_call_function("again", move |call: HostCall| {
            let pool = inner.get().cloned();
            async move {
                let pool = pool.ok_or("the pool has not started")?;
                Ok::<u32, Box<dyn std::error::Error + Send + Sync>>(
                    pool.call("asks_host:pid", call.args::<()>()?).await?,
                )
            }
        })
        .start()
        .await
        .unwrap();
    cell.set(pool.clone()).unwrap();
    pool
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_may_call_its_pool_while_another_worker_is_free() {
    let pool = reentrant(2).await;
    let outer = pool
        .status()
        .await
        .workers
        .iter()
        .filter_map(|worker| worker.child.status.pid)
        .collect::<Vec<_>>();
    for _ in 0..20 {
        let inner: u32 = pool.call("asks_host:ask", ("again",)).await.unwrap();
        assert!(outer.contains(&inner));
    }
    pool.shutdown().await;

    // With none free, the deadline ends what would wait for ever.
    let pool = reentrant(1).await;
    let request = pool
        .request("asks_host:ask")
        .args(&("again",))
        .unwrap()
        .deadline(SHORT);
    let error = request.send::<Value>().await.unwrap_err();
    assert!(matches!(error, CallError::DeadlineExceeded(_)), "{error}");
    pool.call::<_, u32>("asks_host:pid", ()).await.unwrap();
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_may_call_too() {
    let said: Arc<Mutex<Vec<String>>> = Arc::default();
    let (at_start, at_stop) = (Arc::clone(&said), Arc::clone(&said));
    let pool = builder()
        .adapter("asks_host")
        .host_call_function("at_start", move |call: HostCall| {
            let said = Arc::clone(&at_start);
            async move {
                assert_eq!(call.call_id(), None);
                let (text,): (String,) = call.args()?;
                said.lock().unwrap().push(text);
                Ok::<_, snakepit::ArgumentsError>("welcome")
            }
        })
        .host_function("at_stop", move |(text,): (String,)| {
            at_stop.lock().unwrap().push(text);
            async { Ok::<_, String>(()) }
        })
        .start()
        .await
        .unwrap();
    assert_eq!(
        pool.call::<_, String>("asks_host:started", ()).await.unwrap(),
        "welcome"
    );
    pool.shutdown().await;
    assert_eq!(*said.lock().unwrap(), ["start hook", "stop hook"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forked_child_has_no_host() {
    let (pool, _) = pool().await;
    assert_eq!(
        pool.call::<_, i32>("asks_host:in_forked_child", ("nothing",))
            .await
            .unwrap(),
        42
    );
    assert_eq!(
        pool.call::<_, i64>("asks_host:ask", ("add", 1, 1)).await.unwrap(),
        2
    );
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_the_same_on_a_unix_path() {
    let directory = tempfile::tempdir().unwrap();
    let hangs = Counts::default();
    let on_path = builder().channel(ChannelSpec::UnixIn(directory.path().to_owned()));
    let pool = with_functions(on_path.cancel_grace(PATIENCE), &hangs)
        .start()
        .await
        .unwrap();
    let pid = worker_pid(&pool).await;
    for form in [
        "asks_host:ask",
        "asks_host:ask_async",
        "asks_host:ask_from_thread",
    ] {
        assert_eq!(pool.call::<_, i64>(form, ("add", 1, 1)).await.unwrap(), 2);
    }
    let request = pool
        .request("asks_host:ask")
        .args(&("hang",))
        .unwrap()
        .deadline(SHORT);
    request.send::<Value>().await.unwrap_err();
    hangs.until_over(1).await;
    assert_eq!(pool.call::<_, u32>("asks_host:pid", ()).await.unwrap(), pid);
    pool.shutdown().await;
}
