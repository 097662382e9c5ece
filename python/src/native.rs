//! What the Python side of the package asks of the native side.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use pyo3::{
    exceptions::{PyTypeError, PyValueError},
    prelude::*,
    types::PyBytes,
};
use snakepit_proto::v1::LogRecord;
use tokio::time::Instant;

use crate::{
    codec::{DecodeError, Decoder, EncodeError, Encoder},
    place::{Place, Runner},
    shared::Shared,
    sys,
};

static SHARED: OnceLock<Arc<Shared>> = OnceLock::new();
/// Set in a child of fork: another thread of the parent may have held any lock at that moment, so the child
/// takes none.
static FORKED: AtomicBool = AtomicBool::new(false);
/// The channel's descriptors, for a child of fork to close.
static DESCRIPTORS: OnceLock<Vec<i32>> = OnceLock::new();

/// The worker of this process, unless it is none or a fork of one.
pub(crate) fn shared() -> Option<&'static Arc<Shared>> {
    if FORKED.load(Ordering::Relaxed) {
        None
    } else {
        SHARED.get()
    }
}

/// Makes the worker known; false when there is one already.
pub(crate) fn publish(shared: &Arc<Shared>, descriptors: Vec<i32>) -> bool {
    SHARED.set(Arc::clone(shared)).is_ok() && DESCRIPTORS.set(descriptors).is_ok()
}

/// Adds the functions to the module.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(take_interrupt, module)?)?;
    module.add_function(wrap_pyfunction!(take_interrupts, module)?)?;
    module.add_function(wrap_pyfunction!(interrupt_later, module)?)?;
    module.add_function(wrap_pyfunction!(interrupt_thread, module)?)?;
    module.add_function(wrap_pyfunction!(current_call, module)?)?;
    module.add_function(wrap_pyfunction!(current_session, module)?)?;
    module.add_function(wrap_pyfunction!(emit_log, module)?)?;
    module.add_function(wrap_pyfunction!(request_shutdown, module)?)?;
    module.add_function(wrap_pyfunction!(after_fork, module)?)?;
    module.add_function(wrap_pyfunction!(encode, module)?)?;
    module.add_function(wrap_pyfunction!(decode, module)?)
}

/// Is there a cancel for the call that the main thread runs now? True once per cancel.
#[pyfunction]
fn take_interrupt() -> bool {
    shared().is_some_and(|shared| shared.slot.take_interrupt())
}

/// The other calls that are to be interrupted, once per cancel: the place of each, and its thread, 0 for a task.
#[pyfunction]
fn take_interrupts() -> Vec<(u64, u64)> {
    let taken = shared().map_or_else(Vec::new, |shared| shared.slot.take_interrupts());
    let number = |(place, runner): (Place, Runner)| {
        let thread = if let Runner::Thread(thread) = runner {
            thread
        } else {
            0
        };
        (place.number(), thread)
    };
    taken.into_iter().map(number).collect()
}

/// Has the call at `place`, or the only one, interrupted in a moment: right now its code is where it must not be.
#[pyfunction]
fn interrupt_later(place: Option<u64>) {
    if let Some(shared) = shared() {
        shared.slot.interrupt_later(shared.place(place));
    }
}

/// Raises an exception in the thread that runs the call at `place`, unless its user code has ended.
#[pyfunction]
fn interrupt_thread(place: u64, exception: &Bound<'_, PyAny>) {
    if let Some(shared) = shared() {
        let set = |thread| sys::set_exception(exception, thread);
        shared.slot.set_exception(Place::from_number(place), set);
    }
}

/// The call at `place`, or the only one: id, function, seconds left (if it has a deadline), told to stop.
#[pyfunction]
fn current_call(place: Option<u64>) -> Option<(u64, String, Option<f64>, bool)> {
    let shared = shared()?;
    let (info, cancelled) = shared.slot.current(shared.place(place))?;
    let left = info
        .deadline
        .map(|deadline| deadline.saturating_duration_since(Instant::now()).as_secs_f64());
    Some((info.call_id, info.function.to_string(), left, cancelled))
}

/// The session of the call at `place`, or of the only one.
#[pyfunction]
fn current_session(place: Option<u64>) -> Option<u64> {
    let shared = shared()?;
    shared.slot.current_session(shared.place(place))
}

/// Takes a log record for the host. False means that nobody is there to take it.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "a record has that many parts")]
fn emit_log(
    place: Option<u64>,
    level: u32,
    logger: String,
    message: String,
    exception: String,
    file: String,
    line: u32,
    fields: BTreeMap<String, String>,
) -> bool {
    let Some(shared) = shared() else { return false };
    let call_id = shared.slot.current_id(shared.place(place));
    let fields = fields.into_iter().collect();
    shared.events.push(LogRecord {
        level,
        logger,
        message,
        exception,
        call_id,
        file,
        line,
        fields,
    })
}

/// Asks the worker to end.
#[pyfunction]
fn request_shutdown(grace_ms: u64) {
    if let Some(shared) = shared() {
        shared.request_shutdown(Duration::from_millis(grace_ms));
    }
}

/// Runs in a child of fork: it is no worker, and its copies of the channel are closed.
#[pyfunction]
fn after_fork() {
    if !FORKED.swap(true, Ordering::Relaxed) {
        sys::close_in_child(DESCRIPTORS.get().map_or(&[], Vec::as_slice));
    }
}

/// The MessagePack form of a value.
#[pyfunction]
fn encode<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    match Encoder::encode(value) {
        Ok(bytes) => Ok(PyBytes::new(value.py(), &bytes)),
        Err(EncodeError::Unrepresentable(message, path)) => Err(PyTypeError::new_err(format!(
            "{} {message}",
            path.render("value")
        ))),
        Err(EncodeError::Raised(error)) => Err(error),
    }
}

/// The value of a MessagePack form.
#[pyfunction]
fn decode<'py>(data: &Bound<'py, PyBytes>) -> PyResult<Bound<'py, PyAny>> {
    match Decoder::new(data.py(), data.as_bytes()).single() {
        Ok(value) => Ok(value),
        Err(DecodeError::Invalid(message, path)) => Err(PyValueError::new_err(format!(
            "{} {message}",
            path.render("value")
        ))),
        Err(DecodeError::Raised(error)) => Err(error),
    }
}
