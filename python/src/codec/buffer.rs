//! Memory of Python objects: copying out of and into buffers, and walking a dict.
#![expect(
    unsafe_code,
    reason = "the buffer protocol and PyDict_Next hand out raw pointers"
)]

use std::ptr;

use pyo3::{
    buffer::PyUntypedBuffer, exceptions::PyValueError, ffi, prelude::*,
    sync::critical_section::with_critical_section, types::PyDict,
};
use snakepit_proto::v1::Block;

use crate::arena::Arena;

/// Copies bytes into a block of the arena; `None` when there is no room.
pub(crate) fn bytes_in_arena(bytes: &[u8], arena: &Arena) -> Option<Block> {
    arena.put(bytes.len(), |to| {
        // SAFETY: the target is a new block of that many bytes.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    })
}

/// A C-contiguous buffer of a Python object.
pub(crate) struct Memory(PyUntypedBuffer);

impl Memory {
    /// The object's memory.
    ///
    /// # Errors
    /// When the object has no buffer or it is not C-contiguous.
    pub(crate) fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let buffer = PyUntypedBuffer::get(object)?;
        if buffer.is_c_contiguous() {
            Ok(Self(buffer))
        } else {
            Err(PyValueError::new_err("not contiguous"))
        }
    }

    /// Its size in bytes.
    pub(crate) fn len(&self) -> usize {
        self.0.len_bytes()
    }

    /// Appends its content.
    pub(crate) fn append_to(&self, out: &mut Vec<u8>, _attached: Python<'_>) {
        let len = self.len();
        if len == 0 {
            return;
        }
        out.reserve(len);
        let end = out.len();
        // SAFETY: `reserve` made room for `len` bytes after `end`.
        let into = unsafe { out.as_mut_ptr().add(end) };
        // SAFETY: the buffer is held and contiguous, so `len` bytes are readable at its start, and the vector's
        // spare room is another allocation. Another thread that writes to it without the GIL gives us torn
        // data, as it gives every reader in Python.
        unsafe { ptr::copy_nonoverlapping(self.0.buf_ptr().cast::<u8>(), into, len) };
        // SAFETY: these bytes were just written.
        unsafe { out.set_len(end + len) };
    }

    /// A reference to it in the arena: where it is, if it is there, or else a copy; `None` when there is no room.
    pub(crate) fn in_arena(&self, arena: &Arena, _attached: Python<'_>) -> Option<Block> {
        let (from, len) = (self.0.buf_ptr().cast::<u8>().cast_const(), self.len());
        if let Some(reference) = arena.reference(from, len) {
            return Some(reference);
        }
        arena.put(len, |to| {
            // SAFETY: the buffer is held and contiguous, so `len` bytes are readable at its start; the target is a new block of
            // that many bytes. As for `append_to`, another thread that writes meanwhile gives us torn data.
            unsafe { ptr::copy_nonoverlapping(from, to, len) };
        })
    }

    /// Overwrites it.
    ///
    /// # Errors
    /// When it is read-only or of another size.
    pub(crate) fn fill(&self, data: &[u8], _attached: Python<'_>) -> PyResult<()> {
        if self.0.readonly() || self.len() != data.len() {
            return Err(PyValueError::new_err(
                "the array's memory is read-only or of another size",
            ));
        }
        if !data.is_empty() {
            // SAFETY: the buffer is held, writable, contiguous and `data.len()` bytes long; it belongs to an
            // array nobody else has seen yet.
            unsafe { ptr::copy_nonoverlapping(data.as_ptr(), self.0.buf_ptr().cast::<u8>(), data.len()) };
        }
        Ok(())
    }
}

/// The entry of a dict at or after `position`, which is advanced.
///
/// Unlike PyO3's iterator this does not panic when the dict changes size while its values are being written,
/// which may run Python code; the caller counts instead.
pub(crate) fn dict_next<'py>(
    dict: &Bound<'py, PyDict>,
    position: &mut isize,
) -> Option<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    // Without the GIL this is what keeps other threads from the dict until both references are ours.
    with_critical_section(dict, || {
        let (mut key, mut value) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the dict is alive and attached; a position left over from before a change is checked by Python.
        let found = unsafe { ffi::PyDict_Next(dict.as_ptr(), position, &raw mut key, &raw mut value) };
        if found == 0 {
            return None;
        }
        // SAFETY: a found entry's pointers are valid borrowed references; they are made owned before anything runs.
        let key = unsafe { Bound::from_borrowed_ptr(dict.py(), key) };
        // SAFETY: as above.
        let value = unsafe { Bound::from_borrowed_ptr(dict.py(), value) };
        Some((key, value))
    })
}
