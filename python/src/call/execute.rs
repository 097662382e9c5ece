//! One call, from request to result object.

use pyo3::{exceptions::PyTypeError, intern, prelude::*, types::PyTuple};
use snakepit_proto::v1::{AdapterReport, CallError, CallRequest, call_error::Kind};
use tokio::time::Instant;

use super::{
    Engine, Function,
    glue::Arguments,
    report::{Failure, exception},
};
use crate::{
    codec::{DecodeError, Decoder, EncodeError, Encoded, Encoder},
    control::micros,
    host_calls::Input,
    place::Place,
};

/// The functions that adapters offer by bare name, and the wire name of their health check or nothing.
type Offered = (Vec<String>, String);

impl Engine {
    /// Imports and looks up what a wire name stands for.
    pub(super) fn resolve<'py>(
        &self,
        py: Python<'py>,
        place: Place,
        name: &str,
    ) -> Result<Bound<'py, PyAny>, Box<CallError>> {
        let answer = self.glue.resolve.bind(py).call1((name,));
        self.stay_in_parent(py, &answer);
        let answer = answer.and_then(|answer| answer.extract::<(Bound<'py, PyAny>, Option<Failure<'py>>)>());
        match answer {
            Ok((callable, None)) => Ok(callable),
            Ok((_, Some(failure))) => Err(self.failure(py, place, failure)),
            Err(error) => Err(self.report(py, place, &error)),
        }
    }

    /// Imports adapters and runs their start hooks.
    pub(super) fn import(
        &self,
        py: Python<'_>,
        adapters: &[String],
        paths: &[String],
        started: Instant,
    ) -> Result<AdapterReport, Box<CallError>> {
        let answer = self
            .glue
            .prepare
            .bind(py)
            .call1((adapters, paths, self.shared.log_level()));
        self.stay_in_parent(py, &answer);
        let answer = answer.and_then(|answer| answer.extract::<(Option<Offered>, Option<Failure<'_>>)>());
        match answer {
            Ok((offered, None)) => {
                let (functions, health) = offered.unwrap_or_default();
                Ok(AdapterReport {
                    functions,
                    import_us: micros(started.elapsed()),
                    health,
                })
            }
            Ok((_, Some(failure))) => Err(self.failure(py, Place::NONE, failure)),
            Err(error) => Err(self.report(py, Place::NONE, &error)),
        }
    }

    /// Decodes the arguments, calls the function, and awaits what it returns if that is a coroutine.
    pub(super) fn invoke<'py>(
        &self,
        py: Python<'py>,
        place: Place,
        function: &Function,
        request: &CallRequest,
    ) -> Result<Bound<'py, PyAny>, Box<CallError>> {
        let result = self.apply(py, place, function, request)?;
        if self.is_coroutine(&result) {
            self.run(py, place, result)
        } else {
            Ok(result)
        }
    }

    /// Decodes the arguments and calls the function.
    pub(super) fn apply<'py>(
        &self,
        py: Python<'py>,
        place: Place,
        function: &Function,
        request: &CallRequest,
    ) -> Result<Bound<'py, PyAny>, Box<CallError>> {
        let arguments = self.arguments(py, place, request)?;
        let callable = function.callable.bind(py);
        let result = if request.batch {
            let Arguments { positional, keyword } = &arguments;
            self.glue
                .batch
                .bind(py)
                .call1((callable, positional, keyword.as_ref()))
        } else {
            callable.call(&arguments.positional, arguments.keyword.as_ref())
        };
        self.stay_in_parent(py, &result);
        result.map_err(|error| self.call_failed(py, place, callable, &arguments, &error))
    }

    pub(super) fn is_coroutine(&self, result: &Bound<'_, PyAny>) -> bool {
        result.get_type().is(self.glue.coroutine.bind(result.py()))
    }

    fn arguments<'py>(
        &self,
        py: Python<'py>,
        place: Place,
        request: &CallRequest,
    ) -> Result<Arguments<'py>, Box<CallError>> {
        let (args, kwargs) = match &request.blocks {
            Some(blocks) => (&blocks.args[..], &blocks.kwargs[..]),
            None => Default::default(),
        };
        let positional = Decoder::with_blocks(py, &request.args, args)
            .positional()
            .map_err(|error| self.undecodable(py, place, error, "args"))?;
        let keyword = Decoder::with_blocks(py, &request.kwargs, kwargs)
            .keyword()
            .map_err(|error| self.undecodable(py, place, error, "kwargs"))?;
        let positional = if request.input_credit == 0 {
            positional
        } else {
            self.input_first(place, request, &positional)
                .map_err(|error| self.report(py, place, &error))?
        };
        Ok(Arguments { positional, keyword })
    }

    /// The positional arguments, after the iterator over the call's input.
    fn input_first<'py>(
        &self,
        place: Place,
        request: &CallRequest,
        others: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let py = others.py();
        let call_id = request.call_id;
        self.shared.host_calls.open_input(call_id, request.input_credit);
        // A cancel that came before finds it only here.
        if self.shared.slot.is_cancelled(place) {
            self.shared.host_calls.cancel_input(call_id);
        }
        let input = Bound::new(py, Input::new(call_id, place))?.into_any();
        PyTuple::new(
            py,
            std::iter::once(input).chain(others.iter()).collect::<Vec<_>>(),
        )
    }

    fn undecodable(&self, py: Python<'_>, place: Place, error: DecodeError, root: &str) -> Box<CallError> {
        match error {
            DecodeError::Invalid(message, path) => located(Kind::BadArguments, &path.render(root), &message),
            DecodeError::Raised(error) => self.report(py, place, &error),
        }
    }

    /// Awaits on the worker's event loop.
    pub(super) fn run<'py>(
        &self,
        py: Python<'py>,
        place: Place,
        awaitable: Bound<'py, PyAny>,
    ) -> Result<Bound<'py, PyAny>, Box<CallError>> {
        let result = self.glue.run.bind(py).call1((awaitable,));
        self.stay_in_parent(py, &result);
        result.map_err(|error| self.report(py, place, &error))
    }

    /// The MessagePack form of a result or an item.
    pub(super) fn encode(
        &self,
        py: Python<'_>,
        place: Place,
        value: Bound<'_, PyAny>,
        root: &str,
    ) -> Result<Encoded, Box<CallError>> {
        match Encoder::encode_for_host(&value) {
            Ok(encoded) => Ok(encoded),
            // A future, or a coroutine that was compiled: awaitable, but no coroutine object.
            Err(EncodeError::Unrepresentable(..)) if is_awaitable(&value) => {
                let value = self.run(py, place, value)?;
                Encoder::encode_for_host(&value).map_err(|error| self.unencodable(py, place, error, root))
            }
            Err(error) => Err(self.unencodable(py, place, error, root)),
        }
    }

    fn unencodable(&self, py: Python<'_>, place: Place, error: EncodeError, root: &str) -> Box<CallError> {
        match error {
            EncodeError::Unrepresentable(message, path) => {
                located(Kind::BadResult, &path.render(root), &message)
            }
            EncodeError::Raised(error) => self.report(py, place, &error),
        }
    }

    /// A `TypeError` without a frame was raised by the act of calling, or by a function written in C.
    fn call_failed(
        &self,
        py: Python<'_>,
        place: Place,
        callable: &Bound<'_, PyAny>,
        arguments: &Arguments<'_>,
        error: &PyErr,
    ) -> Box<CallError> {
        let mut report = self.report(py, place, error);
        if error.is_instance_of::<PyTypeError>(py) && error.traceback(py).is_none() {
            let misfit = self.glue.misfit.bind(py).call1((
                callable,
                &arguments.positional,
                arguments.keyword.as_ref(),
            ));
            // If the signature cannot be told, the report stands as it is.
            if let Ok(Some(message)) = misfit.and_then(|message| message.extract::<Option<String>>()) {
                report.kind = Kind::BadArguments.into();
                report.message = message;
            }
        }
        report
    }

    /// A child that user code forked and that came back from it must not touch the channel: it leaves.
    pub(super) fn stay_in_parent(&self, py: Python<'_>, result: &PyResult<Bound<'_, PyAny>>) {
        if std::process::id() == self.shared.identity.pid {
            return;
        }
        let error = result.as_ref().err().map(|error| exception(py, error));
        // It does not return; should it fail, the child leaves all the same.
        let _ = self.glue.leave_child.bind(py).call1((error,));
        crate::sys::exit_now(1)
    }
}

fn is_awaitable(value: &Bound<'_, PyAny>) -> bool {
    value.getattr(intern!(value.py(), "__await__")).is_ok()
}

/// An error about a place in a value.
pub(super) fn located(kind: Kind, path: &str, message: &str) -> Box<CallError> {
    Box::new(CallError {
        kind: kind.into(),
        message: format!("{path} {message}"),
        path: path.to_owned(),
        ..CallError::default()
    })
}
