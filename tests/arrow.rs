//! Data of Apache Arrow between host and worker.

#![cfg(feature = "arrow")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::sync::Arc;

use arrow_array::{Array as _, ArrayRef, Int64Array, RecordBatch, StringArray};
use common::{builder, python_with_packages};
use snakepit::{ArrowData, ArrowKind, Pool, Value, core::rpc::error_chain};

async fn pool() -> Option<Pool> {
    let builder = builder().adapter("columns").python(python_with_packages()?);
    Some(builder.start().await.unwrap())
}

fn batch(rows: usize) -> RecordBatch {
    let numbers = Int64Array::from_iter_values((0..rows).map(|row| row as i64 * 3));
    let texts = StringArray::from_iter((0..rows).map(|row| (row % 5 > 0).then(|| format!("row {row}"))));
    let columns: [(&str, ArrayRef); 2] = [("n", Arc::new(numbers)), ("text", Arc::new(texts))];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, name == "text")))
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_cross_both_ways_and_large_ones_stay_in_shared_memory() {
    let Some(pool) = pool().await else { return };
    for rows in [0, 3, 100_000] {
        let sent = ArrowData::try_from(&batch(rows)).unwrap();
        let told: (String, usize, Vec<String>) = pool.call("describe", (&sent,)).await.unwrap();
        assert_eq!(
            told,
            ("RecordBatch".into(), rows, vec!["n".into(), "text".into()])
        );
        if rows > 0 {
            let is_shared: bool = pool.call("is_shared", (&sent,)).await.unwrap();
            assert_eq!(is_shared, rows > 3);
        }
        let back: ArrowData = pool.call("back", (&sent,)).await.unwrap();
        assert_eq!(back.kind, ArrowKind::Batch);
        assert_eq!(RecordBatch::try_from(&back).unwrap(), batch(rows));
        // In a list, as any value.
        let Value::Array(several) = pool.call("back", (vec![&sent, &sent],)).await.unwrap() else {
            panic!("a list comes back as one")
        };
        for value in several {
            let Value::Arrow(data) = value else {
                panic!("{value:?}")
            };
            assert_eq!(RecordBatch::try_from(&data).unwrap(), batch(rows));
        }
    }
    let large = ArrowData::try_from(&batch(100_000)).unwrap();
    let part: ArrowData = pool.call("part", (&large, 99_990, 10)).await.unwrap();
    assert_eq!(
        RecordBatch::try_from(&part).unwrap(),
        batch(100_000).slice(99_990, 10)
    );
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_keep_their_chunks() {
    let Some(pool) = pool().await else { return };
    for rows in [4, 200_000] {
        let made: ArrowData = pool.call("make", (rows,)).await.unwrap();
        assert_eq!(made.kind, ArrowKind::Table);
        let (_, batches) = made.batches().unwrap();
        let lengths: Vec<_> = batches.iter().map(RecordBatch::num_rows).collect();
        assert_eq!(lengths, [rows / 2, rows / 2]);
        let last: &Int64Array = batches[1].column(0).as_any().downcast_ref().unwrap();
        assert_eq!(last.value(last.len() - 1), rows as i64 - 1);
        let (schema, sent) = made.batches().unwrap();
        let sent = ArrowData::table(&schema, &sent).unwrap();
        let told: (String, usize, Vec<String>) = pool.call("describe", (&sent,)).await.unwrap();
        assert_eq!(told, ("Table".into(), rows, vec!["n".into()]));
    }
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_stream_is_an_error_of_the_call_alone() {
    let Some(pool) = pool().await else { return };
    for len in [0, 5, 70_000] {
        let nonsense = ArrowData::new(ArrowKind::Table, vec![7; len]);
        let error = pool.call::<_, Value>("back", (&nonsense,)).await.unwrap_err();
        let text = error_chain(&error);
        assert!(text.contains("no stream"), "{text}");
    }
    let two = ArrowData::table(&batch(2).schema(), [&batch(2), &batch(1)]).unwrap();
    let two = ArrowData::new(ArrowKind::Batch, two.stream());
    let error = pool.call::<_, Value>("back", (&two,)).await.unwrap_err();
    assert!(
        format!("{error:?}").contains("there are more in its stream"),
        "{error:?}"
    );
    pool.shutdown().await;
}
