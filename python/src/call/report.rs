//! Python exceptions as `CallError`s.

use pyo3::{prelude::*, types::PyAny};
use snakepit_proto::v1::{CallError, Exception, call_error::Kind};

use super::Engine;
use crate::place::Place;

/// What `snakepit._runtime` says about a name or an adapter it could not provide: kind, message, near names,
/// and the exception behind it.
pub(super) type Failure<'py> = (i32, String, Vec<String>, Option<Bound<'py, PyAny>>);

/// One exception of a chain: type, message, traceback, link.
type Part = (String, String, String, i32);

impl Engine {
    /// What happened, in full. Ends the user code part of the call: from here on a cancel has nothing to stop.
    pub(super) fn report(&self, py: Python<'_>, place: Place, error: &PyErr) -> Box<CallError> {
        let cancelled = self.shared.slot.is_cancelled(place);
        self.leave(py, place);
        Box::new(self.describe(py, &exception(py, error), cancelled))
    }

    /// The same for a failure that has a kind and a message of its own.
    pub(super) fn failure(&self, py: Python<'_>, place: Place, failure: Failure<'_>) -> Box<CallError> {
        let (kind, message, suggestions, exception) = failure;
        let cancelled = self.shared.slot.is_cancelled(place);
        self.leave(py, place);
        let described = match exception {
            Some(exception) => self.describe(py, &exception, cancelled),
            None => CallError::default(),
        };
        if described.kind() == Kind::Cancelled {
            return Box::new(described);
        }
        Box::new(CallError {
            kind,
            message,
            suggestions,
            ..described
        })
    }

    fn describe(&self, py: Python<'_>, exception: &Bound<'_, PyAny>, cancelled: bool) -> CallError {
        let described = self
            .glue
            .report
            .bind(py)
            .call1((exception, cancelled))
            .and_then(|described| described.extract::<(i32, String, Vec<Part>, i32)>());
        match described {
            Ok((kind, message, parts, exit_code)) => CallError {
                kind,
                message,
                exceptions: parts
                    .into_iter()
                    .map(|(r#type, message, traceback, link)| Exception {
                        r#type,
                        message,
                        traceback,
                        link,
                    })
                    .collect(),
                exit_code,
                ..CallError::default()
            },
            // Out of memory, or an exception class that breaks even careful code: say at least its name.
            Err(_) => {
                let name = exception
                    .get_type()
                    .name()
                    .map_or_else(|_| "?".to_owned(), |name| name.to_string());
                let message = format!("{name} (the exception could not be described)");
                CallError {
                    kind: Kind::Raised.into(),
                    message,
                    ..CallError::default()
                }
            }
        }
    }
}

/// The exception object with its traceback: before Python 3.12 the two are apart until they are asked for so.
pub(super) fn exception<'py>(py: Python<'py>, error: &PyErr) -> Bound<'py, PyAny> {
    error.clone_ref(py).into_value(py).into_bound(py).into_any()
}
