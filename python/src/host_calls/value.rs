//! Values on their way between Python and the host's functions.

use bytes::Bytes;
use pyo3::prelude::*;
use snakepit_proto::v1::{ArgumentBlocks, HostCall, ValueInArena};

use crate::{
    arena::Holds,
    codec::{DecodeError, Decoder, Encoded},
};

/// A value of the host. Dropped, it gives back what it refers to; what Python was given of it has its own holds.
#[derive(Debug)]
pub(super) struct Value {
    bytes: Bytes,
    holds: Holds,
}

impl From<Bytes> for Value {
    fn from(bytes: Bytes) -> Self {
        let holds = Holds::default();
        Self { bytes, holds }
    }
}

impl From<ValueInArena> for Value {
    fn from(value: ValueInArena) -> Self {
        Self {
            bytes: value.value,
            holds: value.blocks.into(),
        }
    }
}

impl Value {
    /// It refers to these.
    pub(super) fn hold(&mut self, holds: Holds) {
        self.holds = holds;
    }

    pub(super) fn decode<'py>(&self, py: Python<'py>) -> Result<Bound<'py, PyAny>, DecodeError> {
        Decoder::with_blocks(py, &self.bytes, self.holds.blocks()).single()
    }
}

/// A call of a host's function that was not sent. Dropped, it gives back what its arguments refer to.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) call_id: Option<u64>,
    pub(super) function: String,
    pub(super) args: Encoded,
    pub(super) kwargs: Encoded,
}

impl Request {
    /// As it is sent: the host gives back what it refers to.
    pub(super) fn into_wire(self, id: u64, deadline_us: Option<u64>) -> HostCall {
        let ((args, args_holds), (kwargs, kwargs_holds)) = (self.args.into_parts(), self.kwargs.into_parts());
        let blocks = ArgumentBlocks {
            args: args_holds.into_wire(),
            kwargs: kwargs_holds.into_wire(),
        };
        let has_blocks = !blocks.args.is_empty() || !blocks.kwargs.is_empty();
        HostCall {
            id,
            call_id: self.call_id,
            function: self.function,
            args,
            kwargs,
            deadline_us,
            blocks: has_blocks.then_some(blocks),
        }
    }
}
