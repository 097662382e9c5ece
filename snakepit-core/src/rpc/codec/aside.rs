//! Large buffers that are kept aside while their value is encoded.
//!
//! Whether they go through shared memory or in the message is known only when the call has a worker. Until then the value has
//! references to them, as VALUES.md describes: they are numbered in the order in which they come.

use std::{
    cell::{Cell, RefCell},
    hash::{Hash, Hasher},
    sync::Arc,
};

use bytes::Bytes;
use snakepit_proto::arena::INLINE_LIMIT;

use super::{CodecError, Fill, Parts, fill_in};
use crate::rpc::{Filler, Pieces};

/// A buffer that is kept aside.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    /// It is there.
    Bytes(Bytes),
    /// It is there, in pieces.
    Pieces(Pieces),
    /// It is made where it is put.
    Filled(Filler),
}

impl Part {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Pieces(pieces) => pieces.len(),
            Self::Filled(filler) => filler.len(),
        }
    }

    /// What is in it.
    pub(crate) fn to_bytes(&self) -> Bytes {
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Pieces(pieces) => pieces.to_bytes(),
            Self::Filled(filler) => filler.to_vec().into(),
        }
    }
}

/// Equal buffers have equal hashes, but for those that are not made yet.
impl Hash for Part {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Bytes(bytes) => bytes.hash(state),
            Self::Pieces(pieces) => pieces.hash(state),
            Self::Filled(filler) => filler.id().hash(state),
        }
    }
}

/// A value, and the buffers that it refers to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Encoded {
    /// MessagePack.
    pub(crate) bytes: Bytes,
    /// What it refers to, in order; mostly nothing, and then this is small and nothing to copy.
    aside: Option<Arc<[Part]>>,
}

impl Encoded {
    /// Whether it refers to anything.
    pub(crate) fn has_aside(&self) -> bool {
        self.aside.is_some()
    }

    /// What it refers to, in order.
    pub(crate) fn aside(&self) -> &[Part] {
        self.aside.as_deref().unwrap_or_default()
    }

    /// What it takes in a message, headers of buffers aside.
    pub(crate) fn len(&self) -> usize {
        let aside = self.aside().iter().map(Part::len);
        aside.fold(self.bytes.len(), usize::saturating_add)
    }

    /// The value with its buffers in it.
    pub(crate) fn inline(&self) -> Bytes {
        let Some(aside) = &self.aside else {
            return self.bytes.clone();
        };
        let filled = fill_in(&self.bytes, &mut Kept(aside), Fill::All);
        Bytes::from(filled.expect("the references were written by ourselves"))
    }
}

impl From<Bytes> for Encoded {
    fn from(bytes: Bytes) -> Self {
        Self { bytes, aside: None }
    }
}

struct Kept<'a>(&'a [Part]);

impl Parts for Kept<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn len_of(&self, part: usize) -> usize {
        self.0[part].len()
    }

    fn append(&mut self, part: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0[part].to_bytes());
    }
}

thread_local! {
    /// How many buffers were kept aside, where that is done.
    static COUNT: Cell<Option<u32>> = const { Cell::new(None) };
    static KEPT: RefCell<Vec<Part>> = const { RefCell::new(Vec::new()) };
}

/// Sets what becomes of buffers, until it is dropped.
struct Until(Option<u32>);

impl Until {
    fn set(count: Option<u32>) -> Self {
        Self(COUNT.replace(count))
    }
}

impl Drop for Until {
    fn drop(&mut self) {
        COUNT.set(self.0);
    }
}

/// Encodes with all buffers in their places.
pub(super) fn nothing_aside<T>(encode: impl FnOnce() -> T) -> T {
    let _until = Until::set(None);
    encode()
}

/// Encodes with large buffers kept aside.
pub(super) fn with_aside(encode: impl FnOnce() -> Result<Bytes, CodecError>) -> Result<Encoded, CodecError> {
    let until = Until::set(Some(0));
    let bytes = encode()?;
    let aside = match COUNT.get() {
        Some(0) | None => None,
        Some(_) => Some(KEPT.take().into()),
    };
    drop(until);
    Ok(Encoded { bytes, aside })
}

/// Where a buffer can be kept aside.
pub(crate) struct Place(u32);

/// The place of a buffer of this length, if that is large and buffers are kept aside.
pub(crate) fn place_of(len: usize) -> Option<Place> {
    if len < INLINE_LIMIT {
        return None;
    }
    COUNT.get().map(Place)
}

impl Place {
    /// Has `refer` write a reference by number, and keeps the buffer.
    ///
    /// A reference that cannot be written leaves nothing kept: rmp-serde tries the first item of a sequence with a serializer
    /// that takes nothing but bytes, to see whether all of them are.
    pub(crate) fn keep<T, E>(
        self,
        part: impl FnOnce() -> Part,
        refer: impl FnOnce(u32) -> Result<T, E>,
    ) -> Result<T, E> {
        let Self(number) = self;
        let referred = refer(number)?;
        KEPT.with_borrow_mut(|kept| {
            // More are there of an encoding that came to nothing.
            kept.truncate(number as usize);
            kept.push(part());
        });
        COUNT.set(Some(number + 1));
        Ok(referred)
    }
}
