//! Data of Apache Arrow, as it travels.

use std::{fmt, sync::Arc};

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
#[derive(Clone)]
pub struct ArrowData {
    /// What it is in Python.
    pub kind: ArrowKind,
    pub(super) stream: Pieces,
}

impl ArrowData {
    /// A stream: a schema, its batches (of a [`Batch`](ArrowKind::Batch) exactly one), and its end. It is not looked at here.
    pub fn new(kind: ArrowKind, stream: impl Into<Bytes>) -> Self {
        let stream = Pieces::new(vec![stream.into()]);
        Self { kind, stream }
    }

    /// The stream. It is copied where this was made of `arrow-array`'s types, and is the memory that it came in otherwise.
    pub fn stream(&self) -> Bytes {
        self.stream.to_bytes()
    }
}

impl PartialEq for ArrowData {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind && self.stream() == other.stream()
    }
}

impl Eq for ArrowData {}

impl fmt::Debug for ArrowData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArrowData")
            .field("kind", &self.kind)
            .field("len", &self.stream.len())
            .finish_non_exhaustive()
    }
}

/// Bytes that follow each other, wherever each piece of them is: a column that is sent stays where it is until it is written into the
/// memory that the worker shares.
#[derive(Clone, Hash)]
pub(crate) struct Pieces {
    pieces: Arc<[Bytes]>,
    len: usize,
}

impl Pieces {
    pub(super) fn new(pieces: Vec<Bytes>) -> Self {
        Self {
            len: pieces.iter().map(Bytes::len).sum(),
            pieces: pieces.into(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Each piece, and where it begins.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &Bytes)> {
        let mut next = 0;
        self.pieces.iter().map(move |piece| {
            let at = next;
            next += piece.len();
            (at, piece)
        })
    }

    pub(crate) fn to_bytes(&self) -> Bytes {
        match &*self.pieces {
            [only] => only.clone(),
            pieces => pieces.concat().into(),
        }
    }
}

impl fmt::Debug for Pieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pieces")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_what_they_are_together() {
        let whole = ArrowData::new(ArrowKind::Table, "snakepit");
        let parts = ArrowData {
            kind: ArrowKind::Table,
            stream: Pieces::new(["sn", "", "akepit"].map(Bytes::from).into()),
        };
        assert_eq!(parts, whole);
        assert_ne!(parts, ArrowData::new(ArrowKind::Batch, "snakepit"));
        assert_ne!(parts, ArrowData::new(ArrowKind::Table, "snakepi"));
        assert_eq!(parts.stream.len(), 8);
        let at: Vec<_> = parts.stream.iter().map(|(at, _)| at).collect();
        assert_eq!(at, [0, 2, 2]);
        assert_eq!(Pieces::new(Vec::new()).to_bytes(), Bytes::new());
    }
}
