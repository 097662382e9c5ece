//! The functions of `snakepit._runtime` that calls need, looked up once.

use pyo3::{
    prelude::*,
    types::{PyModule, PyTuple},
};

/// Bound Python functions and types.
#[derive(Debug)]
pub(crate) struct Glue {
    /// Wire name to `(callable, None)` or `(None, failure)`.
    pub(super) resolve: Py<PyAny>,
    /// Begins to keep state for a session, by its number.
    pub(super) enter_session: Py<PyAny>,
    /// Imports adapters: `(functions, None)` or `(None, failure)`.
    pub(super) prepare: Py<PyAny>,
    /// An exception as the parts of a `CallError`.
    pub(super) report: Py<PyAny>,
    /// Why a callable does not take these arguments, or `None` when it does.
    pub(super) misfit: Py<PyAny>,
    /// Makes many calls of a callable: their outcomes, or a coroutine that gives them.
    pub(super) batch: Py<PyAny>,
    /// Runs an awaitable on the worker's event loop.
    pub(super) run: Py<PyAny>,
    /// An iterator over a result: `(iterator, is_async)`, or `None` when there is none.
    pub(super) open_stream: Py<PyAny>,
    /// The next item of an async iterator in a tuple of one, or `None` at its end.
    pub(super) step_async: Py<PyAny>,
    /// Closes a generator that is not exhausted.
    pub(super) close_stream: Py<PyAny>,
    /// Ends a forked child that came back from user code.
    pub(super) leave_child: Py<PyAny>,
    /// `types.CoroutineType`.
    pub(super) coroutine: Py<PyAny>,
}

impl Glue {
    pub(crate) fn new(runtime: &Bound<'_, PyModule>) -> PyResult<Self> {
        let get = |name| runtime.getattr(name).map(Bound::unbind);
        Ok(Self {
            resolve: get("resolve")?,
            enter_session: get("enter_session")?,
            prepare: get("prepare")?,
            report: get("report")?,
            misfit: get("misfit")?,
            batch: get("batch")?,
            run: get("run")?,
            open_stream: get("open_stream")?,
            step_async: get("step_async")?,
            close_stream: get("close_stream")?,
            leave_child: get("leave_child")?,
            coroutine: get("COROUTINE")?,
        })
    }
}

/// The arguments of a call, decoded.
pub(super) struct Arguments<'py> {
    pub(super) positional: Bound<'py, PyTuple>,
    pub(super) keyword: Option<Bound<'py, pyo3::types::PyDict>>,
}
