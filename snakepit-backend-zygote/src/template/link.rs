//! The host's end of the socket to a template.

use std::{
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream as StdUnixStream,
    },
};

use tokio::{io::Interest, net::UnixStream, sync::mpsc};

use super::Desk;
use crate::wire::{self, Replies, Reply};

/// One request on its way to the template.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) bytes: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
}

/// A request, as far as it is sent.
struct Sending {
    request: Request,
    sent: usize,
}

#[derive(Debug)]
pub(super) struct Link {
    socket: UnixStream,
    replies: Replies,
}

impl Link {
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub(super) fn new(socket: StdUnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket: UnixStream::from_std(socket)?,
            replies: Replies::default(),
        })
    }

    /// The next reply; `None` at the end.
    ///
    /// # Cancel safety
    /// Safe; nothing is lost.
    pub(super) async fn next(&mut self) -> io::Result<Option<Reply>> {
        next(&self.socket, &mut self.replies).await
    }

    /// Sends requests in order and hands out replies, until the template is gone or nobody is left to ask.
    pub(super) async fn serve(&mut self, desk: &Desk, mut requests: mpsc::UnboundedReceiver<Request>) {
        let Self { socket, replies } = self;
        let mut sending = None;
        loop {
            let step = tokio::select! {
                reply = next(socket, replies) => match reply {
                    Ok(Some(reply)) => {
                        desk.handle(reply);
                        continue;
                    }
                    Ok(None) => return,
                    Err(error) => Err(error),
                },
                request = requests.recv(), if sending.is_none() => match request {
                    Some(request) => {
                        sending = Some(Sending { request, sent: 0 });
                        Ok(())
                    }
                    None => return,
                },
                room = socket.writable(), if sending.is_some() => room,
            };
            if let Err(error) = step.and_then(|()| go_on(socket, &mut sending)) {
                tracing::debug!(%error, "the template cannot be talked to any more");
                return;
            }
        }
    }

    /// Hands out replies until there can be none any more. Nothing is sent.
    pub(super) async fn listen(&mut self, desk: &Desk) {
        loop {
            match self.next().await {
                Ok(Some(reply)) => desk.handle(reply),
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(%error, "what a template has forked cannot be heard any more");
                    return;
                }
            }
        }
    }
}

async fn next(socket: &UnixStream, replies: &mut Replies) -> io::Result<Option<Reply>> {
    loop {
        if let Some(reply) = replies.next()? {
            return Ok(Some(reply));
        }
        socket.readable().await?;
        match socket.try_io(Interest::READABLE, || replies.receive(socket)) {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Sends what there is room for.
fn go_on(socket: &UnixStream, sending: &mut Option<Sending>) -> io::Result<()> {
    let Some(Sending { request, sent }) = sending else {
        return Ok(());
    };
    // The descriptors go with the first byte.
    let fds: Vec<_> = match sent {
        0 => request.fds.iter().map(|fd| fd.as_fd()).collect(),
        _ => Vec::new(),
    };
    let rest = request.bytes.get(*sent..).unwrap_or_default();
    match socket.try_io(Interest::WRITABLE, || wire::send(socket, rest, &fds)) {
        Ok(more) => *sent += more,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) => return Err(error),
    }
    if *sent == request.bytes.len() {
        *sending = None;
    }
    Ok(())
}
