//! One PID namespace for all workers of a run.
//!
//! Its first process starts nothing. It holds the namespace, reaps and kills the orphans of keepers that died, and
//! takes everything with it when it ends: with the guardian, by the kernel. Keepers are forks of the guardian that are
//! born into the namespace, so that the guardian goes on to be their parent.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::{
    close::close_all_but,
    ending::{Act, Ending},
    failure::{At, Failure},
    namespace,
    packet::{self, Incoming},
    sweep::Sweep,
    sys::{
        self, Forked, Pid, Poll, Reaped,
        constants::{CLONE_NEWNS, CLONE_NEWPID, ECHILD, O_PATH, PR_SET_PDEATHSIG, SIGKILL, SIGUSR1, WALL},
    },
    wire::{Event, Message, Request, Step},
};

/// The namespace and its first process.
pub(crate) struct Shared {
    pub(crate) pid: Pid,
    pub(crate) control: OwnedFd,
    pidfd: OwnedFd,
    /// Its root and its working directory, in its mounts.
    root: OwnedFd,
    here: OwnedFd,
    asked: i64,
}

impl Shared {
    /// Makes the namespace. From then on every fork of this process is born into it.
    pub(crate) fn make(
        host: &OwnedFd,
        host_grace: u64,
        signals: &OwnedFd,
        sweep: &mut Sweep,
    ) -> Result<Self, Failure> {
        let (control, its_control) = sys::socket_pair().at(Step::Plumbing)?;
        match sys::fork(CLONE_NEWPID, SIGUSR1).at(Step::PidNamespace)? {
            Forked::Child => {
                let failure = become_init(&its_control, host, host_grace, signals, sweep);
                let (step, errno) = failure.numbers();
                let message = Message::new(Event::SpawnFailed, 0).with(step, errno, 0);
                let _ = packet::send::<_, 0>(&its_control, &message, []);
                sys::exit(1)
            }
            Forked::Parent { pid, pidfd } => {
                drop(its_control);
                let failed = Failure::new(Step::PidNamespace, ECHILD);
                let [root, here] = match packet::receive::<Event>(&control, true) {
                    Incoming::Message(message, fds) if message.kind == Event::Held => {
                        fds.exactly().ok_or(failed)?
                    }
                    Incoming::Message(message, _) => {
                        let step = Step::from_number(message.a).unwrap_or(Step::PidNamespace);
                        return Err(Failure::new(step, message.b as i32));
                    }
                    Incoming::Nonsense | Incoming::Nothing | Incoming::End => return Err(failed),
                };
                sys::setns(&pidfd, CLONE_NEWPID).at(Step::PidNamespace)?;
                Ok(Self {
                    pid,
                    control,
                    pidfd,
                    root,
                    here,
                    asked: 0,
                })
            }
        }
    }

    /// Takes a process that was born into the namespace to its mounts, and to the root and the directory that it had.
    pub(crate) fn enter(&self) -> Result<(), Failure> {
        sys::setns(&self.pidfd, CLONE_NEWNS).at(Step::MountProc)?;
        namespace::go_back(&self.root, &self.here).at(Step::MountProc)
    }

    /// Has the orphans killed that are there now. The number comes back when that is done.
    pub(crate) fn ask_to_sweep(&mut self) -> i64 {
        self.asked += 1;
        let message = Message::new(Request::Ping, 0).with(self.asked, 0, 0);
        // It answers the last of many, so that one which is lost for want of room is covered by those before it.
        let _ = packet::send::<_, 0>(&self.control, &message, []);
        self.asked
    }

    /// The number of the last request that is done.
    pub(crate) fn swept(&self) -> Option<i64> {
        match packet::receive::<Event>(&self.control, false) {
            Incoming::Message(message, _) => Some(message.a),
            _ => None,
        }
    }
}

/// Returns only when it cannot be.
fn become_init(
    control: &OwnedFd,
    host: &OwnedFd,
    host_grace: u64,
    signals: &OwnedFd,
    sweep: &mut Sweep,
) -> Failure {
    sys::set_name(c"snakepit-init");
    match prepare(control, host, signals) {
        Ok([root, here]) => {
            let fds = [Some(root.as_fd()), Some(here.as_fd())];
            let _ = packet::send(control, &Message::new(Event::Held, 0), fds);
        }
        Err(failure) => return failure,
    }
    sys::forbid_allocation(true);
    let mut init = Init {
        control,
        host: Some(host.as_fd()),
        host_grace,
        signals,
        sweep,
        ending: Ending::default(),
        asked: None,
    };
    loop {
        init.turn();
    }
}

fn prepare(control: &OwnedFd, host: &OwnedFd, signals: &OwnedFd) -> Result<[OwnedFd; 2], Failure> {
    for number in [0, 2] {
        sys::duplicate_onto(sys::standard(1), number).at(Step::Descriptors)?;
    }
    let keep = [control.as_raw_fd(), host.as_raw_fd(), signals.as_raw_fd()];
    close_all_but(&mut [0, 1, 2, keep[0], keep[1], keep[2]])?;
    // When the guardian was gone before, its end of the socket is closed, which is seen as soon as that is polled.
    sys::prctl(PR_SET_PDEATHSIG, SIGKILL).at(Step::DeathSignal)?;
    namespace::leave_mounts()?;
    let open = |path| sys::open(None, path, O_PATH).at(Step::MountProc);
    Ok([open(c"/")?, open(c".")?])
}

struct Init<'a> {
    control: &'a OwnedFd,
    host: Option<BorrowedFd<'a>>,
    host_grace: u64,
    signals: &'a OwnedFd,
    sweep: &'a mut Sweep,
    ending: Ending,
    /// What is to be answered when no orphans are left.
    asked: Option<i64>,
}

impl Init<'_> {
    fn turn(&mut self) {
        let now = sys::now();
        if self.reap_all() {
            self.ending = Ending::default();
            if let Some(asked) = self.asked.take() {
                let message = Message::new(Event::Pong, 0).with(asked, 0, 0);
                let _ = packet::send::<_, 0>(self.control, &message, []);
            }
        } else {
            // Whoever comes here has lost its keeper.
            self.ending.kill(now);
        }
        if self.ending.act(now) == Act::Kill {
            self.sweep.kill(1, 0, &|_| false);
        }
        let timeout = self.ending.next().map(|next| next.saturating_sub(sys::now()));
        let mut polls = [
            Poll::readable(Some(self.signals.as_fd())),
            Poll::readable(Some(self.control.as_fd())),
            Poll::readable(self.host),
        ];
        sys::poll(&mut polls, timeout);
        let [signals, control, host] = polls.map(|poll| poll.is_ready());
        if signals {
            let _ = sys::read(self.signals, &mut [0; 128]);
        }
        if control {
            self.hear();
        }
        if host {
            self.host = None;
            if self.host_grace == 0 {
                // The kernel ends everything in the namespace, sooner than its keepers could.
                sys::exit(0);
            }
        }
    }

    /// Reaps what has ended; whether there are no children.
    fn reap_all(&self) -> bool {
        loop {
            match sys::reap(WALL) {
                Reaped::Child(..) | Reaped::Stopped(_) => {}
                Reaped::Nobody => return false,
                Reaped::NoChildren => return true,
            }
        }
    }

    fn hear(&mut self) {
        loop {
            match packet::receive::<Request>(self.control, false) {
                Incoming::Message(message, _) => {
                    self.asked = Some(message.a);
                    self.ending = Ending::default();
                }
                Incoming::Nonsense => {}
                Incoming::Nothing => return,
                Incoming::End => sys::exit(0),
            }
        }
    }
}
