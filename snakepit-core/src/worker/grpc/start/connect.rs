//! The ways to a worker that was launched.

use std::{
    io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixStream as StdUnixStream,
    },
    time::Duration,
};

use tokio::{
    net::{TcpStream, UnixStream},
    time::sleep,
};

use super::GrpcWorkerSpec;
use crate::{
    arena::Arena,
    id::WorkerId,
    launch::{ChannelForm, LaunchError},
    rpc::{Connection, ConnectionError, Journal, error_chain, send_preamble},
    worker::StartErrorKind,
};

/// Pause between two attempts to connect to a worker that listens on a path: it makes its socket when it likes.
const CONNECT_PAUSE: Duration = Duration::from_millis(2);

/// The memory to share with a worker that can be sent it. Without it, all values go in messages.
pub(super) fn arena(spec: &GrpcWorkerSpec, id: WorkerId, form: &ChannelForm) -> Option<(Arena, OwnedFd)> {
    let size = spec.arena.filter(|_| *form == ChannelForm::Inherited)?;
    Arena::new(size)
        .inspect_err(
            |error| tracing::warn!(worker = %id, size, %error, "no memory can be shared with the worker"),
        )
        .ok()
}

/// The ways to a worker.
pub(super) struct Connected {
    pub(super) control: Connection,
    /// For the service `Worker`; without it, `control` is for both.
    pub(super) data: Option<StdUnixStream>,
    /// For calls alone.
    pub(super) calls: Option<StdUnixStream>,
}

impl Connected {
    fn by_one(control: Connection) -> Self {
        Self {
            control,
            data: None,
            calls: None,
        }
    }
}

pub(super) fn opened(connection: Result<Connection, ConnectionError>) -> Result<Connection, StartErrorKind> {
    connection.map_err(|error| StartErrorKind::Channel(error_chain(&error)))
}

/// Opens the ways to a worker: a socket for each purpose on an inherited channel, else one connection for all.
pub(super) async fn connect(
    channel: Option<StdUnixStream>,
    form: &ChannelForm,
    journal: &Journal,
    arena: Option<BorrowedFd<'_>>,
) -> Result<Connected, StartErrorKind> {
    let failed = |error: &dyn std::error::Error| StartErrorKind::Channel(error.to_string());
    match (channel, form) {
        (Some(data), ChannelForm::Inherited) => {
            // Not what the worker's end would explain, as a channel that closes is.
            let pair = || {
                StdUnixStream::pair().map_err(|source| LaunchError::Os {
                    step: "create the worker's sockets",
                    source,
                })
            };
            let ((control, theirs), (calls, their_calls)) = (pair()?, pair()?);
            let sent: Vec<_> = [theirs.as_fd(), their_calls.as_fd(), journal.as_fd()]
                .into_iter()
                .chain(arena)
                .collect();
            send_preamble(&data, &sent).map_err(|error| failed(&error))?;
            drop((theirs, their_calls));
            Ok(Connected {
                control: opened(Connection::open(control).await)?,
                data: Some(data),
                calls: Some(calls),
            })
        }
        (None, ChannelForm::Inherited) => {
            Err(StartErrorKind::Channel("the launcher returned no channel".into()))
        }
        (_, ChannelForm::Unix(path)) => {
            let stream = until_listening(|| UnixStream::connect(path)).await;
            let stream = stream
                .and_then(UnixStream::into_std)
                .map_err(|error| failed(&error))?;
            Ok(Connected::by_one(opened(Connection::open(stream).await)?))
        }
        (_, ChannelForm::Tcp(address)) => {
            let stream = until_listening(|| TcpStream::connect(address)).await;
            let stream = stream.map_err(|error| failed(&error))?;
            stream.set_nodelay(true).map_err(|error| failed(&error))?;
            Ok(Connected::by_one(opened(Connection::over(stream).await)?))
        }
    }
}

/// Connects as soon as the worker listens; the start deadline bounds it.
async fn until_listening<S, F>(connect: impl Fn() -> F) -> io::Result<S>
where
    F: Future<Output = io::Result<S>>,
{
    loop {
        match connect().await {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                sleep(CONNECT_PAUSE).await;
            }
            done => return done,
        }
    }
}
