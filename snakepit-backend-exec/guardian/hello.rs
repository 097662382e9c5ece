//! The first message, and what a guardian that was started by mistake says.

use std::os::fd::OwnedFd;

use crate::{
    failure::Failure,
    packet::{self, Incoming},
    sys::{
        self, Poll,
        constants::{AF_UNIX, EBADF, EINVAL, EPROTO, SO_DOMAIN, SO_TYPE, SOCK_SEQPACKET},
    },
    wire::{Level, Request, Step, VERSION},
};

/// What the host asks for.
pub(crate) struct Hello {
    pub(crate) level: Level,
    pub(crate) host_grace: u64,
    /// A pidfd of the host.
    pub(crate) host: OwnedFd,
    /// Where the cgroups of workers are.
    pub(crate) run_cgroup: Option<OwnedFd>,
}

/// Why there is no [`Hello`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoHello {
    /// Standard input is not a host's socket.
    NoHost,
    /// The host went away.
    Gone,
    /// It says something else.
    Refused(Failure),
}

/// How long it may take. The host gives up sooner; but where it died before its hello, which brings the pidfd that tells
/// of its death, a fork of it may hold its end of the socket open for ever.
const PATIENCE_MS: u64 = 60_000;

/// Between two looks at a socket that can be heard but not read, as one that was never connected.
const PAUSE_MS: u64 = 1;

/// Waits for it on standard input.
pub(crate) fn receive() -> Result<Hello, NoHello> {
    let host = sys::standard(0);
    let option = |option| sys::socket_option(host, option).ok();
    if (option(SO_DOMAIN), option(SO_TYPE)) != (Some(AF_UNIX), Some(SOCK_SEQPACKET)) {
        return Err(NoHello::NoHost);
    }
    let refused = |errno| Err(NoHello::Refused(Failure::new(Step::Protocol, errno)));
    let until = sys::now().saturating_add(PATIENCE_MS);
    let (message, fds) = loop {
        let Some(left) = until.checked_sub(sys::now()) else {
            return Err(NoHello::Gone);
        };
        sys::poll(&mut [Poll::readable(Some(host))], Some(left));
        match packet::receive::<Request>(host, false) {
            Incoming::Message(message, fds) => break (message, fds),
            Incoming::Nonsense => return refused(EPROTO),
            Incoming::Nothing => sys::poll(&mut [], Some(PAUSE_MS)),
            Incoming::End => return Err(NoHello::Gone),
        }
    };
    if message.kind != Request::Hello || message.a != i64::from(VERSION) {
        return refused(EPROTO);
    }
    let (Some(level), Ok(host_grace)) = (Level::from_number(message.b), u64::try_from(message.c)) else {
        return refused(EINVAL);
    };
    let (host, run_cgroup) = match fds.count() {
        2 => match fds.exactly() {
            Some([host, run_cgroup]) => (host, Some(run_cgroup)),
            None => return refused(EINVAL),
        },
        _ => match fds.exactly() {
            Some([host]) => (host, None),
            None => return refused(EINVAL),
        },
    };
    // Signal 0 is sent to nobody; only a pidfd takes it.
    if sys::pidfd_signal(&host, 0, 0).is_err_and(|error| error.raw_os_error() == Some(EBADF)) {
        return refused(EBADF);
    }
    Ok(Hello {
        level,
        host_grace,
        host,
        run_cgroup,
    })
}
