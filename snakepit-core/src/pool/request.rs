//! A call, prepared and sent.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Pool,
    attempt::Attempt,
    dispatch::{Aim, Turn},
    error::CallError,
    stream::Items,
};
use crate::{
    rpc::{
        CodecError, MAX_MESSAGE_LEN,
        codec::{self, Encoded},
    },
    worker::Received,
};

/// Items a stream's producer may be ahead of its consumer. Default 16: enough to hide the way there and back, few enough
/// that an early drop wastes little.
const CREDIT: u32 = 16;

/// Bytes of a message besides the function's name and the arguments: ids, lengths, tags.
const OTHER_FIELDS: usize = 128;

/// A call being prepared.
#[derive(Clone, Debug)]
#[must_use = "a request does nothing until it is sent"]
pub struct Request<'a> {
    pub(super) pool: &'a Pool,
    pub(super) function: Arc<str>,
    pub(super) args: Encoded,
    pub(super) kwargs: Encoded,
    pub(super) deadline: Option<Duration>,
    pub(super) queue_timeout: Option<Duration>,
    pub(super) run_timeout: Option<Duration>,
    pub(super) idempotent: bool,
    pub(super) aim: Option<Aim>,
    /// Many calls in one.
    pub(super) batch: bool,
    priority: i32,
    pub(super) credit: u32,
}

impl<'a> Request<'a> {
    pub(super) fn new(pool: &'a Pool, function: Arc<str>) -> Self {
        let settings = &pool.shared.settings;
        Self {
            pool,
            function,
            args: Encoded::default(),
            kwargs: Encoded::default(),
            deadline: settings.deadline,
            queue_timeout: settings.queue_timeout,
            run_timeout: settings.run_timeout,
            idempotent: false,
            aim: None,
            batch: false,
            priority: 0,
            credit: CREDIT,
        }
    }

    /// Sets the positional arguments: a tuple or another sequence, `()` for none.
    ///
    /// # Errors
    /// When they cannot be represented, or are no sequence.
    pub fn args<T: Serialize + ?Sized>(self, args: &T) -> Result<Self, CodecError> {
        Ok(Self {
            args: codec::encode_args_aside(args)?,
            ..self
        })
    }

    /// Sets the keyword arguments: a map with string keys, or a struct.
    ///
    /// # Errors
    /// When they cannot be represented, or are no map.
    pub fn kwargs<T: Serialize + ?Sized>(self, kwargs: &T) -> Result<Self, CodecError> {
        Ok(Self {
            kwargs: codec::encode_kwargs_aside(kwargs)?,
            ..self
        })
    }

    /// Sets the deadline over queue and execution, counted from sending; zero has passed at once and executes nothing. Default: the pool's.
    pub fn deadline(self, deadline: Duration) -> Self {
        Self {
            deadline: Some(deadline),
            ..self
        }
    }

    /// Lifts the deadline.
    pub fn no_deadline(self) -> Self {
        Self {
            deadline: None,
            ..self
        }
    }

    /// Sets how long the call may wait in the queue; zero does not let it wait, `None` lifts the pool's bound. See
    /// [`PoolSettings::queue_timeout`](super::PoolSettings::queue_timeout). Default: the pool's.
    pub fn queue_timeout(self, timeout: impl Into<Option<Duration>>) -> Self {
        Self {
            queue_timeout: timeout.into(),
            ..self
        }
    }

    /// Sets how long the call may be executed, counted from being handed to a worker; `None` lifts the pool's bound. See
    /// [`PoolSettings::run_timeout`](super::PoolSettings::run_timeout). Default: the pool's.
    pub fn run_timeout(self, timeout: impl Into<Option<Duration>>) -> Self {
        Self {
            run_timeout: timeout.into(),
            ..self
        }
    }

    /// Says that executing the call twice is harmless. When its worker is lost it is executed by another one, within its
    /// deadline and on at most [`PoolSettings::attempts`](super::PoolSettings::attempts) workers. A stream is not: its items
    /// may have been used. Default: a call is executed at most once.
    pub fn idempotent(self) -> Self {
        Self {
            idempotent: true,
            ..self
        }
    }

    /// Sets the priority in the queue. A higher one is always served before a lower one, which a busy pool may let starve: a
    /// [queue timeout](Self::queue_timeout) bounds that. Equals are served in the order they came. Default 0.
    pub fn priority(self, priority: i32) -> Self {
        Self { priority, ..self }
    }

    /// Sets how many items a stream's producer may be ahead of its consumer; at least 1. Default 16.
    pub fn credit(self, items: u32) -> Self {
        Self {
            credit: items.max(1),
            ..self
        }
    }

    /// Makes it a call of a session.
    pub(super) fn in_session(self, aim: Aim) -> Self {
        Self {
            aim: Some(aim),
            ..self
        }
    }

    /// Makes the call and decodes its result.
    ///
    /// # Errors
    /// See [`CallError`]. The call is executed at most once.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call: one that waits is never executed, one that runs is interrupted.
    pub async fn send<R: DeserializeOwned>(self) -> Result<R, CallError> {
        Ok(self.receive().await?.decode()?)
    }

    /// Makes the call and returns its result, MessagePack encoded, with everything in it.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    pub async fn send_raw(self) -> Result<Bytes, CallError> {
        Ok(self.receive().await?.inlined::<Bytes>()?)
    }

    async fn receive(self) -> Result<Received, CallError> {
        self.check_len()?;
        let turn = self.turn(true);
        Attempt::new(self)?.run(turn).await
    }

    /// Makes the call and returns what it yields, item by item. The deadline holds for the whole stream.
    ///
    /// # Errors
    /// When no worker was to be had, or the arguments are too large. What goes wrong later is an item.
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    pub async fn stream<T: DeserializeOwned>(self) -> Result<Items<T>, CallError> {
        self.check_len()?;
        let (credit, turn) = (self.credit, self.turn(false));
        Items::begun(Attempt::new(self)?, turn, credit).await
    }
}

impl Request<'_> {
    /// How it is served; `ahead` where it may wait in a worker.
    pub(super) fn turn(&self, ahead: bool) -> Turn {
        Turn {
            priority: self.priority,
            ahead,
            aim: self.aim,
            ..Turn::default()
        }
    }

    /// What does not fit into a message would fail in the connection, as if the worker were to blame.
    pub(super) fn check_len(&self) -> Result<(), CodecError> {
        let len = self.args.len() + self.kwargs.len();
        let limit = MAX_MESSAGE_LEN.saturating_sub(self.function.len() + OTHER_FIELDS);
        if len > limit {
            return Err(CodecError::TooLarge { len, limit });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::Events, id::SlotId, testing::FakeWorkerFactory};

    #[tokio::test]
    async fn arguments_that_no_message_can_hold_are_refused_before_anything_is_sent() {
        let factory = Arc::new(FakeWorkerFactory::new());
        let pool = Pool::builder(factory.clone(), Events::new("test")).workers(1);
        let pool = pool.start().await.unwrap();
        let mut request = pool.request("f");
        // Never written to, so it takes no memory.
        request.args = Bytes::from(vec![0; MAX_MESSAGE_LEN - OTHER_FIELDS]).into();
        let error = request.clone().send_raw().await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the arguments take 2147483519 bytes, a message can hold 2147483518"
        );
        assert!(!error.may_have_executed());
        assert!(request.stream::<()>().await.is_err());
        let worker = factory.worker(SlotId(0)).unwrap();
        assert!(worker.fake_client().requests().is_empty());
        pool.shutdown().await;
    }
}
