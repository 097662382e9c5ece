//! The protocol seen from the host: connections, the codec of values, and errors.

mod calls;
pub mod codec;
mod connection;
mod error;
mod journal;
mod preamble;
mod value;

pub(crate) use calls::Calls;
pub use codec::CodecError;
pub use connection::{Connection, ConnectionError, MAX_MESSAGE_LEN};
pub use error::{RemoteError, RemoteErrorKind, RemoteException, error_chain};
pub(crate) use journal::Journal;
pub(crate) use preamble::send_preamble;
pub use value::{
    ArrayError, ArrayWriter, ArrowData, ArrowKind, Element, FilledArray, NdArray, SharedArray, Value,
};
pub(crate) use value::{Filler, Pieces};
