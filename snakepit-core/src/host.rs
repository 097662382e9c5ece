//! Functions of the host that Python code in a worker can call.
//!
//! A closure gets the positional arguments decoded, or a [`HostCall`] with everything there is to know. In Python it is
//! `snakepit.context.host.NAME(...)`.
//!
//! ```
//! use snakepit_core::host::{HostCall, HostFunctions};
//!
//! let functions = HostFunctions::new()
//!     .with_function("add", |(a, b): (i64, i64)| async move {
//!         a.checked_add(b).ok_or("the sum is out of range")
//!     })
//!     .with_call_function("whoami", |call: HostCall| async move {
//!         Ok::<_, std::convert::Infallible>(call.worker().to_string())
//!     });
//! assert_eq!(functions.names().collect::<Vec<_>>(), ["add", "whoami"]);
//! ```
//!
//! Each call runs in a task of its own, on the runtime that started the worker. Its future is **dropped** when nobody waits for
//! it any more: the surrounding call was cancelled or is past its deadline, Python gave up, the worker is gone.

mod call;
mod error;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    error::Error,
    fmt,
    sync::Arc,
};

pub use call::{ArgumentsError, HostCall};
pub(crate) use error::{failure, told};
use serde::{Serialize, de::DeserializeOwned};
use snakepit_proto::{
    MAX_HOST_VALUE,
    v1::{HostError, host_error::Kind},
};

use crate::{
    rpc::codec::{self, Encoded},
    worker::BoxFuture,
};

/// What a host function comes to: an encoded value, or what Python is told.
pub(crate) type Outcome = Result<Encoded, HostError>;
pub(crate) type HostFunction = dyn Fn(HostCall) -> BoxFuture<Outcome> + Send + Sync;

/// The functions of a host, by name. Clones share them.
#[derive(Clone, Default)]
pub struct HostFunctions {
    functions: BTreeMap<String, Arc<HostFunction>>,
    problems: Vec<String>,
}

impl HostFunctions {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a function that takes positional arguments: a tuple, or what else deserialises from a sequence; `()` for none.
    ///
    /// In Python an error of the closure is a `snakepit.HostError` with its message and its chain of sources; so is a panic. Arguments that
    /// do not fit, and keyword arguments, are errors before the closure is called.
    pub fn with_function<A, R, E, F, Fut>(self, name: impl Into<String>, function: F) -> Self
    where
        A: DeserializeOwned,
        R: Serialize,
        E: Into<Box<dyn Error + Send + Sync>>,
        F: Fn(A) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, E>> + Send + 'static,
    {
        self.add(name.into(), move |call| {
            let arguments = call.positional::<A>().map(&function);
            Box::pin(async move {
                match arguments {
                    Ok(future) => conclude(future.await),
                    Err(error) => conclude::<R, _>(Err(error)),
                }
            })
        })
    }

    /// Adds a function that takes the call itself, for keyword arguments, or to know who asks and how long it may take.
    ///
    /// An [`ArgumentsError`] of the closure is told as one; for all else see [`with_function`](Self::with_function).
    pub fn with_call_function<R, E, F, Fut>(self, name: impl Into<String>, function: F) -> Self
    where
        R: Serialize,
        E: Into<Box<dyn Error + Send + Sync>>,
        F: Fn(HostCall) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, E>> + Send + 'static,
    {
        self.add(name.into(), move |call| {
            let future = function(call);
            Box::pin(async move { conclude(future.await) })
        })
    }

    fn add(
        mut self,
        name: String,
        function: impl Fn(HostCall) -> BoxFuture<Outcome> + Send + Sync + 'static,
    ) -> Self {
        if !is_attribute(&name) {
            self.problems.push(format!(
                "the host function {name:?} cannot be reached from Python: its name must be ASCII letters, digits and underscores, begin with a letter, and be no keyword"
            ));
            return self;
        }
        match self.functions.entry(name) {
            Entry::Vacant(place) => {
                place.insert(Arc::new(function));
            }
            Entry::Occupied(taken) => self
                .problems
                .push(format!("the host function {:?} is registered twice", taken.key())),
        }
        self
    }

    /// Their names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.functions.keys().map(String::as_str)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }

    /// What was not added, and why: names that cannot be used, or were twice.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    pub(crate) fn get(&self, name: &str) -> Option<Arc<HostFunction>> {
        self.functions.get(name).cloned()
    }
}

impl fmt::Debug for HostFunctions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.functions.keys()).finish()
    }
}

/// The outcome of what a closure returned.
fn conclude<R: Serialize, E: Into<Box<dyn Error + Send + Sync>>>(result: Result<R, E>) -> Outcome {
    let value = result.map_err(|error| error::told(&*error.into()))?;
    let encoded = codec::encode_aside(&value).map_err(|error| {
        failure(
            Kind::BadResult,
            format!("the result cannot be represented: {error}"),
        )
    })?;
    if encoded.len() > MAX_HOST_VALUE {
        let message = format!(
            "the result takes {} bytes, a host call can carry {MAX_HOST_VALUE}",
            encoded.len()
        );
        return Err(failure(Kind::BadResult, message));
    }
    Ok(encoded)
}

/// Whether Python's syntax has it as an attribute. Those with an underscore in front are Python's own to ask for.
fn is_attribute(name: &str) -> bool {
    const KEYWORDS: [&str; 35] = [
        "False", "None", "True", "and", "as", "assert", "async", "await", "break", "class", "continue",
        "def", "del", "elif", "else", "except", "finally", "for", "from", "global", "if", "import", "in",
        "is", "lambda", "nonlocal", "not", "or", "pass", "raise", "return", "try", "while", "with", "yield",
    ];
    name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name
            .chars()
            .all(|rest| rest.is_ascii_alphanumeric() || rest == '_')
        && !KEYWORDS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> HostFunctions {
        HostFunctions::new().with_function(name, |(): ()| async { Ok::<_, String>(()) })
    }

    #[test]
    fn names_are_what_python_can_write_after_a_dot() {
        for name in ["f", "load_user2", "X", "match"] {
            assert!(named(name).problems().is_empty(), "{name}");
        }
        for name in ["", "_f", "__len__", "2f", "a.b", "a-b", "é", "class", "None"] {
            let functions = named(name);
            assert!(functions.is_empty(), "{name}");
            assert!(functions.problems()[0].contains(&format!("{name:?}")), "{name}");
        }
    }

    #[test]
    fn a_name_is_used_once() {
        let functions = named("f").with_function("f", |(): ()| async { Ok::<_, String>(()) });
        assert_eq!(
            functions.problems(),
            ["the host function \"f\" is registered twice"]
        );
    }
}
