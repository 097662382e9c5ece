//! The protocol seen from the host: connections, the codec of values, and errors.

mod error;

pub use error::{RemoteError, RemoteErrorKind, RemoteException, error_chain};
