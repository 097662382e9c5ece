//! What goes wrong is told, on both sides, and reaches no further.

use std::collections::HashMap;

use snakepit::{PoolError, PoolStartError, RemoteErrorKind, Value};

use crate::{
    common::{builder, worker_pid},
    support::{Failure, failure, pool},
};

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
