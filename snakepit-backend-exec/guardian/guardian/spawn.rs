//! Starting keepers, and taking over processes that others started.

use std::os::fd::OwnedFd;

use super::*;
use crate::{
    isolate::namespaces,
    keeper::{self, Kit},
    sys::{
        Forked, Poll,
        constants::{EINVAL, ESRCH},
    },
    wire::SPAWN_CGROUP,
};

/// A keeper that nobody has asked for yet. Unless the last worker was born into a cgroup, it has a worker that waits to hear what
/// it is to become.
pub(super) struct Spare {
    pub(super) keeper: Pid,
    pidfd: OwnedFd,
    control: OwnedFd,
    gate: OwnedFd,
    /// Whether its worker is to be born into a cgroup, and is not there yet for that reason.
    in_cgroup: bool,
}

impl Spare {
    /// Where it is asked for a worker: the worker that waits, or the keeper that is to start it.
    fn asked_over(&self) -> &OwnedFd {
        if self.in_cgroup { &self.control } else { &self.gate }
    }

    /// Ends it, and the worker that waits with it.
    fn end(self) {
        // A child of ours that was not reaped, so that the number is its own. Whoever is not in its namespace sees its death, or
        // the end of the gate.
        let _ = sys::kill(self.keeper, SIGKILL);
    }
}

/// How long nothing is mounted or unmounted before a keeper is made ahead again.
const MOUNTS_REST_MS: u64 = 100;

impl Guardian {
    /// Starts a worker up to its gate. An id that is in use is ignored: an answer would be taken to be about the other.
    pub(super) fn spawn(&mut self, message: Message<Request>, fds: Fds) {
        if self.wards.find(message.id).is_some() {
            return;
        }
        let has_cgroup = message.a & SPAWN_CGROUP != 0;
        match self.start_keeper(&message, &fds) {
            Ok(kept) => {
                let keeper = kept.keeper;
                let place = self
                    .wards
                    .insert(message.id, Ward::new(message.id, Kind::Kept(kept)));
                if let Some(keeper) = keeper {
                    self.keepers.insert(keeper as u64, place);
                }
                self.watch(place);
                // What a worker that was made ahead has said already.
                self.hear_keeper(place);
            }
            Err(failure) => self.fail(message.id, has_cgroup, failure),
        }
    }

    /// Answers that there is nobody.
    fn fail(&mut self, id: u64, has_cgroup: bool, failure: Failure) {
        let cgroup = if has_cgroup { Cgroup::Made } else { Cgroup::None };
        let kept = Kept {
            cgroup,
            ..Kept::default()
        };
        let place = self.wards.insert(id, Ward::new(id, Kind::Kept(kept)));
        self.note(place, Event::SpawnFailed, failure.numbers());
        self.finish(place);
    }

    /// Watches what tells of a ward: its keeper's socket, or its pidfd.
    fn watch(&mut self, place: Place) {
        let token = self.wards.token(place).number();
        let Some(ward) = self.wards.get_mut(place) else {
            return;
        };
        let fd = match &ward.kind {
            Kind::Kept(kept) => kept.control.as_ref(),
            Kind::Managed(managed) => Some(&managed.pidfd),
        };
        let Some(fd) = fd else { return };
        let watched = sys::epoll_control(&self.epoll, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLRDHUP, token);
        match (watched, &ward.kind) {
            (Ok(()), _) => {}
            // Ended as one that died by itself.
            (Err(_), Kind::Kept(kept)) => kept.signal(SIGKILL),
            (Err(error), Kind::Managed(_)) => {
                let id = ward.id;
                self.wards.remove(id);
                self.fail(id, false, Failure::new(Step::Plumbing, errno(&error)));
            }
        }
    }

    /// Has a worker made: that of the keeper which was made ahead, if there is one that will do.
    fn start_keeper(&mut self, message: &Message<Request>, fds: &Fds) -> Result<Kept, Failure> {
        // What was lost is not to be taken for what the host sent.
        if fds.are_truncated() {
            return Err(Failure::new(Step::Protocol, EMFILE));
        }
        let has_cgroup = message.a & SPAWN_CGROUP != 0;
        self.in_cgroup = has_cgroup || self.level == Level::Cgroup;
        let mut made_ahead = self.take_spare();
        let spare = loop {
            let (spare, is_fresh) = match made_ahead.take() {
                Some(spare) => (spare, false),
                None => (self.make_keeper()?, true),
            };
            match packet::pass_on(spare.asked_over(), message, fds) {
                // Where a fresh one is gone already, it has said why.
                Ok(is_heard) if is_heard || is_fresh => break spare,
                // Its worker was killed meanwhile.
                Ok(_) => spare.end(),
                Err(failure) => {
                    spare.end();
                    return Err(failure);
                }
            }
        };
        // Not before: what one that waits says is not to continue a guardian that was stopped to see what happens.
        wake_by(&spare.control, self.own);
        Ok(Kept {
            keeper: Some(spare.keeper),
            control: Some(spare.control),
            gate: Some(spare.gate),
            keeper_pidfd: Some(spare.pidfd),
            cgroup: if has_cgroup { Cgroup::Made } else { Cgroup::None },
            ..Kept::default()
        })
    }

    /// The keeper that was made ahead, if it will do: it lives, waits for such a worker, and nothing was mounted or unmounted
    /// since it was made. One that will not do is ended.
    fn take_spare(&mut self) -> Option<Spare> {
        let spare = self.spare.take()?;
        let mut polls = [
            Poll::readable(Some(spare.pidfd.as_fd())),
            Poll::changed(self.mounts.as_ref().map(AsFd::as_fd)),
        ];
        sys::poll(&mut polls, Some(0));
        if spare.in_cgroup == self.in_cgroup && polls.iter().all(|poll| !poll.is_ready()) {
            return Some(spare);
        }
        spare.end();
        None
    }

    fn make_keeper(&mut self) -> Result<Spare, Failure> {
        let in_cgroup = self.in_cgroup;
        let (control, keepers_control) = sys::socket_pair().at(Step::Plumbing)?;
        let (gate, workers_gate) = sys::socket_pair().at(Step::Plumbing)?;
        match sys::fork(namespaces(self.level), KEEPER_EXIT).at(Step::Fork)? {
            Forked::Child => keeper::run(Kit {
                level: self.level,
                host_grace: self.host_grace,
                control: keepers_control,
                gate: workers_gate,
                in_cgroup,
                descriptors: self.descriptors,
                shared: self.shared.as_ref(),
                host: &self.host_process,
                signals: &self.signals,
                sweep: &mut self.sweep,
            }),
            Forked::Parent { pid, pidfd } => Ok(Spare {
                keeper: pid,
                pidfd,
                control,
                gate,
                in_cgroup,
            }),
        }
    }

    /// Makes a keeper ahead of the next request, where one was used: a fork and its isolation are a good part of what a start
    /// takes. Called when nothing else is to be done.
    pub(super) fn make_spare(&mut self, now: u64) {
        if self.make_spare_at.take_if(|time| *time <= now).is_some() {
            self.wants_spare = true;
        }
        if !self.wants_spare || self.host_is_gone {
            return;
        }
        self.wants_spare = false;
        if self.spare.is_none() {
            // What went wrong is told to whoever asks for a worker, if it still does then.
            self.spare = self.make_keeper().ok();
        }
    }

    /// Something was mounted or unmounted: ends the keeper that was made ahead, as a worker is to see what is mounted by now, and
    /// nobody who waits is to keep a file system busy. Another one is made when nothing has changed for a while.
    pub(super) fn mounts_have_changed(&mut self, now: u64) {
        if let Some(spare) = self.spare.take() {
            spare.end();
            self.make_spare_at = Some(now + MOUNTS_REST_MS);
        } else if self.make_spare_at.is_some() {
            self.make_spare_at = Some(now + MOUNTS_REST_MS);
        }
    }

    /// Takes over a process that was started elsewhere. One that could not be killed is refused.
    pub(super) fn manage(&mut self, id: u64, fds: Fds) {
        if self.wards.find(id).is_some() {
            return;
        }
        let failure = match fds.exactly() {
            None => Failure::new(Step::Protocol, EINVAL),
            Some([pidfd]) => match sys::pidfd_signal(&pidfd, 0, 0).map_err(|error| errno(&error)) {
                // One that has ended is told of at once.
                Ok(()) | Err(ESRCH) => return self.take_over(id, pidfd),
                Err(errno) => Failure::new(Step::Protocol, errno),
            },
        };
        self.fail(id, false, failure);
    }

    fn take_over(&mut self, id: u64, pidfd: OwnedFd) {
        let ending = Ending::default();
        let place = self
            .wards
            .insert(id, Ward::new(id, Kind::Managed(Managed { pidfd, ending })));
        self.watch(place);
    }
}
