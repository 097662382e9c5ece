//! What Python is told of a host function that failed.

use std::error::Error;

use snakepit_proto::v1::{HostError, host_error::Kind};

use super::ArgumentsError;

/// Sources told at most: an error has fewer, and one whose sources go in a circle has no end.
const CAUSES: usize = 20;
/// Bytes of a message told at most, so that an error always fits into its answer.
const TEXT: usize = 32 << 10;

/// A failure without a cause.
pub(crate) fn failure(kind: Kind, message: impl Into<String>) -> HostError {
    HostError {
        kind: kind.into(),
        message: bounded(message.into()),
        causes: Vec::new(),
    }
}

/// An error of a closure, with its sources.
pub(crate) fn told(error: &(dyn Error + Send + Sync + 'static)) -> HostError {
    let kind = if error.is::<ArgumentsError>() {
        Kind::BadArguments
    } else {
        Kind::Failed
    };
    let sources = std::iter::successors(error.source(), |&error| error.source());
    HostError {
        causes: sources
            .take(CAUSES)
            .map(|source| bounded(source.to_string()))
            .collect(),
        ..failure(kind, error.to_string())
    }
}

fn bounded(mut text: String) -> String {
    if text.len() > TEXT {
        text.truncate(text.floor_char_boundary(TEXT));
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use snakepit_proto::{MAX_HOST_MESSAGE, MAX_HOST_VALUE};

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{}", "ü".repeat(1 << 20))]
    struct Endless(#[source] Option<Box<Endless>>);

    #[test]
    fn an_error_of_any_size_fits_into_an_answer() {
        let mut error = Endless(None);
        for _ in 0..100 {
            error = Endless(Some(Box::new(error)));
        }
        let told = told(&error);
        assert_eq!(told.causes.len(), CAUSES);
        assert!(told.message.ends_with("ü..."));
        let texts = told.message.len() + told.causes.iter().map(String::len).sum::<usize>();
        assert!(texts < MAX_HOST_MESSAGE - MAX_HOST_VALUE);
    }
}
