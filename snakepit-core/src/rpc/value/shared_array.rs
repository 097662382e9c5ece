//! NumPy arrays that stay where the worker has them.

use bytes::Bytes;

use super::NdArray;
use crate::arena::Held;

/// A NumPy array of a result that is not copied: it stays in the memory that the worker shares with the host, until this is
/// dropped. Ask for it in the place of an [`NdArray`] as the result, or a part of it: what it takes to get one does not
/// depend on its size.
///
/// Its elements can be copied out at any time. They are not shown as a slice, since the worker can still write to them: Python
/// code that has kept the array, say. Dropping the worker, or its death, leaves them as they are. An array that was too small for
/// the shared memory, or found no room there, is in this value itself.
#[derive(Debug)]
pub struct SharedArray {
    dtype: String,
    shape: Vec<u64>,
    data: Data,
}

#[derive(Debug)]
enum Data {
    Shared(Held),
    Own(Bytes),
}

impl SharedArray {
    pub(super) fn shared(dtype: String, shape: Vec<u64>, held: Held) -> Self {
        Self {
            dtype,
            shape,
            data: Data::Shared(held),
        }
    }

    /// NumPy's `dtype.str`, as in `<f8`.
    pub fn dtype(&self) -> &str {
        &self.dtype
    }

    /// Length of each dimension; empty for a scalar array.
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// Bytes that the elements take.
    pub fn len_bytes(&self) -> usize {
        match &self.data {
            Data::Shared(held) => held.len(),
            Data::Own(bytes) => bytes.len(),
        }
    }

    /// Whether it is in shared memory.
    pub fn is_shared(&self) -> bool {
        matches!(self.data, Data::Shared(_))
    }

    /// Copies the elements' bytes, in C order, from byte `at` on, as many as `out` has room for; `false`, and nothing is copied,
    /// when there are fewer.
    pub fn read(&self, at: usize, out: &mut [u8]) -> bool {
        match &self.data {
            Data::Shared(held) => held.read(at, out),
            Data::Own(bytes) => {
                let part = bytes.get(at..).and_then(|rest| rest.get(..out.len()));
                part.is_some_and(|part| {
                    out.copy_from_slice(part);
                    true
                })
            }
        }
    }

    /// A copy of it, in memory of the host's own.
    pub fn to_ndarray(&self) -> NdArray {
        let data = match &self.data {
            Data::Own(bytes) => bytes.clone(),
            Data::Shared(held) => {
                let mut data = Vec::new();
                held.append_to(&mut data);
                data.into()
            }
        };
        NdArray {
            dtype: self.dtype.clone(),
            shape: self.shape.clone(),
            data,
        }
    }

    /// Where the elements begin, in C order, for code that reads them in place: [`len_bytes`](Self::len_bytes) bytes that can be
    /// read for as long as this value lives. An array that was made by `snakepit.empty` begins at a multiple of 64 KiB.
    ///
    /// Making a slice of it is sound only if nothing in the worker writes to the array meanwhile, which the caller has to know of
    /// the code that runs there. Volatile and atomic reads need no such promise.
    pub fn as_ptr(&self) -> *const u8 {
        match &self.data {
            Data::Shared(held) => held.as_ptr(),
            Data::Own(bytes) => bytes.as_ptr(),
        }
    }
}

impl From<NdArray> for SharedArray {
    fn from(array: NdArray) -> Self {
        Self {
            dtype: array.dtype,
            shape: array.shape,
            data: Data::Own(array.data),
        }
    }
}
