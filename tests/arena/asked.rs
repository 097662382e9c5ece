//! What a worker asks of its host: items of an input, and answers of host functions, with their arguments.

use std::{convert::Infallible, time::Duration};

use snakepit::{Concurrency, FilledArray, NdArray, Pool, Value};

use super::{
    arena, common::builder, common::until, until_arguments_are_gone, until_there_is_room, with_numpy,
};

fn ones(count: usize) -> NdArray {
    NdArray::from_slice(&[count as u64], &vec![1_u8; count]).unwrap()
}

fn bytes(size: usize) -> Value {
    Value::Bytes(vec![7; size].into())
}

async fn seen(pool: &Pool, function: &str, items: Vec<NdArray>) -> Vec<(bool, u64)> {
    let request = pool.request(function).input(tokio_stream::iter(items));
    request.send().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn items_of_an_input_are_seen_where_they_are() {
    let ways = [
        (Concurrency::One, "seen"),
        (Concurrency::Threads(2), "seen"),
        (Concurrency::Asyncio(2), "seen_async"),
    ];
    for (concurrency, function) in ways {
        let Some(builder) = with_numpy() else { return };
        let builder = builder.concurrency(concurrency).arena(64 << 20);
        let pool = builder.start().await.unwrap();
        // Small ones among them stay in the message.
        let sizes = [1 << 20, 5, 70_000, 6, 7, 24 << 20, 65_536, 65_535];
        let expected: Vec<_> = sizes.iter().map(|size| (*size >= 65_536, *size as u64)).collect();
        let items = sizes.map(ones).to_vec();
        assert_eq!(seen(&pool, function, items).await, expected, "{concurrency:?}");
        // More of them than there is room for.
        let found = seen(&pool, function, vec![ones(1 << 20); 200]).await;
        assert!(found.len() == 200 && found.iter().all(|item| *item == (true, 1 << 20)));
        until_arguments_are_gone(&pool).await;
        assert_eq!(arena(&pool).await.arguments_fell_back, 0);
        pool.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn items_that_are_kept_outlive_their_input() {
    let Some(builder) = with_numpy() else { return };
    let pool = builder.start().await.unwrap();
    let items: Vec<_> = (1..=3_u8)
        .map(|byte| NdArray::from_slice(&[1 << 20], &vec![byte; 1 << 20]).unwrap())
        .collect();
    let kept = pool.request("keep_all").input(tokio_stream::iter(items));
    assert_eq!(kept.send::<u32>().await.unwrap(), 3);
    seen(&pool, "seen", vec![ones(1 << 20); 50]).await;
    assert_eq!(
        pool.call::<_, Vec<u64>>("sums", ()).await.unwrap(),
        [256, 512, 768]
    );
    until("the others are gone", async || {
        arena(&pool).await.arguments == 3 << 20
    })
    .await;
    let (): () = pool.call("forget", ()).await.unwrap();
    until_arguments_are_gone(&pool).await;
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_that_are_left_leave_nothing_behind() {
    let pool = builder().adapter("arrays").arena(4 << 20).start().await.unwrap();
    let endless = || tokio_stream::iter(std::iter::repeat_with(|| bytes(1 << 20)));
    for _ in 0..20 {
        let first = pool.request("first").input(endless());
        assert_eq!(first.send::<usize>().await.unwrap(), 1 << 20);
    }
    for millis in 1..20 {
        // Given up before it begins, or between two items.
        let reading = pool.request("lengths").input(endless());
        let _ = tokio::time::timeout(Duration::from_millis(millis), reading.send::<()>()).await;
    }
    until_there_is_room(&pool).await;
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn items_that_find_no_room_go_in_messages_and_are_counted() {
    for (size, counted) in [(Some(1 << 20), Some(3)), (None, None)] {
        let pool = builder().adapter("arrays").arena(size).start().await.unwrap();
        let items = [2 << 20; 3].map(bytes);
        let lengths = pool.request("lengths").input(tokio_stream::iter(items));
        assert_eq!(lengths.send::<Vec<usize>>().await.unwrap(), [2 << 20; 3]);
        let arena = pool.status().await.workers[0].arena;
        assert_eq!(arena.map(|arena| arena.arguments_fell_back), counted);
        pool.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_panics_where_it_is_written_is_an_error_of_the_input() {
    let Some(builder) = with_numpy() else { return };
    let pool = builder.start().await.unwrap();
    let item = |size: usize| FilledArray::new::<u8>(&[size as u64], |_| panic!("no numbers today")).unwrap();
    for size in [8, 1 << 20] {
        let failure = pool
            .request("failure")
            .input(tokio_stream::once(item(size)))
            .send::<String>();
        let failure = failure.await.unwrap();
        assert!(failure.contains("no numbers today"), "{size}: {failure}");
    }
    until_arguments_are_gone(&pool).await;
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn host_functions_take_and_return_what_is_shared() {
    let Some(builder) = with_numpy() else { return };
    let builder = builder
        .arena(8 << 20)
        .host_function("doubled", |(array,): (NdArray,)| async move {
            let doubled: Vec<u8> = array.data.iter().map(|byte| 2 * byte).collect();
            NdArray::from_slice(&array.shape, &doubled).map_err(|error| error.to_string())
        });
    let builder = builder.host_function("filled", |(count,): (u64,)| async move {
        FilledArray::new::<u8>(&[count], move |out| {
            assert!(out.write(0, &vec![3; count as usize]));
        })
    });
    let pool = builder.start().await.unwrap();
    for _ in 0..10 {
        for size in [3 << 20, 65_536, 65_535] {
            let answer: (bool, u64) = pool.call("ask_shared", ("doubled", ones(size))).await.unwrap();
            assert_eq!(answer, (size >= 65_536, 2 * size as u64));
            let filled: (bool, u64) = pool.call("ask_shared", ("filled", size)).await.unwrap();
            assert_eq!(filled, (size >= 65_536, 3 * size as u64));
        }
    }
    until_arguments_are_gone(&pool).await;
    let used = arena(&pool).await;
    assert_eq!((used.arguments_fell_back, used.results_fell_back), (0, 0));
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn host_calls_that_are_given_up_leave_nothing_behind() {
    let builder = builder().adapter("arrays").arena(4 << 20).workers(1);
    let builder = builder.host_function("late", |(value,): (Value,)| async move {
        tokio::time::sleep(Duration::from_millis(2)).await;
        Ok::<_, Infallible>(value)
    });
    let pool = builder.start().await.unwrap();
    for _ in 0..50 {
        // Some are answered at the very moment at which nobody waits any more.
        let kind: Option<String> = pool.call("ask_in_vain", ("late", bytes(1 << 20))).await.unwrap();
        assert!(matches!(kind.as_deref(), None | Some("deadline")), "{kind:?}");
    }
    until_there_is_room(&pool).await;
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_shared_memory_host_calls_go_in_messages() {
    for arena in [None, Some(1 << 20)] {
        let builder = builder().adapter("arrays").arena(arena);
        let builder =
            builder.host_function(
                "echo",
                |(value,): (Value,)| async move { Ok::<_, Infallible>(value) },
            );
        let pool = builder.start().await.unwrap();
        let sent = bytes(2 << 20);
        for function in ["ask", "ask_async"] {
            assert!(pool.call::<_, Value>(function, ("echo", &sent)).await.unwrap() == sent);
        }
        pool.shutdown().await;
    }
}
