//! Many calls of one function in one message.

use std::{fmt, marker::PhantomData, sync::Arc};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, Error as _, SeqAccess, Visitor},
};
use snakepit_proto::v1;

use super::{error::CallError, request::Request};
use crate::{
    id::WorkerId,
    rpc::{CodecError, RemoteError, codec},
};

/// Why a batch was not executed.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "{function} cannot be called in a batch: the program of {worker} does not have the capability `batch`"
)]
#[non_exhaustive]
pub struct BatchRefused {
    /// The function.
    pub function: Arc<str>,
    /// The worker.
    pub worker: WorkerId,
}

/// Many calls of one function that are made by one worker, one after the other, for the price of one message.
///
/// For the pool they are one call: they wait together, have one deadline, count once for limits and retries, and are cancelled
/// together.
#[derive(Clone, Debug)]
#[must_use = "a request does nothing until it is sent"]
pub struct BatchRequest<'a> {
    request: Request<'a>,
    calls: usize,
}

impl<'a> Request<'a> {
    /// Makes it many calls, with these positional arguments each; the keyword arguments are those of all.
    ///
    /// ```no_run
    /// # async fn example(pool: snakepit_core::pool::Pool) -> Result<(), Box<dyn std::error::Error>> {
    /// let numbers = (0..1000).map(|number| (number, 2));
    /// let squares = pool.request("builtins:pow").batch(numbers)?.send::<u64>().await?;
    /// assert_eq!(squares[30].as_ref().unwrap(), &900);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When arguments cannot be represented, or are no sequence.
    pub fn batch<T: Serialize>(
        mut self,
        calls: impl IntoIterator<Item = T>,
    ) -> Result<BatchRequest<'a>, CodecError> {
        let (args, calls) = codec::encode_batch_aside(calls)?;
        (self.args, self.batch) = (args, true);
        let request = self;
        Ok(BatchRequest { request, calls })
    }
}

impl BatchRequest<'_> {
    /// Makes the calls: an outcome for each, in order. One that fails does not keep the others from being made.
    ///
    /// # Errors
    /// What became of all of them together: see [`CallError`]. A worker that is lost, and a result that cannot be represented, is
    /// the loss of the whole batch.
    ///
    /// # Cancel safety
    /// As [`Request::send`]: dropping the future cancels what has not been made.
    pub async fn send<R: DeserializeOwned>(self) -> Result<Vec<Result<R, RemoteError>>, CallError> {
        let Self { request, calls } = self;
        if calls == 0 {
            return Ok(Vec::new());
        }
        let outcomes: Vec<Outcome<R>> = request.send().await?;
        if outcomes.len() != calls {
            return Err(CallError::Codec(CodecError::Decode {
                type_name: std::any::type_name::<Vec<R>>(),
                message: format!("{calls} calls were made, and {} outcomes came", outcomes.len()),
            }));
        }
        Ok(outcomes.into_iter().map(|outcome| outcome.0).collect())
    }
}

/// One outcome on the wire: `[0, value]` or `[1, error]`.
struct Outcome<R>(Result<R, RemoteError>);

/// An error on the wire.
type Failure = (i32, String, Vec<(String, String, String, i32)>, i32);

fn remote((kind, message, exceptions, exit_code): Failure) -> RemoteError {
    let exceptions = exceptions.into_iter();
    let exceptions = exceptions.map(|(r#type, message, traceback, link)| v1::Exception {
        r#type,
        message,
        traceback,
        link,
    });
    RemoteError::from(v1::CallError {
        kind,
        message,
        exceptions: exceptions.collect(),
        exit_code,
        ..v1::CallError::default()
    })
}

impl<'de, R: Deserialize<'de>> Deserialize<'de> for Outcome<R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pair<R>(PhantomData<R>);

        impl<'de, R: Deserialize<'de>> Visitor<'de> for Pair<R> {
            type Value = Outcome<R>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "[0, value] or [1, error]")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<Self::Value, A::Error> {
                let missing = |at| A::Error::invalid_length(at, &self);
                let tag: u8 = pair.next_element()?.ok_or_else(|| missing(0))?;
                let outcome = match tag {
                    0 => Ok(pair.next_element()?.ok_or_else(|| missing(1))?),
                    1 => Err(remote(pair.next_element()?.ok_or_else(|| missing(1))?)),
                    other => return Err(A::Error::custom(format!("there is no outcome {other}"))),
                };
                Ok(Outcome(outcome))
            }
        }

        deserializer.deserialize_tuple(2, Pair(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::RemoteErrorKind;

    #[test]
    fn outcomes_are_read_in_order_and_nonsense_is_refused() {
        let error = (1, "boom", [("ValueError", "boom", "Traceback", 0)], 0);
        let encoded = codec::encode(&((0, Some(5)), (1, error), (0, None::<i32>))).unwrap();
        let outcomes: Vec<Outcome<Option<i32>>> = codec::decode(&encoded).unwrap();
        let [first, second, third] = &outcomes[..] else {
            panic!("three")
        };
        assert_eq!(first.0.as_ref().unwrap(), &Some(5));
        let error = second.0.as_ref().unwrap_err();
        assert_eq!(error.kind, RemoteErrorKind::Raised);
        assert_eq!(error.exception().unwrap().type_name, "ValueError");
        assert_eq!(third.0.as_ref().unwrap(), &None);

        for nonsense in [
            codec::encode(&((2, 5),)),
            codec::encode(&((0,),)),
            codec::encode(&(7,)),
        ] {
            assert!(codec::decode::<Vec<Outcome<i32>>>(&nonsense.unwrap()).is_err());
        }
    }
}
