//! Data of the `arrow-array` crate, as arguments and from results.

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::{reader::StreamDecoder, writer::StreamWriter};
use arrow_schema::{ArrowError, Schema, SchemaRef};

use super::{ArrowData, ArrowKind};

fn stream<'a>(
    kind: ArrowKind,
    schema: &Schema,
    batches: impl IntoIterator<Item = &'a RecordBatch>,
) -> Result<ArrowData, ArrowError> {
    let mut stream = Vec::new();
    let mut writer = StreamWriter::try_new(&mut stream, schema)?;
    for batch in batches {
        // The writer takes what it is given, and its reader would see other columns.
        if batch.schema_ref().fields() != schema.fields() {
            return Err(ArrowError::SchemaError(format!(
                "a batch has the schema {}, where that of the table is {schema}",
                batch.schema_ref()
            )));
        }
        writer.write(batch)?;
    }
    writer.finish()?;
    drop(writer);
    Ok(ArrowData {
        kind,
        stream: stream.into(),
    })
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

    /// The schema and all batches. Their columns share the memory of [`stream`](Self::stream).
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
        let mut rest = Buffer::from(self.stream.clone());
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
        let data = ArrowData::try_from(&batch()).unwrap();
        assert_eq!(data.kind, ArrowKind::Batch);
        let back = RecordBatch::try_from(&data).unwrap();
        assert_eq!(back, batch());
        let numbers: &Int32Array = back.column(0).as_any().downcast_ref().unwrap();
        let memory = data.stream.as_ptr_range();
        assert!(memory.contains(&numbers.values().as_ptr().cast()));
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
    fn batches_of_another_schema_and_torn_streams_are_errors() {
        let other = record_batch!(("n", Int64, [1])).unwrap();
        let error = ArrowData::table(&batch().schema(), [&other])
            .unwrap_err()
            .to_string();
        assert!(error.contains("the schema"), "{error}");
        let whole = ArrowData::try_from(&batch()).unwrap();
        for len in 0..whole.stream.len() - 8 {
            let torn = ArrowData {
                stream: whole.stream.slice(..len),
                ..whole.clone()
            };
            assert!(RecordBatch::try_from(&torn).is_err(), "{len} bytes");
        }
        let mut bytes = whole.stream.to_vec();
        for at in 0..bytes.len() {
            bytes[at] ^= 0x55;
            let odd = ArrowData {
                stream: bytes.clone().into(),
                ..whole.clone()
            };
            // An error or another value, and never a panic.
            drop(odd.batches());
            bytes[at] ^= 0x55;
        }
    }
}
