//! The native module of the Python package `snakepit`: everything of a worker that must not wait for the GIL,
//! and everything that must be fast.
//!
//! Two threads matter. Python's **main thread** runs user code; between calls it waits in a runtime of its own
//! without the GIL (`main_thread`). The **control thread** never attaches to Python (`control_thread`): it
//! answers the host, delivers cancels as a signal to the main thread, and ends the process tree when the host
//! goes away, whatever the main thread is doing. What they share is in `shared`.
//!
//! On an inherited channel, with one call at a time, the sockets of calls and of streams are served by the main thread itself, so that a call
//! crosses no threads. On a Unix path or TCP address, and where several calls run side by side, the control thread serves all
//! connections and calls take a hop: to the main thread, to one of several threads (`threads`), or to the event loop on the main thread (`tasks`).

mod arena;
mod call;
mod channel;
mod codec;
mod concurrency;
mod control;
mod control_thread;
mod credit;
mod data;
mod entry;
mod events;
mod forks;
mod host;
mod host_calls;
mod inherited;
mod jobs;
mod lenient;
mod listen;
mod main_thread;
mod native;
mod nest;
mod panic;
mod place;
mod router;
mod serve;
mod shared;
mod slot;
mod standstill;
mod sys;
mod tasks;
mod threads;
mod timers;
mod tree;

use pyo3::prelude::*;

// All of it takes locks of its own, so a free-threaded interpreter need not bring its GIL back for it.
#[pymodule(name = "_native", gil_used = false)]
fn native_module(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("CANCEL_SIGNAL", sys::cancel_signal())?;
    module.add_function(wrap_pyfunction!(entry::serve, module)?)?;
    module.add_class::<forks::Forks>()?;
    module.add_class::<forks::Nests>()?;
    module.add_function(wrap_pyfunction!(forks::receive_setup, module)?)?;
    module.add_function(wrap_pyfunction!(forks::fill_holes, module)?)?;
    native::register(module)?;
    arena::register(module)?;
    host_calls::register(module)
}
