//! What a caller streams to a call.

use std::{error::Error, fmt, pin::Pin};

use serde::Serialize;
use snakepit_proto::{
    MAX_HOST_VALUE,
    v1::{HostError, host_error::Kind},
};
use tokio_stream::{Stream, StreamExt as _};

use crate::{
    host::{failure, told},
    rpc::codec::{self, Encoded},
};

/// Encoded items, or why there are no more.
pub(crate) type InputItems = Pin<Box<dyn Stream<Item = Result<Encoded, HostError>> + Send>>;

/// The input of a call: a caller's stream, encoded item by item as it is read.
pub struct Input(InputItems);

impl Input {
    /// The items of a stream. One that cannot be represented, or takes more than 64 MiB, is an error in Python, and the last.
    pub fn new<S>(items: S) -> Self
    where
        S: Stream<Item: Serialize> + Send + 'static,
    {
        Self(Box::pin(items.map(|item| encode(&item))))
    }

    /// The same for a stream that can fail. Its error is an error in Python, with its sources, and the last item.
    pub fn fallible<S, T, E>(items: S) -> Self
    where
        S: Stream<Item = Result<T, E>> + Send + 'static,
        T: Serialize,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        Self(Box::pin(items.map(|item| match item {
            Ok(item) => encode(&item),
            Err(error) => Err(HostError {
                kind: Kind::Failed.into(),
                ..told(&*error.into())
            }),
        })))
    }

    pub(crate) fn into_items(self) -> InputItems {
        self.0
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input").finish_non_exhaustive()
    }
}

fn encode<T: Serialize>(item: &T) -> Result<Encoded, HostError> {
    let encoded =
        codec::encode_aside(item).map_err(|error| failure(Kind::BadArguments, error.to_string()))?;
    if encoded.len() > MAX_HOST_VALUE {
        let message = format!(
            "takes {} bytes, an item of an input can take {MAX_HOST_VALUE}",
            encoded.len()
        );
        return Err(failure(Kind::BadArguments, message));
    }
    Ok(encoded)
}

/// Keeps the input of a call open. Dropped, the caller's stream is dropped too.
#[derive(Debug)]
pub struct Feed {
    _open: Box<dyn fmt::Debug + Send + Sync>,
}

impl Feed {
    /// An input that is open until this value is dropped.
    pub fn new(open: impl fmt::Debug + Send + Sync + 'static) -> Self {
        Self {
            _open: Box::new(open),
        }
    }
}

/// A worker takes no input: its program does not have the capability.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("its program does not take input")]
pub struct NoInput;
