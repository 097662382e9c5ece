//! Large values between host and worker, through the memory that they share.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod asked;
#[path = "../common/mod.rs"]
mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use common::{builder, python_with_packages, until, worker_pid};
use snakepit::{
    ArenaUse, CallErrorKind, Concurrency, FilledArray, NdArray, Pool, PoolBuilder, SharedArray, Value,
    core::worker::Heartbeat,
};

/// More than the shared memory keeps of what is freed.
const LARGE: usize = 24 << 20;

async fn pool() -> Pool {
    builder().adapter("arrays").start().await.unwrap()
}

/// A builder whose workers have NumPy; says so loudly where there is none.
fn with_numpy() -> Option<PoolBuilder> {
    Some(builder().adapter("arrays").python(python_with_packages()?))
}

async fn arena(pool: &Pool) -> ArenaUse {
    pool.status().await.workers[0].arena.expect("an arena")
}

/// Whether nothing of any call is left in the host's half.
async fn until_arguments_are_gone(pool: &Pool) {
    until("no argument is kept", async || arena(pool).await.arguments == 0).await;
}

/// Whether 3 MiB find room each way, of 4 MiB that there are: whatever was left behind would show.
async fn until_there_is_room(pool: &Pool) {
    until("there is room again", async || {
        let before = arena(pool).await;
        let sent = Value::Bytes(vec![7; 3 << 20].into());
        assert!(pool.call::<_, Value>("echo", (&sent,)).await.unwrap() == sent);
        let after = arena(pool).await;
        (before.arguments_fell_back, before.results_fell_back)
            == (after.arguments_fell_back, after.results_fell_back)
    })
    .await;
}

fn numbers(count: usize) -> NdArray {
    let numbers: Vec<f64> = (0..count).map(|number| number as f64).collect();
    NdArray::from_slice(&[count as u64], &numbers).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_cross_both_ways_and_nothing_stays() {
    let pool = pool().await;
    for size in [65_535, 65_536, 65_537, LARGE] {
        let sent = Value::Bytes(vec![7; size].into());
        let back: Value = pool.call("echo", (&sent,)).await.unwrap();
        assert!(back == sent, "{size} bytes");
        let typed: Vec<u8> = pool.call("filled", (size, 9)).await.unwrap();
        assert!(typed == vec![9; size], "{size} bytes");
    }
    // In a map, a list, as keyword arguments, several, and in a set, where they stay in the message.
    let large = |byte| Value::Bytes(vec![byte; 100_000].into());
    let map = Value::Map(vec![
        (
            Value::Str("a".into()),
            Value::Array(vec![large(1), Value::Int(5), large(2)]),
        ),
        (Value::Str("b".into()), Value::Set(vec![large(3)])),
    ]);
    let request = pool
        .request("echo")
        .kwargs(&Value::Map(vec![("value".into_value(), map.clone())]))
        .unwrap();
    assert!(request.send::<Value>().await.unwrap() == map);
    until_arguments_are_gone(&pool).await;
    let ArenaUse {
        arguments_fell_back,
        results_fell_back,
        ..
    } = arena(&pool).await;
    assert_eq!((arguments_fell_back, results_fell_back), (0, 0));
    pool.shutdown().await;
}

trait IntoValue {
    fn into_value(self) -> Value;
}

impl IntoValue for &str {
    fn into_value(self) -> Value {
        Value::Str(self.to_owned())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_answers_have_their_buffers_in_them() {
    let pool = pool().await;
    let raw = pool
        .request("filled")
        .args(&(100_000, 3))
        .unwrap()
        .send_raw()
        .await
        .unwrap();
    let value: Value = snakepit::core::rpc::codec::decode(&raw).unwrap();
    assert!(value == Value::Bytes(vec![3; 100_000].into()));
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn items_of_a_stream_go_the_same_way() {
    for concurrency in [Concurrency::One, Concurrency::Threads(2), Concurrency::Asyncio(2)] {
        let pool = builder()
            .adapter("arrays")
            .concurrency(concurrency)
            .start()
            .await
            .unwrap();
        let mut items = pool
            .request("several")
            .args(&(1 << 20,))
            .unwrap()
            .stream::<Value>()
            .await
            .unwrap();
        for byte in 0..4 {
            let item = items.next().await.unwrap().unwrap();
            assert!(
                item == Value::Bytes(vec![byte; 1 << 20].into()),
                "{concurrency:?}"
            );
        }
        assert!(items.next().await.is_none());
        // A stream that is left early, and its successor, which finds all the room there is.
        let items = pool
            .request("several")
            .args(&(1 << 20,))
            .unwrap()
            .stream::<Value>()
            .await
            .unwrap();
        drop(items);
        let sent = Value::Bytes(vec![1; LARGE].into());
        let back: Value = pool.call("echo", (&sent,)).await.unwrap();
        assert!(back == sent, "{concurrency:?}");
        assert_eq!(arena(&pool).await.results_fell_back, 0);
        pool.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_finds_no_room_goes_in_the_message_and_is_counted() {
    let pool = builder().adapter("arrays").arena(1 << 20).start().await.unwrap();
    let sent = Value::Bytes(vec![7; 2 << 20].into());
    assert!(pool.call::<_, Value>("echo", (&sent,)).await.unwrap() == sent);
    let used = arena(&pool).await;
    assert_eq!((used.size, used.arguments), (1 << 20, 0));
    assert_eq!((used.arguments_fell_back, used.results_fell_back), (1, 1));
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_shared_memory_everything_goes_in_messages() {
    let pool = builder().adapter("arrays").arena(None).start().await.unwrap();
    let sent = Value::Bytes(vec![7; 2 << 20].into());
    assert!(pool.call::<_, Value>("echo", (&sent,)).await.unwrap() == sent);
    assert_eq!(pool.status().await.workers[0].arena, None);
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_array_is_seen_where_it_is_and_can_be_kept() {
    let Some(builder) = with_numpy() else { return };
    let pool = builder.start().await.unwrap();
    let array = numbers(100_000);
    assert!(pool.call::<_, bool>("is_shared", (&array,)).await.unwrap());
    assert!(!pool.call::<_, bool>("is_shared", (numbers(100),)).await.unwrap());
    until_arguments_are_gone(&pool).await;

    // Kept after its call, it is not touched by those that follow, and then goes as a whole.
    let ones = NdArray::from_slice(&[1 << 20], &vec![1_u8; 1 << 20]).unwrap();
    let twos = NdArray::from_slice(&[1 << 20], &vec![2_u8; 1 << 20]).unwrap();
    assert_eq!(pool.call::<_, u32>("keep", (&ones,)).await.unwrap(), 1);
    assert_eq!(pool.call::<_, u32>("keep", (&twos,)).await.unwrap(), 2);
    for _ in 0..20 {
        let back: NdArray = pool.call("echo", (&array,)).await.unwrap();
        assert!(back == array);
    }
    let sums: Vec<u64> = pool.call("sums", ()).await.unwrap();
    assert_eq!(sums, [256, 512]);
    assert_eq!(arena(&pool).await.arguments, 2 << 20);
    let (): () = pool.call("forget", ()).await.unwrap();
    until_arguments_are_gone(&pool).await;
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_calls_of_a_batch_have_their_arrays_there() {
    let Some(builder) = with_numpy() else { return };
    let pool = builder.start().await.unwrap();
    let arrays = || [100_000, 100, 200_000].map(|count| (numbers(count),));
    let batch = pool.request("is_shared").batch(arrays()).unwrap();
    let shared: Vec<bool> = batch
        .send()
        .await
        .unwrap()
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert_eq!(shared, [true, false, true]);
    let batch = pool.request("echo").batch(arrays()).unwrap();
    for (back, (sent,)) in batch
        .send::<SharedArray>()
        .await
        .unwrap()
        .into_iter()
        .zip(arrays())
    {
        let back = back.unwrap();
        assert!(back.is_shared() == (sent.data.len() > 65_536) && back.to_ndarray() == sent);
    }
    until_arguments_are_gone(&pool).await;
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_array_is_written_where_python_sees_it() {
    let Some(builder) = with_numpy() else { return };
    let pool = builder.arena(8 << 20).start().await.unwrap();
    let squares = |count: usize| {
        let square = |number: usize| (number * number) as f64;
        let filled = FilledArray::new::<f64>(&[count as u64], move |out| {
            for at in (0..count).step_by(1000) {
                let elements: Vec<f64> = (at..count.min(at + 1000)).map(square).collect();
                assert!(out.write_elements(at, &elements));
            }
        });
        let expected: Vec<f64> = (0..count).map(square).collect();
        (filled.unwrap(), expected)
    };
    // In shared memory, too small for it, and with no room there.
    for (count, is_shared) in [(100_000, true), (1000, false), (2_000_000, false)] {
        let (filled, expected) = squares(count);
        assert_eq!(
            pool.call::<_, bool>("is_shared", (&filled,)).await.unwrap(),
            is_shared,
            "{count} elements"
        );
        let back: NdArray = pool.call("echo", (&filled,)).await.unwrap();
        assert!(back.to_vec::<f64>().unwrap() == expected, "{count} elements");
        until_arguments_are_gone(&pool).await;
    }
    assert_eq!(arena(&pool).await.arguments_fell_back, 2);
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_while_an_array_is_written_is_the_callers_alone() {
    let pool = pool().await;
    let pid = worker_pid(&pool).await;
    for _ in 0..20 {
        let call = {
            let pool = pool.clone();
            let filled = FilledArray::new::<u8>(&[1 << 20], |_| panic!("on purpose")).unwrap();
            tokio::spawn(async move { pool.call::<_, Value>("echo", (&filled,)).await })
        };
        assert!(call.await.unwrap_err().is_panic());
    }
    until_arguments_are_gone(&pool).await;
    let sent = Value::Bytes(vec![7; LARGE].into());
    assert!(pool.call::<_, Value>("echo", (&sent,)).await.unwrap() == sent);
    assert_eq!((pool.status().await.busy, worker_pid(&pool).await), (0, pid));
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_array_is_written_again_for_a_call_that_is_made_again() {
    let Some(builder) = with_numpy() else { return };
    let pool = builder.start().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let written = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&written);
    let filled = FilledArray::new::<u8>(&[1 << 20], move |out| {
        count.fetch_add(1, Ordering::Relaxed);
        assert!(out.write(0, &vec![5; out.len_bytes()]));
    });
    let request = pool
        .request("die_once")
        .args(&(dir.path().join("died"), filled.unwrap()));
    let request = request.unwrap();
    let last: u8 = request.idempotent().send().await.unwrap();
    assert_eq!((last, written.load(Ordering::Relaxed)), (5, 2));
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_array_made_for_it_and_a_part_of_one_come_back() {
    let Some(builder) = with_numpy() else { return };
    let pool = builder.start().await.unwrap();
    let made: NdArray = pool.call("made", (100_000, 2.5)).await.unwrap();
    assert_eq!(made.shape, [100_000]);
    assert!(made.to_vec::<f64>().unwrap() == vec![2.5; 100_000]);
    let part: NdArray = pool.call("part", (100_000,)).await.unwrap();
    assert!(part.to_vec::<f64>().unwrap() == vec![1.0; 50_000]);
    // One that Python keeps and goes on writing to does not change what the host has.
    let mut before: Vec<NdArray> = Vec::new();
    for _ in 0..3 {
        before.push(pool.call("kept_array", (100_000,)).await.unwrap());
    }
    let first = before[0].to_vec::<f64>().unwrap();
    let third = before[2].to_vec::<f64>().unwrap();
    assert!(
        first
            .iter()
            .zip(&third)
            .all(|(first, third)| first + 2.0 == *third)
    );
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_array_can_stay_where_python_made_it() {
    let Some(builder) = with_numpy() else { return };
    let pool = builder.arena(8 << 20).start().await.unwrap();
    let size = 1 << 20;
    let (made, copied, bytes, small): (SharedArray, NdArray, Vec<u8>, BTreeMap<String, SharedArray>) =
        pool.call("mixed", (size,)).await.unwrap();
    assert!(made.is_shared() && made.shape() == [size as u64] && made.dtype() == "|u1");
    assert!(
        made.to_ndarray().data == vec![1; size] && copied.data == vec![2; size] && bytes == vec![3; size]
    );
    let small = &small["small"];
    assert!(!small.is_shared());
    assert_eq!(small.to_ndarray().to_vec::<f64>().unwrap(), [4.0]);

    // What the host keeps is not used for anything else, and what it drops is.
    for byte in 0..20 {
        let other: SharedArray = pool.call("made", (size / 2, f64::from(byte))).await.unwrap();
        assert!(other.is_shared());
    }
    assert!(made.to_ndarray().data == vec![1; size]);

    // The worker can write to an array that it has kept, and the host sees that.
    let first: SharedArray = pool.call("kept_array", (size / 8,)).await.unwrap();
    let before = first.to_ndarray().to_vec::<f64>().unwrap()[0];
    let _: SharedArray = pool.call("kept_array", (size / 8,)).await.unwrap();
    assert_eq!(first.to_ndarray().to_vec::<f64>().unwrap()[0], before + 1.0);

    // An argument that comes back is the argument's memory.
    let array = numbers(size / 8);
    let back: SharedArray = pool.call("echo", (&array,)).await.unwrap();
    assert!(back.is_shared() && arena(&pool).await.arguments == size as u64);
    assert!(back.to_ndarray() == array);
    drop(back);
    until_arguments_are_gone(&pool).await;

    let error = pool.call::<_, ()>("die_later", ()).await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::WorkerLost);
    pool.shutdown().await;
    assert!(
        made.to_ndarray().data == vec![1; size],
        "it outlives its worker and the pool"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_round_trips_leave_memory_as_it_was() {
    let pool = pool().await;
    let sent = Value::Bytes(vec![7; 1 << 20].into());
    let mut resident = Vec::new();
    for trip in 0..1000 {
        let back: Value = pool.call("echo", (&sent,)).await.unwrap();
        assert!(back == sent);
        if trip % 100 == 99 {
            resident.push(pool.call::<_, u64>("resident", ()).await.unwrap());
        }
    }
    let (first, last) = (resident[0], resident[9]);
    assert!(last <= first + (1 << 20), "{resident:?}");
    let used = arena(&pool).await;
    assert_eq!((used.arguments_fell_back, used.results_fell_back), (0, 0));
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_values_give_their_pages_back() {
    let heartbeat = Heartbeat {
        interval: Duration::from_millis(50),
        ..Heartbeat::default()
    };
    let pool = builder()
        .adapter("arrays")
        .heartbeat(heartbeat)
        .start()
        .await
        .unwrap();
    let sent = Value::Bytes(vec![7; 100 << 20].into());
    assert!(pool.call::<_, Value>("echo", (&sent,)).await.unwrap() == sent);
    drop(sent);
    until_arguments_are_gone(&pool).await;
    until("little more than what is kept is resident", async || {
        let resident: u64 = pool.call("resident", ()).await.unwrap();
        resident <= (2 * 16 + 1) << 20
    })
    .await;
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_with_its_memory_in_use_harms_nobody() {
    let pool = pool().await;
    let before: Value = pool.call("filled", (LARGE, 5)).await.unwrap();
    let sent = Value::Bytes(vec![7; LARGE].into());
    let error = pool.call::<_, ()>("die_holding", (&sent,)).await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::WorkerLost);
    assert!(before == Value::Bytes(vec![5; LARGE].into()));
    // Its successor has an arena of its own.
    assert!(pool.call::<_, Value>("echo", (&sent,)).await.unwrap() == sent);
    assert!(arena(&pool).await.arguments <= (LARGE as u64).next_multiple_of(64 << 10));
    until_arguments_are_gone(&pool).await;
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_given_up_leave_nothing_behind() {
    let pool = builder().adapter("arrays").arena(4 << 20).start().await.unwrap();
    let sent = Value::Bytes(vec![7; 3 << 20].into());
    for _ in 0..20 {
        let call = pool.call::<_, Value>("echo", (&sent,));
        // Some are given up before they begin, others when they are answered.
        let _ = tokio::time::timeout(Duration::from_millis(2), call).await;
    }
    until_there_is_room(&pool).await;
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_scribbles_over_the_account_gets_only_itself_into_trouble() {
    let pool = builder().adapter("arrays").workers(2).start().await.unwrap();
    let sent = Value::Bytes(vec![7; 1 << 20].into());
    for byte in [0_u8, 1, 0x7f, 0x80, 0xff, 0] {
        let (): () = pool.call("scribble", (byte,)).await.unwrap();
        for _ in 0..10 {
            assert!(pool.call::<_, Value>("echo", (&sent,)).await.unwrap() == sent);
        }
    }
    let outcomes: Vec<String> = pool.call("resize", ()).await.unwrap();
    assert!(outcomes.iter().all(|outcome| outcome != "done"), "{outcomes:?}");
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_of_the_worker_gives_nothing_back() {
    let Some(builder) = with_numpy() else { return };
    let pool = builder.start().await.unwrap();
    let array = numbers(1 << 20);
    for _ in 0..5 {
        assert!(pool.call::<_, NdArray>("fork_with", (&array,)).await.unwrap() == array);
    }
    until_arguments_are_gone(&pool).await;
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_named() {
    let named = || -> BTreeSet<_> {
        let entries = std::fs::read_dir("/dev/shm").into_iter().flatten().flatten();
        entries
            .map(|entry| entry.file_name())
            .filter(|name| name.to_string_lossy().contains("snakepit"))
            .collect()
    };
    let pool = pool().await;
    let sent = Value::Bytes(vec![7; LARGE].into());
    assert!(pool.call::<_, Value>("echo", (&sent,)).await.unwrap() == sent);
    assert_eq!(named(), BTreeSet::new());
    pool.shutdown().await;
}
