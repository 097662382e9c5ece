//! NumPy arrays that are written where Python will see them.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{ArrayError, Element, array::bytes_of};
use crate::arena::Writing;

/// A NumPy array as an argument that is not copied: what writes it is given the memory that the worker shares with the host, when it
/// is known which worker that is.
///
/// ```
/// use snakepit_core::rpc::FilledArray;
///
/// // A ramp, row by row. Nothing larger than a row is made in this process.
/// let ramp = FilledArray::new::<f64>(&[1000, 1000], |out| {
///     for row in 0..1000 {
///         let elements: Vec<f64> = (0..1000).map(|column| f64::from(row * 1000 + column)).collect();
///         assert!(out.write_elements(row as usize * 1000, &elements));
///     }
/// })?;
/// # assert_eq!(ramp.to_ndarray().to_vec::<f64>()?[999_999], 999_999.0);
/// # Ok::<(), snakepit_core::rpc::ArrayError>(())
/// ```
///
/// An array that is too small for the shared memory, or finds no room there, is written into the message in the same way.
#[derive(Clone)]
pub struct FilledArray {
    pub(super) dtype: &'static str,
    pub(super) shape: Vec<u64>,
    pub(super) filler: Filler,
}

/// What writes an array, and how long that is.
#[derive(Clone)]
pub(crate) struct Filler {
    /// No other has it: what it writes is known to nobody.
    id: u64,
    len: usize,
    fill: Arc<Fill>,
}

static LAST_ID: AtomicU64 = AtomicU64::new(0);

type Fill = dyn Fn(&mut ArrayWriter<'_>) + Send + Sync;

impl FilledArray {
    /// An array of this shape that `fill` writes, in C order. What it leaves out has any value, as in `numpy.empty`.
    ///
    /// `fill` is called when the call is sent to a worker, and again each time it is sent again: an
    /// [idempotent](crate::pool::Request::idempotent) call whose worker was lost, one that was sent ahead and taken back. It runs where
    /// the call is awaited, and keeps that thread for as long.
    ///
    /// # Errors
    /// When memory cannot hold such an array.
    ///
    /// # Panics
    /// Where `fill` does, the future of the call panics; the worker is not concerned.
    pub fn new<T: Element>(
        shape: &[u64],
        fill: impl Fn(&mut ArrayWriter<'_>) + Send + Sync + 'static,
    ) -> Result<Self, ArrayError> {
        let bytes = if shape.contains(&0) {
            Some(0)
        } else {
            let product = |product: u64, length: &u64| product.checked_mul(*length);
            shape.iter().try_fold(size_of::<T>() as u64, product)
        };
        let len = bytes.and_then(|bytes| usize::try_from(bytes).ok());
        let Some(len) = len.filter(|len| isize::try_from(*len).is_ok()) else {
            return Err(ArrayError::TooLarge(shape.to_vec()));
        };
        Ok(Self {
            dtype: T::DTYPE,
            shape: shape.to_vec(),
            filler: Filler {
                id: LAST_ID.fetch_add(1, Ordering::Relaxed),
                len,
                fill: Arc::new(fill),
            },
        })
    }

    /// The array in memory of its own. What `fill` leaves out is zero.
    pub fn to_ndarray(&self) -> super::NdArray {
        super::NdArray {
            dtype: self.dtype.to_owned(),
            shape: self.shape.clone(),
            data: self.filler.to_vec().into(),
        }
    }
}

impl fmt::Debug for FilledArray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilledArray")
            .field("dtype", &self.dtype)
            .field("shape", &self.shape)
            .finish_non_exhaustive()
    }
}

impl Filler {
    /// What tells it from others.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Bytes of the array.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Writes it into shared memory.
    pub(crate) fn write_to(&self, memory: Writing<'_>) {
        (self.fill)(&mut ArrayWriter(Target::Shared(memory)));
    }

    /// Writes it into memory of its own.
    pub(crate) fn to_vec(&self) -> Vec<u8> {
        let mut data = vec![0; self.len];
        (self.fill)(&mut ArrayWriter(Target::Own(&mut data)));
        data
    }
}

impl fmt::Debug for Filler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filler")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// The memory of a [`FilledArray`] while it is written.
#[derive(Debug)]
pub struct ArrayWriter<'a>(Target<'a>);

#[derive(Debug)]
enum Target<'a> {
    Shared(Writing<'a>),
    Own(&'a mut [u8]),
}

impl ArrayWriter<'_> {
    /// Bytes of the array.
    pub fn len_bytes(&self) -> usize {
        match &self.0 {
            Target::Shared(memory) => memory.len(),
            Target::Own(memory) => memory.len(),
        }
    }

    /// Writes bytes from byte `at` on; `false`, and nothing is written, when there is less room.
    #[must_use]
    pub fn write(&mut self, at: usize, bytes: &[u8]) -> bool {
        match &mut self.0 {
            Target::Shared(memory) => memory.write(at, bytes),
            Target::Own(memory) => {
                let part = memory.get_mut(at..).and_then(|rest| rest.get_mut(..bytes.len()));
                part.is_some_and(|part| {
                    part.copy_from_slice(bytes);
                    true
                })
            }
        }
    }

    /// Writes elements from element `at` on, in C order; `false`, and nothing is written, when there is less room.
    #[must_use]
    pub fn write_elements<T: Element>(&mut self, at: usize, elements: &[T]) -> bool {
        let bytes = bytes_of(elements);
        at.checked_mul(size_of::<T>())
            .is_some_and(|at| self.write(at, &bytes))
    }

    /// Where the array begins, for code that writes it in place: [`len_bytes`](Self::len_bytes) bytes that can be written until the
    /// function that was given this returns. An array in shared memory begins at a multiple of 64 KiB, one in a message anywhere.
    ///
    /// No other code of the host has this memory. The worker has it mapped, and no reference to it yet: a slice of it is sound
    /// as far as nothing in the worker writes where it has no business.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        match &mut self.0 {
            Target::Shared(memory) => memory.as_mut_ptr(),
            Target::Own(memory) => memory.as_mut_ptr(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_by_bytes_and_by_elements_and_never_beyond_its_end() {
        let array = FilledArray::new::<i32>(&[2, 3], |out| {
            assert_eq!(out.len_bytes(), 24);
            assert!(out.write_elements(1, &[7, 8]) && out.write(20, &[9, 0, 0, 0]));
            for at in [5, 6, 7, usize::MAX] {
                assert!(!out.write_elements(at, &[1, 2]));
            }
            assert!(!out.write(23, &[1, 2]) && !out.write(usize::MAX, &[1]));
            // The last thing that can be written is nothing.
            assert!(out.write(24, &[]) && !out.write(25, &[]));
        });
        let array = array.unwrap().to_ndarray();
        assert_eq!((&*array.dtype, &array.shape[..]), ("<i4", &[2, 3][..]));
        assert_eq!(array.to_vec::<i32>().unwrap(), [0, 7, 8, 0, 0, 9]);
    }

    #[test]
    fn a_shape_that_no_memory_can_hold_is_refused() {
        for shape in [&[u64::MAX, 2][..], &[1 << 61], &[1 << 60]] {
            let error = FilledArray::new::<f64>(shape, |_| ()).unwrap_err();
            assert!(error.to_string().contains(&format!("{shape:?}")), "{error}");
        }
        let empty = FilledArray::new::<f64>(&[u64::MAX, 0], |_| ());
        assert_eq!(empty.unwrap().filler.len(), 0);
    }
}
