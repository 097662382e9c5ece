//! Python code calls functions of the host.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{
    collections::HashMap,
    fs, io,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use common::{PATIENCE, builder, until, worker_pid};
use libc::SIGKILL;
use serde::{Deserialize, Serialize, Serializer};
use snakepit::{
    CallError, HostCall, NdArray, Pool, PoolBuilder, PoolError, PoolStartError, RemoteErrorKind, Value,
    core::worker::ChannelSpec,
};
use tokio::{
    sync::{Barrier, Semaphore},
    time::timeout,
};

/// A deadline that a test lets pass.
const SHORT: Duration = Duration::from_secs(1);

/// What Python tells of a host call that failed.
#[derive(Deserialize, Debug)]
struct Failure {
    kind: String,
    function: String,
    message: String,
    causes: Vec<String>,
    attribute_error: bool,
}

/// Counts what begins, and what is over: finished or dropped.
#[derive(Clone, Debug, Default)]
struct Counts(Arc<(AtomicUsize, AtomicUsize)>);

impl Counts {
    fn begin(&self) -> Counted {
        self.0.0.fetch_add(1, Ordering::SeqCst);
        Counted(self.clone())
    }

    fn begun(&self) -> usize {
        self.0.0.load(Ordering::SeqCst)
    }

    fn over(&self) -> usize {
        self.0.1.load(Ordering::SeqCst)
    }

    async fn until_begun(&self, count: usize) {
        until("the host function runs", async || self.begun() == count).await;
    }

    async fn until_over(&self, count: usize) {
        until("the host function is over", async || self.over() == count).await;
    }
}

struct Counted(Counts);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.1.fetch_add(1, Ordering::SeqCst);
    }
}

#[derive(Debug, thiserror::Error)]
#[error("cannot load user {id}")]
struct LoadError {
    id: u64,
    #[source]
    source: io::Error,
}

/// Has no representation.
struct Opaque;

impl Serialize for Opaque {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("it is opaque"))
    }
}

/// Functions that most tests use; `hang` never ends by itself.
fn with_functions(builder: PoolBuilder, hangs: &Counts) -> PoolBuilder {
    let hangs = hangs.clone();
    builder
        .adapter("asks_host")
        .host_function("echo", |(value,): (Value,)| async move { Ok::<_, String>(value) })
        .host_function("nothing", |(): ()| async { Ok::<_, String>(()) })
        .host_function("add", |(a, b): (i64, i64)| async move {
            a.checked_add(b).ok_or("the sum is out of range")
        })
        .host_function("load_user", |(id,): (u64,)| async move {
            let source = io::Error::other("connection refused");
            Err::<(), _>(LoadError { id, source })
        })
        .host_function("panics", |(now,): (bool,)| {
            assert!(!now, "at once");
            async move {
                tokio::task::yield_now().await;
                panic!("later") as Result<(), String>
            }
        })
        .host_function("opaque", |(): ()| async { Ok::<_, String>(Opaque) })
        .host_function("zeros", |(size,): (usize,)| async move {
            Ok::<_, String>(Value::Bytes(Bytes::from(vec![0; size])))
        })
        .host_function("hang", move |(): ()| {
            let counted = hangs.begin();
            async move {
                let _counted = counted;
                std::future::pending::<Result<(), String>>().await
            }
        })
        .host_call_function("page", |call: HostCall| async move {
            #[derive(Deserialize)]
            struct Page {
                #[serde(default)]
                from: u64,
                limit: Option<u64>,
            }
            let (name,): (String,) = call.args()?;
            let Page { from, limit } = call.kwargs()?;
            Ok::<_, snakepit::ArgumentsError>((name, from, limit))
        })
        .host_call_function("who", |call: HostCall| async move {
            let left = call.deadline().map(|deadline| {
                deadline
                    .saturating_duration_since(tokio::time::Instant::now())
                    .as_secs_f64()
            });
            Ok::<_, String>((call.function().to_owned(), call.worker().0, call.call_id(), left))
        })
}

async fn pool() -> (Pool, Counts) {
    let hangs = Counts::default();
    (with_functions(builder(), &hangs).start().await.unwrap(), hangs)
}

async fn failure(pool: &Pool, function: &str, args: impl Serialize) -> Failure {
    pool.call(function, args).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_every_kind_cross_both_ways() {
    let (pool, _) = pool().await;
    let values = [
        Value::Nil,
        Value::Bool(true),
        Value::Int(i64::MIN),
        Value::UInt(u64::MAX),
        Value::Float(-0.5),
        Value::Str("grün".into()),
        Value::Bytes(Bytes::from_static(b"\x00\xff")),
        Value::Array(vec![Value::Array(vec![Value::Nil]), Value::Map(vec![])]),
        Value::Map(vec![(Value::Str("a".into()), Value::Array(vec![Value::Int(1)]))]),
        Value::Set(vec![Value::Int(1)]),
        Value::Decimal("1.10".into()),
        Value::Uuid([7; 16]),
    ];
    for form in [
        "asks_host:ask",
        "asks_host:ask_async",
        "asks_host:ask_from_thread",
    ] {
        for value in &values {
            let echoed: Value = pool.call(form, ("echo", value)).await.unwrap();
            assert_eq!(&echoed, value, "{form}");
        }
    }
    assert_eq!(
        pool.call::<_, i64>("asks_host:ask", ("add", 2, 40))
            .await
            .unwrap(),
        42
    );
    assert_eq!(
        pool.call::<_, String>("asks_host:type_of", ("nothing",))
            .await
            .unwrap(),
        "NoneType"
    );
    let array = NdArray::from_slice(&[2, 2], &[1.0, 2.0, 3.0, 4.0]).unwrap();
    match pool.call::<_, NdArray>("asks_host:ask", ("echo", &array)).await {
        Ok(echoed) => assert_eq!(echoed, array),
        Err(error) => {
            let text = error.remote().unwrap().message.to_lowercase();
            assert!(text.contains("numpy"), "{text}");
        }
    }
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keyword_arguments_reach_a_function_that_takes_the_call() {
    let (pool, _) = pool().await;
    let page = |kwargs: HashMap<&'static str, Value>| {
        let request = pool.request("asks_host:ask").args(&("page", "users")).unwrap();
        request
            .kwargs(&kwargs)
            .unwrap()
            .send::<(String, u64, Option<u64>)>()
    };
    let answer = page(HashMap::from([
        ("from", Value::Int(20)),
        ("limit", Value::Int(10)),
    ]))
    .await;
    assert_eq!(answer.unwrap(), ("users".to_owned(), 20, Some(10)));
    assert_eq!(page(HashMap::new()).await.unwrap(), ("users".to_owned(), 0, None));
    let request = pool
        .request("asks_host:failure")
        .args(&("page", "users"))
        .unwrap();
    let failure: Failure = request
        .kwargs(&HashMap::from([("limit", "many")]))
        .unwrap()
        .send()
        .await
        .unwrap();
    assert_eq!(failure.kind, "bad_arguments");
    assert!(failure.message.contains("keyword arguments"), "{failure:?}");
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_learns_who_calls_and_until_when() {
    let (pool, _) = pool().await;
    let request = pool.request("asks_host:ask").args(&("who",)).unwrap();
    let (name, worker, call_id, left): (String, u64, Option<u64>, Option<f64>) =
        request.deadline(Duration::from_secs(1000)).send().await.unwrap();
    assert_eq!(name, "who");
    assert_eq!(
        Some(worker),
        pool.status().await.workers[0]
            .child
            .status
            .worker
            .map(|worker| worker.0)
    );
    assert!(call_id.is_some());
    assert!(
        left.is_some_and(|left| (900.0..=1000.0).contains(&left)),
        "{left:?}"
    );
    let (.., call_id, left): (String, u64, Option<u64>, Option<f64>) =
        pool.call("asks_host:ask_from_thread", ("who",)).await.unwrap();
    assert_eq!((call_id, left), (None, None));
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_comes_with_its_sources_and_goes_back_as_the_exception_it_is() {
    let (pool, _) = pool().await;
    for form in ["asks_host:failure", "asks_host:failure_async"] {
        let told = failure(&pool, form, ("load_user", 7)).await;
        assert_eq!(
            (told.kind.as_str(), told.function.as_str()),
            ("failed", "load_user")
        );
        assert_eq!(told.message, "cannot load user 7");
        assert_eq!(told.causes, ["connection refused"]);
    }
    let error = pool
        .call::<_, Value>("asks_host:ask", ("load_user", 7))
        .await
        .unwrap_err();
    let remote = error.remote().unwrap();
    assert_eq!(remote.kind, RemoteErrorKind::Raised);
    let chain: Vec<_> = remote
        .exceptions
        .iter()
        .map(|e| (&*e.type_name, &*e.message, e.is_cause))
        .collect();
    assert_eq!(
        chain,
        [
            ("snakepit.HostError", "load_user: cannot load user 7", false),
            ("snakepit.HostError", "connection refused", true),
        ]
    );
    let told = failure(&pool, "asks_host:failure", ("add", i64::MAX, 1)).await;
    assert_eq!(told.message, "the sum is out of range");
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_its_callers_error_and_nothing_else_happens() {
    let (pool, _) = pool().await;
    let pid = worker_pid(&pool).await;
    for (now, text) in [(true, "at once"), (false, "later")] {
        let told = failure(&pool, "asks_host:failure", ("panics", now)).await;
        assert_eq!(told.kind, "failed");
        assert!(
            told.message.contains("panicked") && told.message.contains(text),
            "{told:?}"
        );
    }
    assert_eq!(
        pool.call::<_, i64>("asks_host:ask", ("add", 1, 1)).await.unwrap(),
        2
    );
    assert_eq!(worker_pid(&pool).await, pid);
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_name_is_an_attribute_error_that_offers_near_ones() {
    let (pool, _) = pool().await;
    let told = failure(&pool, "asks_host:failure", ("ecko", 1)).await;
    assert_eq!(
        (told.kind.as_str(), told.function.as_str()),
        ("unknown_function", "ecko")
    );
    assert!(told.attribute_error);
    assert!(told.message.contains("did you mean echo?"), "{told:?}");
    let (names, has, has_not): (Vec<String>, bool, bool) = pool.call("asks_host:names", ()).await.unwrap();
    assert_eq!(
        names,
        [
            "add",
            "echo",
            "hang",
            "load_user",
            "nothing",
            "opaque",
            "page",
            "panics",
            "who",
            "zeros"
        ]
    );
    assert!(has && !has_not);
    pool.shutdown().await;

    let without = builder().adapter("asks_host").start().await.unwrap();
    let told = failure(&without, "asks_host:failure", ("echo", 1)).await;
    assert_eq!(told.kind, "unknown_function");
    assert!(told.message.contains("no functions"), "{told:?}");
    without.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_and_results_that_do_not_fit_are_named() {
    let (pool, _) = pool().await;
    for (args, text) in [
        (vec![Value::Int(1)], "(i64, i64)"),
        (vec![Value::Int(1), Value::Str("x".into())], "(i64, i64)"),
        (vec![Value::Int(1); 3], "(i64, i64)"),
    ] {
        let args = [vec![Value::Str("add".into())], args].concat();
        let told = failure(&pool, "asks_host:failure", args).await;
        assert_eq!(told.kind, "bad_arguments");
        assert!(told.message.contains(text), "{told:?}");
    }
    let request = pool.request("asks_host:failure").args(&("echo", 1)).unwrap();
    let told: Failure = request
        .kwargs(&HashMap::from([("loud", true)]))
        .unwrap()
        .send()
        .await
        .unwrap();
    assert_eq!(told.kind, "bad_arguments");
    assert!(told.message.contains("loud"), "{told:?}");
    let error = pool
        .call::<_, Value>("asks_host:unrepresentable", ("echo",))
        .await
        .unwrap_err();
    let text = &error.remote().unwrap().message;
    assert!(
        text.contains(r#"args[0]["inner"][1]"#) && text.contains("object"),
        "{text}"
    );
    let told = failure(&pool, "asks_host:failure", ("opaque",)).await;
    assert_eq!(told.kind, "bad_result");
    assert!(told.message.contains("it is opaque"), "{told:?}");
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_values_cross_and_too_large_ones_are_refused() {
    let (pool, _) = pool().await;
    for form in ["asks_host:ask", "asks_host:ask_async"] {
        let value = Value::Bytes(Bytes::from(vec![7; 1 << 20]));
        assert_eq!(
            pool.call::<_, Value>(form, ("echo", &value)).await.unwrap(),
            value
        );
    }
    let size = 60 << 20;
    assert_eq!(
        pool.call::<_, usize>("asks_host:large", ("echo", size))
            .await
            .unwrap(),
        size
    );
    let size = 65 << 20;
    let error = pool
        .call::<_, Value>("asks_host:large", ("echo", size))
        .await
        .unwrap_err();
    assert!(
        error.remote().unwrap().message.contains("can carry 67108864"),
        "{error}"
    );
    let told = failure(&pool, "asks_host:failure", ("zeros", size)).await;
    assert_eq!(told.kind, "bad_result");
    assert!(told.message.contains("can carry 67108864"), "{told:?}");
    assert_eq!(
        pool.call::<_, i64>("asks_host:ask", ("add", 1, 1)).await.unwrap(),
        2
    );
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_of_the_surrounding_call_ends_both() {
    let hangs = Counts::default();
    let pool = with_functions(builder().cancel_grace(PATIENCE), &hangs)
        .start()
        .await
        .unwrap();
    let pid = worker_pid(&pool).await;
    for (round, form) in ["asks_host:ask", "asks_host:ask_async"].into_iter().enumerate() {
        let request = pool.request(form).args(&("hang",)).unwrap().deadline(SHORT);
        let error = request.send::<Value>().await.unwrap_err();
        assert!(
            matches!(&error, CallError::DeadlineExceeded(e) if e.ran.is_some()),
            "{error}"
        );
        hangs.until_over(round + 1).await;
        assert_eq!(pool.call::<_, u32>("asks_host:pid", ()).await.unwrap(), pid);
    }
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_of_ones_own_ends_the_function_and_the_call_goes_on() {
    let (pool, hangs) = pool().await;
    let told = failure(&pool, "asks_host:failure_within", (0.3, "hang")).await;
    assert_eq!((told.kind.as_str(), told.function.as_str()), ("deadline", "hang"));
    hangs.until_over(1).await;
    // Nothing is started for a time that is over.
    let told = failure(&pool, "asks_host:failure_within", (0.0, "hang")).await;
    assert_eq!(told.kind, "deadline");
    assert_eq!(hangs.begun(), 1);
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_ends_the_function_and_python_is_told() {
    let hangs = Counts::default();
    let pool = with_functions(builder().cancel_grace(PATIENCE), &hangs)
        .start()
        .await
        .unwrap();
    let pid = worker_pid(&pool).await;
    let directory = tempfile::tempdir().unwrap();
    let forms = [
        ("asks_host:witness", "Cancelled"),
        ("asks_host:witness_async", "CancelledError"),
    ];
    for (round, (form, raised)) in forms.into_iter().enumerate() {
        let path = directory.path().join(round.to_string());
        let caller = tokio::spawn({
            let (pool, path) = (pool.clone(), path.to_str().unwrap().to_owned());
            async move { pool.call::<_, Value>(form, (path, "hang")).await }
        });
        hangs.until_begun(round + 1).await;
        caller.abort();
        hangs.until_over(round + 1).await;
        until("Python is told", async || path.exists()).await;
        assert_eq!(fs::read_to_string(&path).unwrap(), raised);
        assert_eq!(pool.call::<_, u32>("asks_host:pid", ()).await.unwrap(), pid);
    }
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancels_that_cross_answers_hit_no_later_call() {
    let (pool, _) = pool().await;
    for round in 0..100 {
        let request = pool.request("asks_host:ask").args(&("echo", round)).unwrap();
        // About as long as the call takes.
        let _ = request
            .deadline(Duration::from_micros(100 + 20 * round))
            .send::<Value>()
            .await;
        assert_eq!(
            pool.call::<_, u64>("asks_host:ask", ("echo", round))
                .await
                .unwrap(),
            round
        );
    }
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_is_over_when_its_worker_is_gone() {
    let (pool, hangs) = pool().await;
    let pid = worker_pid(&pool).await;
    let caller = tokio::spawn({
        let pool = pool.clone();
        async move { pool.call::<_, Value>("asks_host:ask", ("hang",)).await }
    });
    hangs.until_begun(1).await;
    snakepit::core::process::Pidfd::open(pid)
        .unwrap()
        .signal(SIGKILL)
        .unwrap();
    assert!(matches!(caller.await.unwrap(), Err(CallError::WorkerLost(_))));
    hangs.until_over(1).await;
    assert_eq!(
        pool.call::<_, i64>("asks_host:ask", ("add", 1, 1)).await.unwrap(),
        2
    );
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_is_over_when_its_pool_is() {
    for gracefully in [true, false] {
        let hangs = Counts::default();
        let shutdown = snakepit::Shutdown {
            drain: SHORT,
            grace: PATIENCE,
        };
        let pool = with_functions(builder().shutdown(shutdown), &hangs)
            .start()
            .await
            .unwrap();
        let caller = tokio::spawn({
            let pool = pool.clone();
            async move { pool.call::<_, Value>("asks_host:ask", ("hang",)).await }
        });
        hangs.until_begun(1).await;
        if gracefully {
            pool.shutdown().await;
        } else {
            pool.kill().await;
        }
        hangs.until_over(1).await;
        caller.await.unwrap().unwrap_err();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_was_handed_on_learns_that_nobody_waits() {
    let told = Arc::new(Semaphore::new(0));
    let noted = Arc::clone(&told);
    let pool = builder()
        .adapter("asks_host")
        .host_call_function("hands_on", move |call: HostCall| {
            let noted = Arc::clone(&noted);
            tokio::spawn({
                let cancelled = call.cancelled();
                async move {
                    cancelled.await;
                    noted.add_permits(1);
                }
            });
            std::future::pending::<Result<(), String>>()
        })
        .start()
        .await
        .unwrap();
    let told_in_python = failure(&pool, "asks_host:failure_within", (0.3, "hands_on")).await;
    assert_eq!(told_in_python.kind, "deadline");
    timeout(PATIENCE, told.acquire()).await.unwrap().unwrap().forget();
    pool.shutdown().await;
}

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

#[tokio::test(flavor = "multi_thread")]
async fn names_that_cannot_be_used_are_errors_of_the_settings() {
    let same = |(): ()| async { Ok::<_, String>(()) };
    let error = builder()
        .host_function("load-user", same)
        .host_function("twice", same)
        .host_function("twice", same)
        .start()
        .await
        .unwrap_err();
    let PoolError::Pool(PoolStartError::Settings(settings)) = &error else {
        panic!("{error}")
    };
    assert!(
        settings.0[0].contains("load-user") && settings.0[1].contains("twice"),
        "{settings}"
    );
}
