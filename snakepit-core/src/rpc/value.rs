//! Any value a worker can answer, for callers that do not know its type.

mod array;
mod arrow_data;
mod filled_array;
#[cfg(feature = "arrow")]
mod of_arrow;
#[cfg(feature = "ndarray")]
mod of_ndarray;
mod serde_impl;
mod shared_array;

pub use array::{ArrayError, Element, NdArray};
pub(crate) use arrow_data::Pieces;
pub use arrow_data::{ArrowData, ArrowKind};
use bytes::Bytes;
pub(crate) use filled_array::Filler;
pub use filled_array::{ArrayWriter, FilledArray};
pub use shared_array::SharedArray;

/// Any value that can travel between host and worker: one variant for each row of `VALUES.md`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// Python's `None`.
    Nil,
    /// A bool.
    Bool(bool),
    /// An integer that fits `i64`.
    Int(i64),
    /// An integer above `i64::MAX`.
    UInt(u64),
    /// A float.
    Float(f64),
    /// Text.
    Str(String),
    /// Bytes.
    Bytes(Bytes),
    /// A list or tuple.
    Array(Vec<Value>),
    /// A dict, in insertion order.
    Map(Vec<(Value, Value)>),
    /// A set or frozenset.
    Set(Vec<Value>),
    /// `datetime.isoformat()`.
    DateTime(String),
    /// `date.isoformat()`.
    Date(String),
    /// `time.isoformat()`.
    Time(String),
    /// A `datetime.timedelta`, normalised as Python does.
    TimeDelta {
        /// Whole days, may be negative.
        days: i64,
        /// 0 to 86,399.
        seconds: i64,
        /// 0 to 999,999.
        microseconds: i64,
    },
    /// `str(decimal)`.
    Decimal(String),
    /// A UUID, big endian.
    Uuid([u8; 16]),
    /// A complex number.
    Complex {
        /// Real part.
        re: f64,
        /// Imaginary part.
        im: f64,
    },
    /// A NumPy array.
    NdArray(NdArray),
    /// A record batch or a table of Apache Arrow.
    Arrow(ArrowData),
}

impl Value {
    /// The value under a string key of a map.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let Self::Map(entries) = self else { return None };
        entries
            .iter()
            .find(|(k, _)| matches!(k, Self::Str(text) if text == key))
            .map(|(_, value)| value)
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::Str(text) = self {
            Some(text)
        } else {
            None
        }
    }

    /// The number of a float or an integer; integers past 2^53 are rounded.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::Float(number) => Some(number),
            Self::Int(number) => Some(number as f64),
            Self::UInt(number) => Some(number as f64),
            _ => None,
        }
    }

    /// The integer, where it fits `i64`.
    pub fn as_i64(&self) -> Option<i64> {
        if let Self::Int(number) = *self {
            Some(number)
        } else {
            None
        }
    }

    /// The elements of an array or a set.
    pub fn as_array(&self) -> Option<&[Value]> {
        if let Self::Array(items) | Self::Set(items) = self {
            Some(items)
        } else {
            None
        }
    }
}
