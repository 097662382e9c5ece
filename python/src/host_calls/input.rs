//! The iterator over a call's input.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use pyo3::{exceptions::PyStopAsyncIteration, intern, prelude::*, sync::PyOnceLock};
use snakepit_proto::v1::{HostError, host_error::Kind};

use super::{
    failure,
    inputs::Next,
    native::{HostInbox, cancelled},
    value::Value,
    waiter::{Parker, Waiter},
};
use crate::{codec::DecodeError, native::shared, place::Place};

/// The items that the caller streams to a call. Plain code iterates over it with `for`, without the GIL while it waits; code of an
/// event loop with `async for`. Collected before its end, it is closed.
#[pyclass(frozen, module = "snakepit")]
#[derive(Debug)]
pub(crate) struct Input {
    call_id: u64,
    place: Place,
    over: AtomicBool,
}

impl Input {
    pub(crate) fn new(call_id: u64, place: Place) -> Self {
        let over = AtomicBool::new(false);
        Self { call_id, place, over }
    }

    /// The next item; `Err` with the waiter's number if it has to be waited for.
    fn step<'py>(
        &self,
        py: Python<'py>,
        waited: bool,
        waiter: impl FnOnce(u64) -> Waiter,
    ) -> PyResult<Result<Option<Bound<'py, PyAny>>, u64>> {
        if self.over.load(Ordering::Relaxed) {
            return Ok(Ok(None));
        }
        // The worker is asked for each time: a signal's handler may have forked, and the child is none.
        let Some(shared) = shared() else {
            return Err(self.fail(
                py,
                0,
                failure(Kind::Cancelled, "this process is no worker of a host"),
            ));
        };
        let (number, next) = shared.host_calls.next_item(self.call_id, waiter);
        match next {
            Next::Wait => Ok(Err(number)),
            Next::Item(index, item) => self.decode(py, index, &item).map(|item| Ok(Some(item))),
            Next::End => {
                self.close();
                Ok(Ok(None))
            }
            Next::Failed(index, error) => Err(self.fail(py, index, error)),
            Next::Cancelled(_) if waited => Err(cancelled(py, Some(self.place.number()))),
            Next::Cancelled(index) => {
                Err(self.fail(py, index, failure(Kind::Cancelled, "the call was cancelled")))
            }
        }
    }

    fn decode<'py>(&self, py: Python<'py>, index: u64, item: &Value) -> PyResult<Bound<'py, PyAny>> {
        match item.decode(py) {
            Ok(item) => Ok(item),
            Err(DecodeError::Invalid(message, path)) => {
                let message = format!("{} {message}", path.render(&format!("input[{index}]")));
                Err(self.raise(py, message, "bad_item", index, Vec::new()))
            }
            Err(DecodeError::Raised(error)) => Err(error),
        }
    }

    /// There is no next item, and none after it.
    fn fail(&self, py: Python<'_>, index: u64, error: HostError) -> PyErr {
        let (message, kind) = match error.kind() {
            Kind::BadArguments => (format!("input[{index}]: {}", error.message), "bad_item"),
            Kind::Cancelled => (error.message, "cancelled"),
            _ => (error.message, "failed"),
        };
        self.raise(py, message, kind, index, error.causes)
    }

    fn raise(&self, py: Python<'_>, message: String, kind: &str, index: u64, causes: Vec<String>) -> PyErr {
        self.close();
        let built = PyModule::import(py, "snakepit._input")
            .and_then(|module| module.getattr(intern!(py, "error")))
            .and_then(|build| build.call1((message, kind, index, causes)));
        built.map_or_else(|error| error, PyErr::from_value)
    }
}

#[pymethods]
impl Input {
    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let mut waited = false;
        loop {
            let mut parker = None;
            let waiter = |_| Waiter::Thread(Arc::clone(parker.insert(Arc::new(Parker::default()))));
            match self.step(py, waited, waiter)? {
                Ok(item) => return Ok(item),
                Err(_) => {
                    if let Some(parker) = parker {
                        py.detach(|| parker.wait(None));
                    }
                    py.check_signals()?;
                    waited = true;
                }
            }
        }
    }

    fn __aiter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __anext__<'py>(this: Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        static NEXT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let py = this.py();
        NEXT.import(py, "snakepit._host_aio", "next_item")?.call1((this,))
    }

    /// For an event loop: `(None, item)`, or the number by which the inbox tells that there may be one, and `None`.
    fn _step<'py>(
        &self,
        py: Python<'py>,
        inbox: &Bound<'py, HostInbox>,
    ) -> PyResult<(Option<u64>, Option<Bound<'py, PyAny>>)> {
        let inbox = inbox.get().inbox();
        match self.step(py, false, |number| Waiter::Loop(inbox, number))? {
            Ok(Some(item)) => Ok((None, Some(item))),
            Ok(None) => Err(PyStopAsyncIteration::new_err(())),
            Err(number) => Ok((Some(number), None)),
        }
    }

    /// Leaves the input: the caller's stream is dropped, and there are no more items.
    fn close(&self) {
        if !self.over.swap(true, Ordering::Relaxed)
            && let Some(shared) = shared()
        {
            shared.host_calls.leave_input(self.call_id);
        }
    }

    fn __repr__(&self) -> String {
        format!("<snakepit.Input of call {}>", self.call_id)
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.close();
    }
}
