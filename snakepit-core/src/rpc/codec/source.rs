//! Buffers of a decoded value that stay where they are: in the message.

use std::cell::RefCell;

use bytes::Bytes;
use snakepit_proto::arena::INLINE_LIMIT;

thread_local! {
    static SOURCE: RefCell<Bytes> = const { RefCell::new(Bytes::new()) };
}

/// Ends the decoding of a source, also by a panic.
struct Until(Bytes);

impl Drop for Until {
    fn drop(&mut self) {
        SOURCE.replace(std::mem::take(&mut self.0));
    }
}

/// Decodes from this source, of which [`owned`] then shares large parts.
pub(super) fn decoding<T>(source: &Bytes, decode: impl FnOnce(&[u8]) -> T) -> T {
    if source.len() < INLINE_LIMIT {
        return decode(source);
    }
    let _until = Until(SOURCE.replace(source.clone()));
    decode(source)
}

/// Owned bytes: shared with the source that is being decoded, if they are many and a part of it, and else copied.
pub(crate) fn owned(bytes: &[u8]) -> Bytes {
    if bytes.len() < INLINE_LIMIT {
        return Bytes::copy_from_slice(bytes);
    }
    SOURCE.with_borrow(|source| {
        let (whole, part) = (source.as_ptr_range(), bytes.as_ptr_range());
        if whole.start <= part.start && part.end <= whole.end {
            source.slice_ref(bytes)
        } else {
            Bytes::copy_from_slice(bytes)
        }
    })
}
