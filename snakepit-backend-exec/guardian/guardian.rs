//! The guardian itself: hears the host, starts keepers, passes on what they say, and leaves when the host is gone and
//! the last tree has ended.
//!
//! It never waits for anybody but in [`Guardian::run`].

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::{
    cgroup,
    ending::{Act, Ending},
    failure::{At, Failure, errno},
    hello::Hello,
    packet::{self, Fds, Incoming, Sent},
    shared::Shared,
    sweep::Sweep,
    sys::{
        self, Limit, Pid, Ready, Reaped,
        constants::{
            EBUSY, ECHILD, EMFILE, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLIN, EPOLLOUT, EPOLLPRI,
            EPOLLRDHUP, F_GETFL, F_SETFL, F_SETOWN, F_SETSIG, O_ASYNC, O_WRONLY, PIDFD_SIGNAL_PROCESS_GROUP,
            SIGCHLD, SIGCONT, SIGKILL, SIGUSR1, WCLONE, WUNTRACED,
        },
    },
    table::{Place, Table, Token},
    text::Text,
    ward::{Cgroup, Kept, Kind, Managed, Orphaned, Outcome, Ward},
    wire::{EndedBy, Event, Level, Message, Request, Step, Target},
};

mod spawn;

use spawn::Spare;

/// What a keeper tells its end with: not SIGCHLD, so that wait4(2) tells keepers from the orphans of dead ones.
const KEEPER_EXIT: i32 = SIGUSR1;

/// For wait4(2): any child.
const ANY: Pid = -1;

/// How much longer than it was given a keeper may take before it is taken to hang, and killed.
const MARGIN_MS: u64 = 1000;

/// How long an empty cgroup may be busy, and how often that is looked at.
const CGROUP_PATIENCE_MS: u64 = 1000;
const CGROUP_PAUSE_MS: u64 = 2;

/// When sending failed for want of kernel memory.
const SEND_PAUSE_MS: u64 = 10;

/// Requests that are answered before keepers have their turn.
const REQUESTS_AT_ONCE: usize = 64;

/// Has the kernel continue this process, should it be stopped, when something comes from the other end of `fd` or that
/// is closed. A stopped guardian would outlive its host.
fn wake_by(fd: impl AsFd, own: Pid) {
    // Others may have the open file, too, whose flags stay as they are.
    let Ok(flags) = sys::fcntl(&fd, F_GETFL, 0) else {
        return;
    };
    for (command, argument) in [(F_SETOWN, own), (F_SETSIG, SIGCONT), (F_SETFL, flags | O_ASYNC)] {
        // Nothing depends on it but that.
        let _ = sys::fcntl(&fd, command, argument);
    }
}

/// Tokens of what belongs to no ward.
const HOST: u64 = u64::MAX;
const HOST_PROCESS: u64 = u64::MAX - 1;
const SIGNALS: u64 = u64::MAX - 2;
const SHARED: u64 = u64::MAX - 3;
const MOUNTS: u64 = u64::MAX - 4;

pub(crate) struct Guardian {
    level: Level,
    host_grace: u64,
    host_process: OwnedFd,
    host_is_gone: bool,
    /// Whether the host's socket is watched for room.
    host_is_full: bool,
    /// When sending is tried again.
    send_again: Option<u64>,
    /// What a `Pong` is to say that could not be sent. A later one takes its place.
    pong: Option<i64>,
    run_cgroup: Option<OwnedFd>,
    epoll: OwnedFd,
    signals: OwnedFd,
    own: Pid,
    /// The limit on descriptors that workers get.
    descriptors: Limit,
    wards: Table<Ward>,
    keepers: Table<Place>,
    /// Tells when something is mounted or unmounted, proc_pid_mountinfo(5), where keepers have mounts of their own.
    mounts: Option<OwnedFd>,
    /// The keeper of the next worker.
    spare: Option<Spare>,
    /// Whether one is to be made: after a start has come to its end, so that no gate waits to be opened meanwhile. Not after
    /// one has ended unused, as the next might do so as well.
    wants_spare: bool,
    /// When one is to be made after mounts have changed.
    make_spare_at: Option<u64>,
    /// Whether the last worker that was asked for was to be born into a cgroup. The next is taken to be like it.
    in_cgroup: bool,
    /// The earliest time that a ward needs to be looked after.
    look_after: Option<u64>,
    /// The end of what dead keepers left.
    strays: Ending,
    sweep: Sweep,
    shared: Option<Shared>,
}

fn host() -> BorrowedFd<'static> {
    sys::standard(0)
}

impl Guardian {
    pub(crate) fn new(hello: Hello, descriptors: Limit) -> Result<Self, Failure> {
        let epoll = sys::epoll().at(Step::Plumbing)?;
        let signals = sys::signal_fd(&[SIGCHLD, KEEPER_EXIT]).at(Step::Signals)?;
        let watch = |fd: BorrowedFd<'_>, token| {
            sys::epoll_control(&epoll, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLRDHUP, token).at(Step::Plumbing)
        };
        watch(host(), HOST)?;
        let own = sys::getpid().at(Step::Plumbing)?;
        // Where it is a pipe, its other end is the host's alone and closes with it. Not so the host's socket: what it
        // says is not to continue a guardian that was stopped to see what happens.
        wake_by(sys::standard(2), own);
        watch(hello.host.as_fd(), HOST_PROCESS)?;
        watch(signals.as_fd(), SIGNALS)?;
        let mut sweep = Sweep::new();
        let shared = match hello.level {
            Level::SharedNamespace => {
                let shared = Shared::make(&hello.host, hello.host_grace, &signals, &mut sweep)?;
                watch(shared.control.as_fd(), SHARED)?;
                Some(shared)
            }
            Level::Subreaper | Level::Cgroup | Level::Namespace => None,
        };
        let mounts = match hello.level {
            Level::Namespace => {
                let mounts = sys::open(None, c"/proc/self/mountinfo", 0).at(Step::MountProc)?;
                sys::epoll_control(&epoll, EPOLL_CTL_ADD, &mounts, EPOLLPRI, MOUNTS).at(Step::Plumbing)?;
                Some(mounts)
            }
            Level::Subreaper | Level::Cgroup | Level::SharedNamespace => None,
        };
        Ok(Self {
            level: hello.level,
            host_grace: hello.host_grace,
            host_process: hello.host,
            host_is_gone: false,
            host_is_full: false,
            send_again: None,
            pong: None,
            run_cgroup: hello.run_cgroup,
            own,
            descriptors,
            wards: Table::default(),
            keepers: Table::default(),
            mounts,
            spare: None,
            wants_spare: true,
            make_spare_at: None,
            in_cgroup: hello.level == Level::Cgroup,
            look_after: None,
            strays: Ending::default(),
            sweep,
            shared,
            epoll,
            signals,
        })
    }

    /// Works until the host is gone and nothing is left.
    pub(crate) fn run(mut self) {
        sys::forbid_allocation(true);
        let mut ready = [Ready::default(); 64];
        loop {
            let now = sys::now();
            self.look_after(now);
            if self.strays.act(now) == Act::Kill {
                self.kill_strays();
            }
            self.flush(now);
            if self.host_is_gone && self.wards.is_empty() && self.strays.next().is_none() {
                return self.leave();
            }
            self.make_spare(now);
            let next = [
                self.look_after,
                self.strays.next(),
                self.send_again,
                self.make_spare_at,
            ];
            let timeout = next
                .into_iter()
                .flatten()
                .min()
                .map(|next| next.saturating_sub(sys::now()));
            let count = sys::epoll_wait(&self.epoll, &mut ready, timeout);
            let ready = &ready[..count];
            // First, as a request may ask for the keeper that was made before.
            if ready.iter().any(|event| event.token() == MOUNTS) {
                self.mounts_have_changed(sys::now());
            }
            for event in ready {
                match event.token() {
                    HOST => self.hear_host(),
                    HOST_PROCESS => self.lose_host(),
                    SIGNALS => self.reap(),
                    SHARED => self.hear_shared(),
                    MOUNTS => {}
                    token => {
                        if let Some(place) = self.wards.resolve(Token::from_number(token)) {
                            self.hear_ward(place);
                        }
                    }
                }
            }
        }
    }

    /// Ends the keeper that was made ahead and the namespace that workers shared, and removes the cgroup that theirs were in.
    /// No worker is left, so that this takes no time.
    fn leave(self) {
        let spare = self.spare.as_ref().map(|spare| spare.keeper);
        let init = self.shared.as_ref().map(|shared| shared.pid);
        for pid in spare.into_iter().chain(init) {
            // A child that was not reaped, so that the number is its own.
            let _ = sys::kill(pid, SIGKILL);
        }
        // The worker of that keeper comes here, and ends by its death or the end of its gate.
        drop(self.spare);
        while sys::wait_for(ANY).is_ok() {}
        sys::forbid_allocation(false);
        if let Some(cgroup) = self.run_cgroup
            && let Ok(path) = std::fs::read_link(format!("/proc/self/fd/{}", cgroup.as_raw_fd()))
        {
            // The host may have done so, and one that is not empty stays for whoever looks for what is left.
            let _ = std::fs::remove_dir(path);
        }
    }

    // ---- the host

    fn hear_host(&mut self) {
        for _ in 0..REQUESTS_AT_ONCE {
            if self.host_is_gone {
                return;
            }
            match packet::receive::<Request>(host(), false) {
                Incoming::Message(message, fds) => self.obey(message, fds),
                Incoming::Nonsense => {}
                Incoming::Nothing => return,
                Incoming::End => self.lose_host(),
            }
        }
    }

    fn obey(&mut self, message: Message<Request>, fds: Fds) {
        match message.kind {
            // Only once, at the start.
            Request::Hello => {}
            Request::Spawn => {
                sys::forbid_allocation(false);
                self.spawn(message, fds);
                sys::forbid_allocation(true);
            }
            Request::Manage => {
                sys::forbid_allocation(false);
                self.manage(message.id, fds);
                sys::forbid_allocation(true);
            }
            Request::Ping => self.pong = Some(message.a),
            Request::Go | Request::Signal | Request::Stop | Request::Release => {
                if let Some(place) = self.wards.find(message.id) {
                    self.ask_ward(place, message);
                }
            }
        }
    }

    fn ask_ward(&mut self, place: Place, message: Message<Request>) {
        let now = sys::now();
        let Some(ward) = self.wards.get_mut(place) else {
            return;
        };
        match (&mut ward.kind, message.kind) {
            (Kind::Kept(kept), Request::Go) => {
                // The worker reads it when it is ready to; before `Held` this is too early to be meant.
                if kept.held
                    && let Some(gate) = kept.gate.take()
                {
                    // When the worker is gone, so is the other end.
                    let _: Sent = packet::send::<_, 0>(&gate, &message, []);
                }
            }
            (Kind::Kept(kept), Request::Signal) => kept.tell(message),
            (Kind::Kept(kept), Request::Stop) => {
                kept.tell(message);
                let grace = message.a.max(0).cast_unsigned();
                let overdue = now.saturating_add(grace).saturating_add(MARGIN_MS);
                let overdue = kept.overdue.map_or(overdue, |earlier| earlier.min(overdue));
                kept.overdue = Some(overdue);
                self.look_after_at(overdue);
            }
            (Kind::Managed(managed), Request::Signal) => {
                let flags = match Target::from_number(message.b) {
                    Some(Target::Worker | Target::Tree) => 0,
                    Some(Target::Group) => PIDFD_SIGNAL_PROCESS_GROUP,
                    None => return,
                };
                if let Ok(signal @ 1..=64) = i32::try_from(message.a) {
                    managed.signal(signal, flags);
                }
            }
            (Kind::Managed(managed), Request::Stop) => {
                managed.stop(now, message.a.max(0).cast_unsigned(), message.b == 1);
                let next = managed.ending.next();
                next.into_iter().for_each(|next| self.look_after_at(next));
            }
            (Kind::Managed(managed), Request::Release) => {
                let _ = sys::epoll_control(&self.epoll, EPOLL_CTL_DEL, &managed.pidfd, 0, 0);
                self.wards.remove(message.id);
            }
            _ => {}
        }
    }

    fn lose_host(&mut self) {
        if self.host_is_gone {
            return;
        }
        self.host_is_gone = true;
        let _ = sys::epoll_control(&self.epoll, EPOLL_CTL_DEL, host(), 0, 0);
        let _ = sys::epoll_control(&self.epoll, EPOLL_CTL_DEL, &self.host_process, 0, 0);
        // Closes the socket, so that whoever holds the other end sees it.
        let _ = sys::duplicate_onto(sys::standard(1), 0);
        (self.pong, self.send_again) = (None, None);
        let grace = self.host_grace.try_into().unwrap_or(i64::MAX);
        // The kernel ends a namespace when its first process is killed, and does not wait for that to notice anything.
        let namespaces_are_killed = self.host_grace == 0 && self.level == Level::Namespace;
        let shared_is_killed = self.host_grace == 0
            && self
                .shared
                .as_ref()
                .is_some_and(|shared| sys::kill(shared.pid, SIGKILL).is_ok());
        for place in 0..self.wards.places() {
            let Some(ward) = self.wards.get_mut(place) else {
                continue;
            };
            let id = ward.id;
            match &mut ward.kind {
                Kind::Managed(managed) => {
                    managed.ending.kill(sys::now());
                    self.look_after_at(0);
                }
                Kind::Kept(kept) if namespaces_are_killed => kept.signal(SIGKILL),
                Kind::Kept(_) if shared_is_killed => {}
                // Keepers see the host's death by themselves, but not that only its socket was closed.
                Kind::Kept(_) => self.ask_ward(place, Message::new(Request::Stop, id).with(grace, 0, 0)),
            }
        }
        // Nobody is left to be told anything.
        for place in 0..self.wards.places() {
            self.settle(place);
        }
    }

    // ---- what the host is told

    fn note(&mut self, place: Place, event: Event, numbers: (i64, i64)) {
        if let Some(ward) = self.wards.get_mut(place) {
            ward.outbox.push(event, numbers);
            self.wards.queue(place);
        }
    }

    fn flush(&mut self, now: u64) {
        if self.send_again.is_some_and(|again| again > now) {
            return;
        }
        self.send_again = None;
        let sent = if self.host_is_gone {
            Sent::Gone
        } else {
            self.send_all()
        };
        let is_full = match sent {
            Sent::Yes => false,
            Sent::Full => true,
            Sent::Later => {
                self.send_again = Some(now + SEND_PAUSE_MS);
                false
            }
            // Its end is noticed elsewhere, unless it was.
            Sent::Gone => false,
        };
        if is_full != self.host_is_full && !self.host_is_gone {
            self.host_is_full = is_full;
            let events = EPOLLIN | EPOLLRDHUP | if is_full { EPOLLOUT } else { 0 };
            let _ = sys::epoll_control(&self.epoll, EPOLL_CTL_MOD, host(), events, HOST);
        }
    }

    fn send_all(&mut self) -> Sent {
        if let Some(a) = self.pong {
            match packet::send::<_, 0>(host(), &Message::new(Event::Pong, 0).with(a, 0, 0), []) {
                Sent::Yes => self.pong = None,
                not_sent => return not_sent,
            }
        }
        while let Some(place) = self.wards.front() {
            if let Some(ward) = self.wards.get_mut(place) {
                match ward.flush(host()) {
                    Sent::Yes => {}
                    not_sent => return not_sent,
                }
            }
            self.wards.dequeue();
            self.settle(place);
        }
        Sent::Yes
    }

    /// Forgets a ward about which all is said and done.
    fn settle(&mut self, place: Place) {
        let host_is_gone = self.host_is_gone;
        let Some(ward) = self.wards.get_mut(place) else {
            return;
        };
        let busy = matches!(&ward.kind, Kind::Kept(kept) if kept.cgroup != Cgroup::None);
        if ward.finished && !busy && (host_is_gone || ward.outbox.front().is_none()) {
            let id = ward.id;
            self.wards.remove(id);
        }
    }

    // ---- keepers and managed processes

    fn hear_ward(&mut self, place: Place) {
        match self.wards.get_mut(place).map(|ward| &mut ward.kind) {
            Some(Kind::Kept(_)) => self.hear_keeper(place),
            Some(Kind::Managed(managed)) => {
                let _ = sys::epoll_control(&self.epoll, EPOLL_CTL_DEL, &managed.pidfd, 0, 0);
                let by = managed.ending.by();
                self.note(place, Event::Exited, (-1, 0));
                self.note(place, Event::Ended, (by as i64, 0));
                self.finish(place);
            }
            None => {}
        }
    }

    fn hear_keeper(&mut self, place: Place) {
        loop {
            let Some(Ward {
                kind: Kind::Kept(kept),
                ..
            }) = self.wards.get_mut(place)
            else {
                return;
            };
            let Some(control) = &kept.control else { return };
            let (message, fds) = match packet::receive::<Event>(control, false) {
                Incoming::Message(message, fds) => (message, fds),
                Incoming::Nonsense => continue,
                Incoming::Nothing => return,
                Incoming::End => {
                    let _ = sys::epoll_control(&self.epoll, EPOLL_CTL_DEL, control, 0, 0);
                    kept.control = None;
                    return;
                }
            };
            let (a, b) = (message.a, message.b);
            match message.kind {
                Event::Born => self.bear(place, a, fds),
                Event::Held => self.hold(place),
                Event::Exited => {
                    (kept.exited, kept.worker) = (true, None);
                    if kept.held {
                        self.note(place, Event::Exited, (a, b));
                    }
                }
                Event::Started | Event::ExecFailed => {
                    self.note(place, message.kind, (a, b));
                    self.wants_spare = true;
                }
                // Told when the keeper is reaped, which proves it.
                Event::Ended => kept.outcome = Some(Outcome::Ended { by: a, swept: b }),
                Event::SpawnFailed => {
                    let step = Step::from_number(a).unwrap_or(Step::Fork);
                    kept.outcome = Some(Outcome::Failed(Failure::new(step, b as i32)));
                }
                Event::Welcome | Event::Refused | Event::Pong | Event::Kept => {}
            }
        }
    }

    /// There is the process of a worker. One whose pidfd was lost, for want of descriptors, is ended: its host could not know
    /// it.
    fn bear(&mut self, place: Place, pid: i64, fds: Fds) {
        let Some(Ward {
            id,
            kind: Kind::Kept(kept),
            ..
        }) = self.wards.get_mut(place)
        else {
            return;
        };
        match fds.exactly() {
            Some([pidfd]) => {
                kept.worker_pidfd = Some(pidfd);
                // In a namespace of its own the number means nothing here.
                let is_ours = matches!(self.level, Level::Subreaper | Level::Cgroup);
                kept.worker = pid.try_into().ok().filter(|_| is_ours);
                self.note(place, Event::Kept, (0, 0));
            }
            None => {
                kept.failure = Some(Failure::new(Step::Plumbing, EMFILE));
                let stop = Message::new(Request::Stop, *id);
                self.ask_ward(place, stop);
            }
        }
    }

    /// A worker waits at its gate.
    fn hold(&mut self, place: Place) {
        if let Some(Ward {
            kind: Kind::Kept(kept),
            ..
        }) = self.wards.get_mut(place)
            && kept.failure.is_none()
        {
            kept.held = true;
            self.note(place, Event::Held, (0, 0));
        }
    }

    fn reap(&mut self) {
        // Which signals came does not matter: all that can be reaped is.
        let _ = sys::read(&self.signals, &mut [0; 256]);
        loop {
            match sys::reap(WCLONE | WUNTRACED) {
                Reaped::Child(pid, _) => self.keeper_ended(pid),
                // Its worker can do so, where their user is the same.
                Reaped::Stopped(pid) => drop(sys::kill(pid, SIGCONT)),
                Reaped::Nobody | Reaped::NoChildren => break,
            }
        }
        loop {
            match sys::reap(0) {
                Reaped::Child(pid, status) => self.stray_ended(pid, status),
                Reaped::Stopped(_) => {}
                Reaped::Nobody => return self.strays.kill(sys::now()),
                Reaped::NoChildren => break,
            }
        }
        self.strays = Ending::default();
        if self.shared.is_none() {
            // A keeper's children are ours before it can be reaped, so that none are left of any that was.
            self.finish_orphaned(i64::MAX);
        }
    }

    /// Tells of those trees without a keeper that have ended by the time this number was answered.
    fn finish_orphaned(&mut self, answered: i64) {
        for place in 0..self.wards.places() {
            if let Some(Ward {
                kind: Kind::Kept(kept),
                ..
            }) = self.wards.get_mut(place)
                && kept.orphaned.is_some_and(|Orphaned(asked)| asked <= answered)
            {
                self.finish_kept(place);
            }
        }
    }

    fn hear_shared(&mut self) {
        while let Some(answered) = self.shared.as_ref().and_then(Shared::swept) {
            self.finish_orphaned(answered);
        }
    }

    /// The first process of the namespace that all workers are in has ended, and they have with it.
    fn shared_ended(&mut self) {
        if let Some(shared) = self.shared.take() {
            let _ = sys::epoll_control(&self.epoll, EPOLL_CTL_DEL, &shared.control, 0, 0);
        }
        // No worker can be started any more. The host sees us leave, and starts another guardian.
        self.lose_host();
        self.finish_orphaned(i64::MAX);
    }

    fn keeper_ended(&mut self, pid: Pid) {
        if self.shared.as_ref().is_some_and(|shared| shared.pid == pid) {
            return self.shared_ended();
        }
        if self.spare.as_ref().is_some_and(|spare| spare.keeper == pid) {
            self.spare = None;
            return;
        }
        let Some(place) = self.keepers.remove(pid as u64) else {
            return;
        };
        // What it said last may not have been heard.
        self.hear_keeper(place);
        // There the kernel has ended the tree before its first process could be reaped.
        let in_namespace =
            self.level == Level::Namespace || self.level == Level::SharedNamespace && self.shared.is_none();
        let Some(Ward {
            id,
            kind: Kind::Kept(kept),
            ..
        }) = self.wards.get_mut(place)
        else {
            return;
        };
        let id = *id;
        (kept.keeper, kept.gate, kept.overdue) = (None, None, None);
        if let Some(control) = kept.control.take() {
            let _ = sys::epoll_control(&self.epoll, EPOLL_CTL_DEL, &control, 0, 0);
        }
        if kept.outcome.is_some() || in_namespace {
            return self.finish_kept(place);
        }
        match &mut self.shared {
            Some(shared) => kept.orphaned = Some(Orphaned(shared.ask_to_sweep())),
            None => {
                kept.orphaned = Some(Orphaned(0));
                self.strays = Ending::default();
                self.strays.kill(sys::now());
            }
        }
        if let Some(cgroup) = &self.run_cgroup
            && let Some(path) = Text::format(format_args!("{id}/cgroup.kill"))
            && let Ok(kill) = sys::open(Some(cgroup.as_fd()), path.as_c_str(), O_WRONLY)
        {
            // Where this fails, everything is killed one by one.
            let _ = sys::write(&kill, b"1");
        }
    }

    /// An orphan of a dead keeper has ended, which may be the worker itself.
    fn stray_ended(&mut self, pid: Pid, status: i32) {
        for place in 0..self.wards.places() {
            let is_it = matches!(
                self.wards.get_mut(place).map(|ward| &ward.kind),
                Some(Kind::Kept(Kept { worker: Some(worker), .. })) if *worker == pid
            );
            if !is_it {
                continue;
            }
            self.hear_keeper(place);
            if let Some(Ward {
                kind: Kind::Kept(kept),
                ..
            }) = self.wards.get_mut(place)
                && !kept.exited
            {
                (kept.worker, kept.exited) = (None, true);
                if kept.held {
                    self.note(place, Event::Exited, (status.into(), 0));
                }
            }
        }
    }

    fn kill_strays(&mut self) {
        let (keepers, spare) = (&self.keepers, self.spare.as_ref().map(|spare| spare.keeper));
        let is_keeper = |pid: Pid| keepers.find(pid as u64).is_some() || spare == Some(pid);
        self.sweep.kill(self.own, 0, &is_keeper);
        self.reap();
    }

    /// Says the last about a worker of which nothing is left.
    fn finish_kept(&mut self, place: Place) {
        let Some(Ward {
            kind: Kind::Kept(kept),
            ..
        }) = self.wards.get_mut(place)
        else {
            return;
        };
        kept.orphaned = None;
        let Kept {
            held,
            exited,
            failure,
            outcome,
            ..
        } = *kept;
        if !held {
            let failure = match (failure, outcome) {
                (Some(failure), _) | (None, Some(Outcome::Failed(failure))) => failure,
                (None, Some(Outcome::Ended { .. }) | None) => Failure::new(Step::Fork, ECHILD),
            };
            self.note(place, Event::SpawnFailed, failure.numbers());
        } else {
            if !exited {
                // The kernel killed and reaped it with its namespace.
                self.note(place, Event::Exited, (SIGKILL.into(), 0));
            }
            let (by, swept) = match outcome {
                Some(Outcome::Ended { by, swept }) => (by, swept),
                _ => (EndedBy::Kill as i64, 0),
            };
            self.note(place, Event::Ended, (by, swept));
        }
        self.finish(place);
    }

    fn finish(&mut self, place: Place) {
        if let Some(ward) = self.wards.get_mut(place) {
            ward.finished = true;
        }
        self.wants_spare = true;
        self.remove_cgroup(place, sys::now());
        if self.host_is_gone {
            self.settle(place);
        }
    }

    /// Removes a worker's cgroup, now or a little later: the kernel may not be through with its last process.
    fn remove_cgroup(&mut self, place: Place, now: u64) {
        let Some(Ward {
            id,
            kind: Kind::Kept(kept),
            ..
        }) = self.wards.get_mut(place)
        else {
            return;
        };
        let until = match kept.cgroup {
            Cgroup::None => return,
            Cgroup::Made => now + CGROUP_PATIENCE_MS,
            Cgroup::Removing { until } => until,
        };
        let name = Text::format(format_args!("{id}"));
        let busy = match (&self.run_cgroup, name) {
            (Some(run), Some(name)) => {
                cgroup::remove(run, name.as_c_str()).is_err_and(|error| errno(&error) == EBUSY)
            }
            _ => false,
        };
        if busy && now < until {
            kept.cgroup = Cgroup::Removing { until };
            self.look_after_at(now + CGROUP_PAUSE_MS);
        } else {
            kept.cgroup = Cgroup::None;
        }
    }

    // ---- what time brings

    fn look_after_at(&mut self, time: u64) {
        self.look_after = Some(self.look_after.map_or(time, |earlier| earlier.min(time)));
    }

    fn look_after(&mut self, now: u64) {
        if self.look_after.is_none_or(|time| time > now) {
            return;
        }
        self.look_after = None;
        for place in 0..self.wards.places() {
            let Some(ward) = self.wards.get_mut(place) else {
                continue;
            };
            let next = match &mut ward.kind {
                Kind::Kept(kept) => {
                    if kept.overdue.is_some_and(|overdue| overdue <= now) {
                        kept.overdue = None;
                        kept.signal(SIGKILL);
                    }
                    let next = kept.overdue;
                    if matches!(kept.cgroup, Cgroup::Removing { .. }) {
                        self.remove_cgroup(place, now);
                        self.settle(place);
                    }
                    next
                }
                Kind::Managed(managed) => {
                    let killed = managed.ending.act(now) != Act::Kill || managed.kill();
                    if killed || !self.host_is_gone {
                        managed.ending.next()
                    } else {
                        // Not ours to kill, or gone: there is nothing left to wait for.
                        ward.finished = true;
                        self.settle(place);
                        None
                    }
                }
            };
            next.into_iter().for_each(|next| self.look_after_at(next));
        }
    }
}
