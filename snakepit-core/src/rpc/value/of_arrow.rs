//! Data of the `arrow-array` crate, as arguments and from results.

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::{reader::StreamDecoder, writer::StreamEncoder};
use arrow_schema::{ArrowError, Schema, SchemaRef};

use bytes::Bytes;

use super::{ArrowData, ArrowKind, arrow_data::Pieces};

fn stream<'a>(
    kind: ArrowKind,
    schema: &Schema,
    batches: impl IntoIterator<Item = &'a RecordBatch>,
) -> Result<ArrowData, ArrowError> {
    let mut encoder = StreamEncoder::try_new(schema)?;
    let mut stream = Vec::new();
    for batch in batches {
        // The encoder takes what it is given, and its reader would see other columns.
        if batch.schema_ref().fields() != schema.fields() {
            return Err(ArrowError::SchemaError(format!(
                "a batch has the schema {}, where that of the table is {schema}",
                batch.schema_ref()
            )));
        }
        stream.extend(encoder.encode(batch)?);
    }
    stream.extend(encoder.finish()?);
    let stream = Pieces::new(stream.into_iter().map(Bytes::from).collect());
    Ok(ArrowData { kind, stream })
}

impl ArrowData {
    /// A table of batches that have this schema.
    ///
    /// # Errors
    /// When a batch has another one, or a type that the format does not know.
    pub fn table<'a>(
        schema: &Schema,
        batches: impl IntoIterator<Item = &'a RecordBatch>,
    ) -> Result<Self, ArrowError> {
        stream(ArrowKind::Table, schema, batches)
    }

    /// The schema and all batches. Their columns share the memory that the stream came in.
    ///
    /// # Errors
    /// When the stream is malformed, or ends early. In a program that aborts where it panics (`panic = "abort"`) some malformed
    /// streams end it, as their reader panics at them.
    pub fn batches(&self) -> Result<(SchemaRef, Vec<RecordBatch>), ArrowError> {
        // The reader panics at some streams that no writer makes, and a worker can send anything.
        std::panic::catch_unwind(|| self.read()).unwrap_or_else(|_| {
            Err(ArrowError::IpcError(
                "a malformed stream made its reader panic".to_owned(),
            ))
        })
    }

    fn read(&self) -> Result<(SchemaRef, Vec<RecordBatch>), ArrowError> {
        let mut rest = Buffer::from(self.stream());
        let mut decoder = StreamDecoder::new();
        let mut batches = Vec::new();
        while !rest.is_empty() {
            batches.extend(decoder.decode(&mut rest)?);
        }
        let schema = decoder.schema();
        decoder.finish()?;
        let schema = schema.ok_or_else(|| ArrowError::IpcError("a stream without a schema".to_owned()))?;
        Ok((schema, batches))
    }
}

/// A record batch to be sent; an error when it has a type that the format does not know.
impl TryFrom<&RecordBatch> for ArrowData {
    type Error = ArrowError;

    fn try_from(batch: &RecordBatch) -> Result<Self, ArrowError> {
        stream(ArrowKind::Batch, &batch.schema(), [batch])
    }
}

/// The only batch; an error when there are more or none, or the stream is malformed.
impl TryFrom<&ArrowData> for RecordBatch {
    type Error = ArrowError;

    fn try_from(data: &ArrowData) -> Result<Self, ArrowError> {
        let (_, mut batches) = data.batches()?;
        match (batches.pop(), batches.len()) {
            (Some(batch), 0) => Ok(batch),
            (last, before) => Err(ArrowError::InvalidArgumentError(format!(
                "one record batch is expected, there are {}",
                before + usize::from(last.is_some())
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::{Array as _, Float64Array, Int32Array, StringArray, record_batch};

    use super::*;

    fn batch() -> RecordBatch {
        record_batch!(
            ("n", Int32, [1, 2, 3]),
            ("x", Float64, [Some(0.5), None, Some(-1.0)]),
            ("s", Utf8, ["a", "", "snake"])
        )
        .unwrap()
    }

    #[test]
    fn a_batch_and_a_table_come_back_over_the_same_memory() {
        let sent = ArrowData::try_from(&batch()).unwrap();
        let data = ArrowData::new(sent.kind, sent.stream());
        assert_eq!((&data, data.kind), (&sent, ArrowKind::Batch));
        let back = RecordBatch::try_from(&data).unwrap();
        assert_eq!(back, batch());
        let numbers: &Int32Array = back.column(0).as_any().downcast_ref().unwrap();
        let stream = data.stream();
        assert!(stream.as_ptr_range().contains(&numbers.values().as_ptr().cast()));
        let floats: &Float64Array = back.column(1).as_any().downcast_ref().unwrap();
        assert!(floats.is_null(1));
        let texts: &StringArray = back.column(2).as_any().downcast_ref().unwrap();
        assert_eq!(texts.value(2), "snake");

        let table = ArrowData::table(&batch().schema(), [&batch(), &batch().slice(1, 2)]).unwrap();
        assert_eq!(table.kind, ArrowKind::Table);
        let (schema, batches) = table.batches().unwrap();
        assert_eq!(schema, batch().schema());
        assert_eq!(batches, [batch(), batch().slice(1, 2)]);
        let error = RecordBatch::try_from(&table).unwrap_err().to_string();
        assert!(error.contains("there are 2"), "{error}");
        let empty = ArrowData::table(&batch().schema(), []).unwrap();
        assert_eq!(empty.batches().unwrap().1.len(), 0);
        assert!(
            RecordBatch::try_from(&empty)
                .unwrap_err()
                .to_string()
                .contains("there are 0")
        );
    }

    #[test]
    fn large_columns_are_sent_from_where_they_are() {
        let numbers = Int32Array::from_iter_values(0..100_000);
        let at = numbers.values().as_ptr().cast();
        let batch = RecordBatch::try_from_iter([("n", std::sync::Arc::new(numbers) as _)]).unwrap();
        let data = ArrowData::try_from(&batch).unwrap();
        assert!(data.stream.iter().any(|(_, piece)| piece.as_ptr() == at));
        let back = ArrowData::new(data.kind, data.stream());
        assert_eq!(RecordBatch::try_from(&back).unwrap(), batch);
    }

    #[test]
    fn batches_of_another_schema_and_torn_streams_are_errors() {
        let other = record_batch!(("n", Int64, [1])).unwrap();
        let error = ArrowData::table(&batch().schema(), [&other])
            .unwrap_err()
            .to_string();
        assert!(error.contains("the schema"), "{error}");
        let whole = ArrowData::try_from(&batch()).unwrap();
        let stream = whole.stream();
        for len in 0..stream.len() - 8 {
            let torn = ArrowData::new(whole.kind, stream.slice(..len));
            assert!(RecordBatch::try_from(&torn).is_err(), "{len} bytes");
        }
        let mut bytes = stream.to_vec();
        for at in 0..bytes.len() {
            bytes[at] ^= 0x55;
            let odd = ArrowData::new(whole.kind, bytes.clone());
            // An error or another value, and never a panic.
            drop(odd.batches());
            bytes[at] ^= 0x55;
        }
    }
}
