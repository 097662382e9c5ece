//! MessagePack straight to and from Python objects, as `proto/VALUES.md` describes it. There is no tree in
//! between: a value is read once and written once.

mod buffer;
mod decode;
mod encode;
mod path;

pub(crate) use decode::{DecodeError, Decoder};
pub(crate) use encode::{EncodeError, Encoded, Encoder};
use pyo3::{prelude::*, sync::PyOnceLock, types::PyModule};

/// Containers may be nested this deep, both ways.
pub(crate) const MAX_DEPTH: u32 = 128;

/// Extension code of sets.
pub(crate) const EXT_SET: i8 = 8;
/// Extension code of NumPy arrays.
pub(crate) const EXT_ARRAY: i8 = 9;
/// Extension code of NumPy arrays whose data is not in the value.
pub(crate) const EXT_ARRAY_ELSEWHERE: i8 = 10;
/// Extension code of bytes that are not in the value.
pub(crate) const EXT_BYTES_ELSEWHERE: i8 = 11;
/// Extension code of data of Arrow.
pub(crate) const EXT_ARROW: i8 = 12;
/// Extension code of data of Arrow that is not in the value.
pub(crate) const EXT_ARROW_ELSEWHERE: i8 = 13;

/// The functions of `snakepit._values`, for everything that is no builtin type.
#[derive(Debug)]
pub(crate) struct Values {
    /// Object to (tag, payload).
    reduce: Py<PyAny>,
    /// Extension code and payload to object.
    restore: Py<PyAny>,
    /// An uninitialised array, and a flat view of it to copy into.
    empty_array: Py<PyAny>,
    /// An array over memory that is there.
    array_over: Py<PyAny>,
    /// A record batch or a table over memory that is there.
    arrow_over: Py<PyAny>,
    /// Raised by the above for what cannot be represented.
    unrepresentable: Py<PyAny>,
}

static VALUES: PyOnceLock<Values> = PyOnceLock::new();

/// Loaded when the first value needs it: many workers only ever see builtin types.
fn values(py: Python<'_>) -> PyResult<&Values> {
    VALUES.get_or_try_init(py, || {
        let module = PyModule::import(py, "snakepit._values")?;
        let get = |name| module.getattr(name).map(Bound::unbind);
        Ok(Values {
            reduce: get("reduce")?,
            restore: get("restore")?,
            empty_array: get("empty_array")?,
            array_over: get("array_over")?,
            arrow_over: get("arrow_over")?,
            unrepresentable: get("Unrepresentable")?,
        })
    })
}

/// The message of an `Unrepresentable`; any other exception comes back as it is.
fn unrepresentable(py: Python<'_>, error: PyErr) -> Result<String, PyErr> {
    let is_ours = VALUES
        .get(py)
        .is_some_and(|values| error.is_instance(py, values.unrepresentable.bind(py)));
    if is_ours {
        Ok(error.value(py).to_string())
    } else {
        Err(error)
    }
}
