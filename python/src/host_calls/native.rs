//! What `snakepit._host` asks of the native side.

use std::{sync::Arc, time::Duration};

use pyo3::{
    exceptions::PyOSError,
    intern,
    prelude::*,
    types::{PyDict, PyTuple},
};
use snakepit_proto::{
    MAX_HOST_VALUE,
    v1::{HostError, host_error::Kind},
};
use tokio::time::Instant;

use super::{
    Deadline, Input, Outcome, Request, failure,
    waiter::{Inbox, Parker, Waiter},
};
use crate::{
    codec::{DecodeError, EncodeError, Encoded, Encoder},
    native::shared,
    place::Place,
    shared::Shared,
    slot::CallInfo,
    sys,
};

/// How long the host has, after the deadline of a call, to cancel it.
const CANCEL_COMES: Duration = Duration::from_secs(1);

/// Adds the functions to the module.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Input>()?;
    module.add_class::<HostInbox>()?;
    module.add_class::<HostCallTask>()?;
    module.add_function(wrap_pyfunction!(host_functions, module)?)?;
    module.add_function(wrap_pyfunction!(host_has, module)?)?;
    module.add_function(wrap_pyfunction!(host_call, module)?)?;
    module.add_function(wrap_pyfunction!(host_begin, module)?)
}

/// The names of the host's functions.
#[pyfunction]
fn host_functions() -> Vec<String> {
    shared().map_or_else(Vec::new, |shared| shared.host_calls.functions())
}

/// Whether the host has a function.
#[pyfunction]
fn host_has(name: &str) -> bool {
    shared().is_some_and(|shared| shared.host_calls.has_function(name))
}

/// Calls a function of the host and waits for its answer without the GIL. Signals are handled meanwhile, the cancel of the
/// surrounding call among them.
#[pyfunction]
fn host_call<'py>(
    py: Python<'py>,
    place: Option<u64>,
    function: &str,
    args: &Bound<'py, PyTuple>,
    kwargs: &Bound<'py, PyDict>,
    timeout: Option<f64>,
) -> PyResult<Bound<'py, PyAny>> {
    let prepared = Prepared::new(py, place, function, args, kwargs, timeout)?;
    let until = prepared.until();
    let parker = Arc::new(Parker::default());
    let waiter = Waiter::Thread(Arc::clone(&parker));
    let call = prepared.begin(py, |_| waiter)?;
    loop {
        py.detach(|| parker.wait(until));
        py.check_signals()?;
        if let Some(outcome) = call.take() {
            return finish(py, place, function, outcome);
        }
        if until.is_some_and(|until| until <= Instant::now()) {
            return Err(overdue(py, function));
        }
    }
}

/// Where an event loop finds which of its calls have an outcome.
#[pyclass(frozen, module = "snakepit._native")]
pub(super) struct HostInbox(Arc<Inbox>);

#[pymethods]
impl HostInbox {
    #[new]
    fn new() -> PyResult<Self> {
        let inbox = Inbox::new().map_err(PyOSError::new_err)?;
        Ok(Self(Arc::new(inbox)))
    }

    /// A descriptor that is readable while there is something to take.
    fn fileno(&self) -> i32 {
        self.0.descriptor()
    }

    /// The numbers of the calls that have an outcome.
    fn take(&self) -> Vec<u64> {
        self.0.take()
    }
}

impl HostInbox {
    pub(super) fn inbox(&self) -> Arc<Inbox> {
        Arc::clone(&self.0)
    }
}

/// A call that an event loop waits for. Collected before it is finished, it is given up: the code of a call can be interrupted
/// between any two steps.
#[pyclass(frozen, module = "snakepit._native")]
struct HostCallTask {
    function: String,
    call: Open,
    until: Option<Instant>,
}

#[pymethods]
impl HostCallTask {
    /// The number by which an inbox names it.
    #[getter]
    fn number(&self) -> u64 {
        self.call.0
    }

    /// The seconds to wait for it.
    #[getter]
    fn left(&self) -> Option<f64> {
        let left = |until: Instant| until.saturating_duration_since(Instant::now());
        self.until.map(|until| left(until).as_secs_f64())
    }

    /// The result; a call that has none by now is past its deadline.
    fn finish<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self.call.take() {
            Some(outcome) => finish(py, None, &self.function, outcome),
            None => Err(overdue(py, &self.function)),
        }
    }

    /// Gives the call up, unless it is finished.
    fn abandon(&self) {
        self.call.abandon();
    }
}

/// Calls a function of the host for an event loop.
#[pyfunction]
fn host_begin<'py>(
    py: Python<'py>,
    inbox: &Bound<'py, HostInbox>,
    place: Option<u64>,
    function: String,
    args: &Bound<'py, PyTuple>,
    kwargs: &Bound<'py, PyDict>,
    timeout: Option<f64>,
) -> PyResult<HostCallTask> {
    let prepared = Prepared::new(py, place, &function, args, kwargs, timeout)?;
    let until = prepared.until();
    let inbox = inbox.get().inbox();
    let call = prepared.begin(py, |id| Waiter::Loop(inbox, id))?;
    Ok(HostCallTask {
        function,
        call,
        until,
    })
}

/// A call that is ready to be made.
struct Prepared<'a> {
    shared: &'static Shared,
    function: &'a str,
    request: Request,
    deadline: Option<Deadline>,
}

impl<'a> Prepared<'a> {
    fn new(
        py: Python<'_>,
        place: Option<u64>,
        function: &'a str,
        args: &Bound<'_, PyTuple>,
        kwargs: &Bound<'_, PyDict>,
        timeout: Option<f64>,
    ) -> PyResult<Self> {
        let Some(shared) = shared() else {
            let error = failure(Kind::UnknownFunction, "this process is no worker of a host");
            return Err(raise(py, function, error));
        };
        let encode = |value: &Bound<'_, PyAny>, root| match Encoder::encode_for_host(value) {
            Ok(bytes) => Ok(bytes),
            Err(EncodeError::Unrepresentable(message, path)) => {
                let message = format!("{} {message}", path.render(root));
                Err(raise(py, function, failure(Kind::BadArguments, message)))
            }
            Err(EncodeError::Raised(error)) => Err(error),
        };
        let args = if args.is_empty() {
            Encoded::default()
        } else {
            encode(args.as_any(), "args")?
        };
        let kwargs = if kwargs.is_empty() {
            Encoded::default()
        } else {
            encode(kwargs.as_any(), "kwargs")?
        };
        let len = args.len() + kwargs.len();
        if len > MAX_HOST_VALUE {
            let message = format!("the arguments take {len} bytes, a host call can carry {MAX_HOST_VALUE}");
            return Err(raise(py, function, failure(Kind::BadArguments, message)));
        }
        let surrounding = surrounding(shared, shared.place(place));
        let timeout = timeout.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX));
        let own = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let own = own.map(|at| Deadline { at, inherited: false });
        let inherited = surrounding.as_ref().and_then(|call| call.deadline);
        let inherited = inherited.map(|at| Deadline { at, inherited: true });
        let request = Request {
            call_id: surrounding.map(|call| call.call_id),
            function: function.to_owned(),
            args,
            kwargs,
        };
        Ok(Self {
            shared,
            function,
            request,
            deadline: own
                .into_iter()
                .chain(inherited)
                .min_by_key(|deadline| deadline.at),
        })
    }

    /// How long to wait for the outcome.
    fn until(&self) -> Option<Instant> {
        let deadline = self.deadline?;
        Some(if deadline.inherited {
            deadline.at + CANCEL_COMES
        } else {
            deadline.at
        })
    }

    fn begin(self, py: Python<'_>, waiter: impl FnOnce(u64) -> Waiter) -> PyResult<Open> {
        match self.shared.host_calls.begin(self.request, self.deadline, waiter) {
            Ok(id) => Ok(Open(id)),
            Err(error) => Err(raise(py, self.function, error)),
        }
    }
}

/// The call whose code asks. Where one runs at a time it runs on the main thread; other threads are user code's own and may
/// outlive the call that started them. Where several run, code belongs to the call whose context it has.
fn surrounding(shared: &Shared, place: Option<Place>) -> Option<CallInfo> {
    if place.is_none() && !shared.slot.is_on_main_thread() {
        return None;
    }
    shared.slot.current(place).map(|(call, _)| call)
}

/// A call that was made. Dropped before its outcome is taken, it is given up.
struct Open(u64);

impl Open {
    // The worker is asked for each time: a signal's handler may have forked, and the child is none.
    fn take(&self) -> Option<Outcome> {
        shared()?.host_calls.take(self.0)
    }

    fn abandon(&self) {
        if let Some(shared) = shared() {
            shared.host_calls.abandon(self.0);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.abandon();
    }
}

fn finish<'py>(
    py: Python<'py>,
    place: Option<u64>,
    function: &str,
    outcome: Outcome,
) -> PyResult<Bound<'py, PyAny>> {
    match outcome {
        Outcome::Value(value) => match value.decode(py) {
            Ok(value) => Ok(value),
            Err(DecodeError::Invalid(message, path)) => {
                let message = format!("{} {message}", path.render("result"));
                Err(raise(py, function, failure(Kind::BadResult, message)))
            }
            Err(DecodeError::Raised(error)) => Err(error),
        },
        Outcome::Failed(error) => Err(raise(py, function, error)),
        Outcome::Cancelled => Err(cancelled(py, place)),
    }
}

/// The exception of a call that was cancelled while it waited for the host.
pub(super) fn cancelled(py: Python<'_>, place: Option<u64>) -> PyErr {
    // What is on its way to interrupt the code finds nothing left to do.
    if let Some(shared) = shared()
        && shared.slot.take_cancel(shared.place(place))
    {
        sys::clear_exception(py);
    }
    let built = PyModule::import(py, "snakepit._cancel")
        .and_then(|module| module.getattr(intern!(py, "Cancelled")))
        .and_then(|class| class.call1(("the host cancelled this call",)));
    built.map_or_else(|error| error, PyErr::from_value)
}

fn overdue(py: Python<'_>, function: &str) -> PyErr {
    raise(
        py,
        function,
        failure(Kind::Deadline, "the deadline of the call passed"),
    )
}

/// The exception, with its causes.
fn raise(py: Python<'_>, function: &str, error: HostError) -> PyErr {
    let kind = match error.kind() {
        Kind::UnknownFunction => "unknown_function",
        Kind::BadArguments => "bad_arguments",
        Kind::BadResult => "bad_result",
        Kind::Cancelled => "cancelled",
        Kind::Deadline => "deadline",
        Kind::Busy => "busy",
        // A kind that is not known here comes from a later host.
        Kind::Failed | Kind::Unspecified => "failed",
    };
    let built = PyModule::import(py, "snakepit._host")
        .and_then(|module| module.getattr(intern!(py, "error")))
        .and_then(|build| build.call1((error.message, kind, function, error.causes)));
    built.map_or_else(|error| error, PyErr::from_value)
}
