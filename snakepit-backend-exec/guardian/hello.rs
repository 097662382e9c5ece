//! The first message, and what a guardian that was started by mistake says.

use std::os::fd::OwnedFd;

use crate::{
    failure::Failure,
    packet::{self, Incoming},
    sys::{
        self,
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

/// Waits for it on standard input.
pub(crate) fn receive() -> Result<Hello, NoHello> {
    let host = sys::standard(0);
    let option = |option| sys::socket_option(host, option).ok();
    if (option(SO_DOMAIN), option(SO_TYPE)) != (Some(AF_UNIX), Some(SOCK_SEQPACKET)) {
        return Err(NoHello::NoHost);
    }
    let refused = |errno| Err(NoHello::Refused(Failure::new(Step::Protocol, errno)));
    let (message, fds) = loop {
        match packet::receive::<Request>(host, true) {
            Incoming::Message(message, fds) => break (message, fds),
            Incoming::Nonsense => return refused(EPROTO),
            // Interrupted.
            Incoming::Nothing => {}
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
