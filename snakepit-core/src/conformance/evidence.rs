//! What speaks against a backend.

use std::fmt::{self, Write as _};

/// Why a case has failed, in words.
#[derive(Debug)]
pub(super) struct Evidence(pub(super) String);

/// What a case comes to.
pub(super) type Finding = Result<(), Evidence>;

impl Evidence {
    /// An error with its causes.
    pub(super) fn of(error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            // Writing to a string does not fail.
            let _ = write!(text, ": {cause}");
            source = cause.source();
        }
        Self(text)
    }
}

impl<E: std::error::Error> From<E> for Evidence {
    fn from(error: E) -> Self {
        Self::of(&error)
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Ends the case with evidence unless a condition holds.
macro_rules! ensure {
    ($condition:expr, $($evidence:tt)+) => {
        if !$condition {
            return Err($crate::conformance::evidence::Evidence(format!($($evidence)+)));
        }
    };
}

pub(super) use ensure;
