//! What a worker answers instead of a result, and the one place where it becomes an error of ours.

use std::fmt::Write as _;

use snakepit_proto::v1;

/// The kind of a [`RemoteError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RemoteErrorKind {
    /// User code raised an exception.
    Raised,
    /// The module does not exist or failed to import.
    UnknownModule,
    /// The module has no such function.
    UnknownFunction,
    /// The arguments do not fit.
    BadArguments,
    /// The result cannot be represented.
    BadResult,
    /// The call was cancelled.
    Cancelled,
    /// User code called `sys.exit`.
    SystemExit,
    /// The worker is shutting down and did not start the call.
    ShuttingDown,
    /// The worker was busy and did not start the call.
    Busy,
    /// A kind this host does not know: the worker is newer.
    Other,
}

/// A call was answered with an error. The worker that answered is alive and serves on.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}{}", suggest(.suggestions))]
pub struct RemoteError {
    /// What kind of error.
    pub kind: RemoteErrorKind,
    /// One line for people.
    pub message: String,
    /// The Python exception and its causes, outermost first.
    pub exceptions: Vec<RemoteException>,
    /// Near names of an unknown module or function.
    pub suggestions: Vec<String>,
    /// Where in the value the problem is, as in `result["a"][3]`.
    pub path: String,
    /// The code given to `sys.exit`.
    pub exit_code: i32,
}

/// One exception of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteException {
    /// Class name with module; builtins have no module.
    pub type_name: String,
    /// `str()` of the exception.
    pub message: String,
    /// Its traceback as Python prints it, without its causes.
    pub traceback: String,
    /// Whether it was the explicit cause (`raise ... from ...`) of the one before it in the chain.
    pub is_cause: bool,
}

fn suggest(names: &[String]) -> String {
    if names.is_empty() {
        String::new()
    } else {
        format!("; did you mean {}?", names.join(", "))
    }
}

impl RemoteError {
    pub(crate) fn protocol(message: &str) -> Self {
        Self {
            kind: RemoteErrorKind::Other,
            message: message.to_owned(),
            exceptions: Vec::new(),
            suggestions: Vec::new(),
            path: String::new(),
            exit_code: 0,
        }
    }

    /// Whether the function may have run, in part or whole. Importing its module may have run code in any case.
    ///
    /// `false` is certain, but for a function written in C without a signature that raises `TypeError` by itself: that is
    /// told as [`BadArguments`](RemoteErrorKind::BadArguments).
    pub const fn may_have_executed(&self) -> bool {
        match self.kind {
            RemoteErrorKind::UnknownModule
            | RemoteErrorKind::UnknownFunction
            | RemoteErrorKind::BadArguments
            | RemoteErrorKind::ShuttingDown
            | RemoteErrorKind::Busy => false,
            RemoteErrorKind::Raised
            | RemoteErrorKind::BadResult
            | RemoteErrorKind::Cancelled
            | RemoteErrorKind::SystemExit
            | RemoteErrorKind::Other => true,
        }
    }

    /// The exception that was raised, without its causes.
    pub fn exception(&self) -> Option<&RemoteException> {
        self.exceptions.first()
    }

    /// The whole chain as Python prints it: the first cause on top, the exception itself last.
    pub fn traceback(&self) -> String {
        let mut text = String::new();
        for (at, exception) in self.exceptions.iter().enumerate().rev() {
            text.push_str(&exception.traceback);
            if !text.ends_with('\n') && !text.is_empty() {
                text.push('\n');
            }
            if at > 0 {
                let link = if exception.is_cause {
                    "The above exception was the direct cause of the following exception:"
                } else {
                    "During handling of the above exception, another exception occurred:"
                };
                // Writing to a String cannot fail.
                let _ = write!(text, "\n{link}\n\n");
            }
        }
        text
    }
}

impl From<v1::CallError> for RemoteError {
    fn from(error: v1::CallError) -> Self {
        use v1::call_error::Kind;
        let kind = match error.kind() {
            Kind::Raised => RemoteErrorKind::Raised,
            Kind::UnknownModule => RemoteErrorKind::UnknownModule,
            Kind::UnknownFunction => RemoteErrorKind::UnknownFunction,
            Kind::BadArguments => RemoteErrorKind::BadArguments,
            Kind::BadResult => RemoteErrorKind::BadResult,
            Kind::Cancelled => RemoteErrorKind::Cancelled,
            Kind::SystemExit => RemoteErrorKind::SystemExit,
            Kind::ShuttingDown => RemoteErrorKind::ShuttingDown,
            Kind::Busy => RemoteErrorKind::Busy,
            Kind::Unspecified => RemoteErrorKind::Other,
        };
        let exceptions = error.exceptions.into_iter().map(|exception| RemoteException {
            is_cause: exception.link() == v1::exception::Link::Cause,
            type_name: exception.r#type,
            message: exception.message,
            traceback: exception.traceback,
        });
        Self {
            kind,
            message: error.message,
            exceptions: exceptions.collect(),
            suggestions: error.suggestions,
            path: error.path,
            exit_code: error.exit_code,
        }
    }
}

/// An error and its sources on one line, outermost first.
pub fn error_chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Writing to a String cannot fail.
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}
