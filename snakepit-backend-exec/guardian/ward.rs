//! What the guardian keeps of each worker and each managed process.

use std::os::fd::{AsFd, OwnedFd};

use crate::{
    ending::Ending,
    failure::Failure,
    outbox::Outbox,
    packet::{self, Sent},
    sys::{
        self, Pid,
        constants::{SIGCONT, SIGKILL, SIGTERM},
    },
    wire::{Event, Message, Request},
};

/// Somebody the host is told about.
pub(crate) struct Ward {
    pub(crate) id: u64,
    pub(crate) outbox: Outbox,
    pub(crate) kind: Kind,
    /// Everything about it has been put into its outbox.
    pub(crate) finished: bool,
}

pub(crate) enum Kind {
    Kept(Kept),
    Managed(Managed),
}

/// A worker and its keeper, or a worker that could not be started.
#[derive(Default)]
pub(crate) struct Kept {
    /// Until it is reaped.
    pub(crate) keeper: Option<Pid>,
    pub(crate) control: Option<OwnedFd>,
    /// Lets the worker execute its program.
    pub(crate) gate: Option<OwnedFd>,
    /// Goes with [`Event::Kept`], as does the next.
    pub(crate) keeper_pidfd: Option<OwnedFd>,
    pub(crate) worker_pidfd: Option<OwnedFd>,
    /// The worker's number where it is in our PID namespace, until its end is known.
    pub(crate) worker: Option<Pid>,
    pub(crate) held: bool,
    pub(crate) exited: bool,
    /// Why there is to be no worker although there was one.
    pub(crate) failure: Option<Failure>,
    pub(crate) outcome: Option<Outcome>,
    /// The keeper died before its tree did, which is ours to end now.
    pub(crate) orphaned: Option<Orphaned>,
    /// When the keeper is taken to hang.
    pub(crate) overdue: Option<u64>,
    pub(crate) cgroup: Cgroup,
}

/// A tree whose keeper died. Where a namespace is shared its first process ends it, and answers this number then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Orphaned(pub(crate) i64);

/// What a keeper said last.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    Failed(Failure),
    Ended { by: i64, swept: i64 },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Cgroup {
    #[default]
    None,
    /// To be removed when it is empty.
    Made,
    /// It was not yet; given up at this time.
    Removing { until: u64 },
}

impl Kept {
    /// Passes a request on to the keeper. One that hangs so long that it has no room for more is ended as overdue.
    pub(crate) fn tell(&self, message: Message<Request>) {
        if let Some(control) = &self.control {
            let _: Sent = packet::send::<_, 0>(control, &message, []);
        }
    }

    /// Signals the keeper.
    pub(crate) fn signal(&self, signal: i32) {
        if let Some(keeper) = self.keeper {
            // A child of ours that was not reaped, so that the number is its own.
            let _ = sys::kill(keeper, signal);
        }
    }
}

/// A process that was not started here.
pub(crate) struct Managed {
    pub(crate) pidfd: OwnedFd,
    pub(crate) ending: Ending,
}

impl Managed {
    pub(crate) fn stop(&mut self, now: u64, grace: u64, silent: bool) {
        if self.ending.stop(now, grace, silent) {
            self.signal(SIGTERM, 0);
            self.signal(SIGCONT, 0);
        }
    }

    /// Whether it could be signalled.
    pub(crate) fn signal(&self, signal: i32, flags: u32) -> bool {
        sys::pidfd_signal(&self.pidfd, signal, flags).is_ok()
    }

    pub(crate) fn kill(&self) -> bool {
        self.signal(SIGKILL, 0)
    }
}

impl Ward {
    pub(crate) fn new(id: u64, kind: Kind) -> Self {
        Self {
            id,
            outbox: Outbox::default(),
            kind,
            finished: false,
        }
    }

    /// Sends what is in the outbox, as far as the socket takes it.
    pub(crate) fn flush(&mut self, host: impl AsFd) -> Sent {
        while let Some(note) = self.outbox.front() {
            let message = Message::new(note.event, self.id).with(note.a, note.b, 0);
            let (mut none, mut neither) = (None, None);
            let pidfds = match (&mut self.kind, note.event) {
                (Kind::Kept(kept), Event::Kept) => [&mut kept.keeper_pidfd, &mut kept.worker_pidfd],
                _ => [&mut none, &mut neither],
            };
            let fds = pidfds.each_ref().map(|pidfd| pidfd.as_ref().map(AsFd::as_fd));
            match packet::send(&host, &message, fds) {
                Sent::Yes => pidfds.into_iter().for_each(|pidfd| *pidfd = None),
                not_sent => return not_sent,
            }
            self.outbox.pop();
        }
        Sent::Yes
    }
}
