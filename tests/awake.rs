//! A worker stays awake between calls that come upon calls, and sleeps when they do not.

mod common;

use std::time::Duration;

use common::builder;
use tokio::time::{Instant, sleep};

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_called_without_a_pause_uses_no_processor_when_it_is_called_no_more() {
    let pool = builder().workers(1).start().await.unwrap();
    let used = async || pool.call::<_, f64>("time:process_time", ()).await.unwrap();
    for round in 0..3 {
        for _ in 0..2000 {
            let _: i64 = pool.call("builtins:abs", (1,)).await.unwrap();
        }
        let before = used().await;
        sleep(Duration::from_millis(500)).await;
        let meanwhile = used().await - before;
        // One that went on looking for the next call would have used all of it.
        assert!(meanwhile < 0.1, "round {round}: {meanwhile} s");
    }
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_in_between_has_its_turn_while_calls_come_upon_calls() {
    let pool = builder().workers(1).start().await.unwrap();
    let calling = tokio::spawn({
        let pool = pool.clone();
        async move { while pool.call::<_, i64>("builtins:abs", (1,)).await.is_ok() {} }
    });
    for _ in 0..20 {
        let range = pool.request("builtins:range").args(&(3,)).unwrap();
        let mut items = range.stream::<u32>().await.unwrap();
        let mut sum = 0;
        while let Some(item) = items.next().await {
            sum += item.unwrap();
        }
        assert_eq!(sum, 3);
    }
    // A drain that the worker never heard of would last as long as the grace.
    let began = Instant::now();
    pool.shutdown().await;
    calling.await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
