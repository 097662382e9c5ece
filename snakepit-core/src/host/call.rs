//! One call of a host function.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    id::WorkerId,
    rpc::{CodecError, Value, codec},
};

/// An empty array, an empty map and nil in MessagePack.
const EMPTY_ARRAY: &[u8] = &[0x90];
const EMPTY_MAP: &[u8] = &[0x80];
const NIL: &[u8] = &[0xc0];

/// The arguments are not what a host function takes.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct ArgumentsError(String);

/// A call that Python code makes of a host function.
#[derive(Debug)]
pub struct HostCall {
    pub(crate) function: String,
    pub(crate) args: Bytes,
    pub(crate) kwargs: Bytes,
    pub(crate) worker: WorkerId,
    pub(crate) call_id: Option<u64>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) over: CancellationToken,
}

impl HostCall {
    /// The name it was called by.
    pub fn function(&self) -> &str {
        &self.function
    }

    /// The positional arguments: a tuple, or what else deserialises from a sequence; `()` when there must be none.
    ///
    /// # Errors
    /// When they are something else.
    pub fn args<A: DeserializeOwned>(&self) -> Result<A, ArgumentsError> {
        decode(&self.args, EMPTY_ARRAY, "positional")
    }

    /// The keyword arguments: a struct, or a map with string keys; `()` when there must be none.
    ///
    /// # Errors
    /// When they are something else.
    pub fn kwargs<K: DeserializeOwned>(&self) -> Result<K, ArgumentsError> {
        decode(&self.kwargs, EMPTY_MAP, "keyword")
    }

    /// The worker whose code calls.
    pub fn worker(&self) -> WorkerId {
        self.worker
    }

    /// The number of the call whose code calls, `snakepit.context.call_id` there; `None` outside of calls, as in a start hook or in a
    /// thread that Python code has started.
    pub fn call_id(&self) -> Option<u64> {
        self.call_id
    }

    /// When nobody waits any more, and the future of the function is dropped: the earlier one of the surrounding call's deadline
    /// and Python's timeout. `None` without either.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Resolves when the call is over: cancelled, past its deadline, or answered. The function's own future is dropped then;
    /// this is for work that it has handed to somebody else.
    ///
    /// # Cancel safety
    /// Safe; nothing is lost.
    pub fn cancelled(&self) -> impl Future<Output = ()> + Send + 'static {
        self.over.clone().cancelled_owned()
    }

    /// As [`args`](Self::args), where keyword arguments are a mistake.
    pub(super) fn positional<A: DeserializeOwned>(&self) -> Result<A, ArgumentsError> {
        if !self.kwargs.is_empty() {
            let names: Vec<String> = match self.kwargs::<Value>()? {
                Value::Map(entries) => entries
                    .iter()
                    .filter_map(|(key, _)| Some(key.as_str()?.to_owned()))
                    .collect(),
                _ => Vec::new(),
            };
            let names = names.join(", ");
            return Err(ArgumentsError(format!(
                "takes positional arguments only, and got keyword arguments: {names}"
            )));
        }
        self.args()
    }
}

fn decode<T: DeserializeOwned>(encoded: &Bytes, empty: &[u8], which: &str) -> Result<T, ArgumentsError> {
    let decoded = if encoded.is_empty() || encoded == empty {
        // `()` is nil to serde.
        codec::decode(empty).or_else(|_| codec::decode(NIL).or_else(|_| codec::decode(empty)))
    } else {
        codec::decode_message(encoded)
    };
    decoded.map_err(|error| {
        ArgumentsError(match error {
            CodecError::Decode { type_name, message } => {
                format!("the {which} arguments do not fit {type_name}: {message}")
            }
            other => other.to_string(),
        })
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn call(args: &[u8], kwargs: &[u8]) -> HostCall {
        HostCall {
            function: "f".into(),
            args: Bytes::copy_from_slice(args),
            kwargs: Bytes::copy_from_slice(kwargs),
            worker: WorkerId(7),
            call_id: None,
            deadline: None,
            over: CancellationToken::new(),
        }
    }

    #[test]
    fn no_arguments_are_every_type_that_can_be_empty() {
        for none in [&[][..], EMPTY_ARRAY] {
            let call = call(none, &[]);
            call.args::<()>().unwrap();
            assert!(call.args::<Vec<u8>>().unwrap().is_empty());
            assert!(call.args::<(u8,)>().unwrap_err().to_string().contains("(u8,)"));
        }
        let call = call(&[], &[]);
        call.kwargs::<()>().unwrap();
        assert!(call.kwargs::<BTreeMap<String, u8>>().unwrap().is_empty());
    }

    #[test]
    fn too_few_and_too_many_and_others_do_not_fit() {
        let two = codec::encode(&(1, "two")).unwrap();
        let call = call(&two, &[]);
        assert_eq!(call.args::<(u8, String)>().unwrap(), (1, "two".to_owned()));
        for error in [
            call.args::<(u8,)>().unwrap_err(),
            call.args::<(u8, String, u8)>().unwrap_err(),
            call.args::<(u8, u8)>().unwrap_err(),
            call.args::<()>().unwrap_err(),
        ] {
            assert!(
                error
                    .to_string()
                    .starts_with("the positional arguments do not fit"),
                "{error}"
            );
        }
    }

    #[test]
    fn keyword_arguments_are_named_where_none_are_taken() {
        let kwargs = codec::encode(&BTreeMap::from([("limit", 1), ("page", 2)])).unwrap();
        let error = call(&[], &kwargs).positional::<()>().unwrap_err().to_string();
        assert!(error.contains("limit, page"), "{error}");
    }
}
