//! NumPy arrays that travel inside the message.

use bytes::Bytes;

/// A NumPy array in C order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NdArray {
    /// NumPy's `dtype.str`, as in `<f8`.
    pub dtype: String,
    /// Length of each dimension; empty for a scalar array.
    pub shape: Vec<u64>,
    /// The elements' bytes in C order.
    pub data: Bytes,
}

mod sealed {
    pub trait Sealed {}
}

/// A Rust type that is the element of an [`NdArray`]. The dtypes are little endian, as VALUES.md's examples.
pub trait Element: sealed::Sealed + Copy {
    /// NumPy's name of the type.
    const DTYPE: &'static str;
    /// Writes the element to exactly its bytes.
    ///
    /// # Panics
    /// When there are more or fewer.
    fn put(self, bytes: &mut [u8]);
    /// Reads an element from exactly its bytes.
    fn get(bytes: &[u8]) -> Option<Self>;
}

macro_rules! element {
    ($($type:ty => $dtype:literal),* $(,)?) => {$(
        impl sealed::Sealed for $type {}
        impl Element for $type {
            const DTYPE: &'static str = $dtype;
            fn put(self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }
            fn get(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self::from_le_bytes)
            }
        }
    )*};
}

element! {
    f32 => "<f4", f64 => "<f8", i8 => "|i1", i16 => "<i2", i32 => "<i4", i64 => "<i8",
    u8 => "|u1", u16 => "<u2", u32 => "<u4", u64 => "<u8",
}

/// An array does not have the shape or the elements that were asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArrayError {
    /// The shape asks for another number of elements.
    #[error("shape {shape:?} has {expected} elements, {given} were given")]
    Shape {
        /// The shape given.
        shape: Vec<u64>,
        /// How many elements it has.
        expected: u64,
        /// How many were given.
        given: u64,
    },
    /// The elements are of another type.
    #[error("the array's dtype is {found}, {asked} was asked for")]
    Dtype {
        /// What the array holds.
        found: String,
        /// What was asked for.
        asked: &'static str,
    },
    /// No memory can hold such an array.
    #[error("an array of shape {0:?} is larger than memory can be")]
    TooLarge(Vec<u64>),
    /// The data is not a whole number of elements.
    #[error("{0} bytes of data are not a whole number of elements")]
    Torn(usize),
}

fn elements_of(shape: &[u64]) -> u64 {
    let product = |product: u64, length: &u64| product.saturating_mul(*length);
    shape.iter().fold(1, product)
}

/// The error of a shape that does not fit what was given.
pub(super) fn misshapen(shape: &[u64], given: u64) -> ArrayError {
    ArrayError::Shape {
        shape: shape.to_vec(),
        expected: elements_of(shape),
        given,
    }
}

/// The bytes of elements.
pub(super) fn bytes_of<T: Element>(elements: &[T]) -> Vec<u8> {
    let mut bytes = vec![0; size_of_val(elements)];
    let places = bytes.chunks_exact_mut(size_of::<T>());
    places
        .zip(elements)
        .for_each(|(place, element)| element.put(place));
    bytes
}

impl NdArray {
    /// An array of these elements in C order.
    ///
    /// # Errors
    /// When the product of `shape` is not the number of elements.
    pub fn from_slice<T: Element>(shape: &[u64], elements: &[T]) -> Result<Self, ArrayError> {
        let given = elements.len() as u64;
        if elements_of(shape) != given {
            return Err(misshapen(shape, given));
        }
        Ok(Self {
            dtype: T::DTYPE.to_owned(),
            shape: shape.to_vec(),
            data: bytes_of(elements).into(),
        })
    }

    /// The elements in C order.
    ///
    /// # Errors
    /// When the elements are of another type, or the data is torn.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>, ArrayError> {
        if self.dtype != T::DTYPE {
            return Err(ArrayError::Dtype {
                found: self.dtype.clone(),
                asked: T::DTYPE,
            });
        }
        self.data
            .chunks(size_of::<T>())
            .map(T::get)
            .collect::<Option<_>>()
            .ok_or(ArrayError::Torn(self.data.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_come_back_and_mismatches_are_named() {
        let array = NdArray::from_slice(&[2, 2], &[1.0, 2.0, 3.0, -4.5]).unwrap();
        assert_eq!(array.dtype, "<f8");
        assert_eq!(array.to_vec::<f64>().unwrap(), [1.0, 2.0, 3.0, -4.5]);
        assert!(array.to_vec::<f32>().unwrap_err().to_string().contains("<f4"));
        let error = NdArray::from_slice(&[3], &[1_i32]).unwrap_err().to_string();
        assert_eq!(error, "shape [3] has 3 elements, 1 were given");
    }
}
