//! Data of Apache Arrow, as it travels.

use bytes::Bytes;

/// What Arrow data is in Python.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ArrowKind {
    /// A `pyarrow.RecordBatch`.
    Batch,
    /// A `pyarrow.Table`.
    Table,
}

impl ArrowKind {
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Batch => 0,
            Self::Table => 1,
        }
    }

    pub(super) const fn of_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Batch),
            1 => Some(Self::Table),
            _ => None,
        }
    }
}

/// A record batch or a table: a stream of the
/// [Arrow IPC format](https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format). Python sees columns over the memory in which
/// the stream came, without a copy.
///
/// The feature `arrow` converts from and to the types of `arrow-array`; any other writer and reader of the format will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArrowData {
    /// What it is in Python.
    pub kind: ArrowKind,
    /// The stream: a schema, its batches (of a [`Batch`](ArrowKind::Batch) exactly one), and its end.
    pub stream: Bytes,
}
