//! A block as Python sees it: something that has a buffer.
#![expect(unsafe_code, reason = "the buffer protocol hands out raw pointers")]

use std::{ffi::c_int, ops::Range};

use pyo3::{exceptions::PyRuntimeError, ffi, prelude::*};
use snakepit_proto::arena::Side;

use super::{ARENA, arena};

/// Memory that host and worker share. Arrays are made over it; it is given back when the last of them is gone.
#[pyclass(frozen, module = "snakepit._native")]
#[derive(Debug)]
pub(crate) struct Block {
    side: Side,
    number: u32,
    bytes: Range<u64>,
}

impl Block {
    pub(super) fn new(side: Side, number: u32, bytes: Range<u64>) -> Self {
        Self { side, number, bytes }
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    pub(super) fn bytes(&self) -> &Range<u64> {
        &self.bytes
    }
}

#[pymethods]
impl Block {
    fn __len__(&self) -> usize {
        (self.bytes.end - self.bytes.start) as usize
    }

    /// # Safety
    /// Called by Python, with a view to fill.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let block = slf.get();
        // A child of fork sees it too: the mapping is there, and its copy of the object.
        let mapping = match ARENA.get() {
            Some(arena) => &arena.mapping,
            None => return Err(PyRuntimeError::new_err("there is no shared memory")),
        };
        let start = mapping.pointer(&block.bytes).cast();
        let len = (block.bytes.end - block.bytes.start).cast_signed() as isize;
        // SAFETY: Python hands in a view to be filled. The mapping is never taken away, and the block is not used for anything
        // else while this object lives, which the view keeps alive. That the host or other threads may read or write it
        // meanwhile is as with every writable buffer.
        let filled = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, len, 0, flags) };
        if filled == 0 {
            Ok(())
        } else {
            Err(PyErr::fetch(slf.py()))
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(arena) = arena() {
            arena.object_gone(self.side, self.number, &self.bytes);
        }
    }
}
