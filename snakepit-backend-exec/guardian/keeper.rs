//! A keeper: the process between the guardian and one worker.
//!
//! It is a fork of the guardian. It starts the worker, reaps everything that comes to it, ends the tree when it is told
//! to or when host or guardian are gone, and leaves when it has no children left. As it is the first process of a PID
//! namespace or a subreaper, that means that nothing of the tree is left: its own end is the proof.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use crate::{
    close::close_all_but,
    ending::{Act, Ending},
    failure::{At, Failure},
    namespace,
    packet::{self, Incoming, Sent},
    proc,
    shared::Shared,
    sweep::Sweep,
    sys::{
        self, Forked, Pid, Poll, Reaped,
        constants::{
            ECHILD, EINVAL, F_SETFL, O_NONBLOCK, O_WRONLY, PIDFD_SIGNAL_PROCESS_GROUP,
            PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG, SIGCHLD, SIGCONT, SIGKILL, SIGTERM, WALL,
        },
    },
    wire::{Event, Level, Message, Request, Step, Target},
    worker::{self, Parts, REPORT, Report},
};

/// How long the first process of a namespace goes on killing before it leaves the rest to the kernel, which kills all
/// that is left at its end.
const KILL_PATIENCE_MS: u64 = 1000;

/// How often, a millisecond apart, something is said again that the kernel was too short of memory to pass on.
const TRIES: u32 = 1000;

/// What a keeper is made of.
pub(crate) struct Kit<'a> {
    pub(crate) id: u64,
    pub(crate) level: Level,
    pub(crate) host_grace: u64,
    /// Its end of the socket to the guardian.
    pub(crate) control: OwnedFd,
    pub(crate) parts: Parts,
    /// The namespace it was born into, where one is shared.
    pub(crate) shared: Option<&'a Shared>,
    pub(crate) host: &'a OwnedFd,
    pub(crate) signals: &'a OwnedFd,
    pub(crate) sweep: &'a mut Sweep,
}

/// Becomes the keeper.
pub(crate) fn run(kit: Kit<'_>) -> ! {
    sys::set_name(c"snakepit-keeper");
    let (id, level, host_grace) = (kit.id, kit.level, kit.host_grace);
    let Kit {
        control,
        parts,
        shared,
        host,
        signals,
        sweep,
        ..
    } = kit;
    match start(level, &control, parts, shared, host, signals) {
        Ok(started) => Keeper {
            id,
            in_namespace: level == Level::Namespace,
            host_grace,
            control: Some(control),
            host: Some(host),
            signals,
            sweep,
            started,
            worker_is_gone: false,
            stage: Stage::Starting,
            ending: Ending::default(),
            killing_since: None,
            swept: 0,
        }
        .keep(),
        Err(failure) => {
            let (step, errno) = failure.numbers();
            say(
                &control,
                Message::new(Event::SpawnFailed, id).with(step, errno, 0),
                None,
            );
            sys::exit(0)
        }
    }
}

/// A worker that was forked.
struct Started {
    own: Pid,
    worker: Pid,
    pidfd: OwnedFd,
    /// Where its reports come from, until it has executed its program.
    status: Option<OwnedFd>,
    /// Kills everything in its cgroup.
    cgroup_kill: Option<OwnedFd>,
    /// Says how often memory ran out in its cgroup, where that has the controller.
    memory_events: Option<OwnedFd>,
}

fn start(
    level: Level,
    control: &OwnedFd,
    parts: Parts,
    shared: Option<&Shared>,
    host: &OwnedFd,
    signals: &OwnedFd,
) -> Result<Started, Failure> {
    // Its descriptors are the guardian's, and among those that are closed next.
    if let Some(shared) = shared {
        shared.enter()?;
    }
    // The guardian's own three are let go of: what they are connected to must see the guardian's end, not ours.
    sys::duplicate_onto(sys::standard(1), 0).at(Step::Descriptors)?;
    sys::duplicate_onto(sys::standard(1), 2).at(Step::Descriptors)?;
    let [input, output, error] = parts.standard.each_ref().map(AsRawFd::as_raw_fd);
    let cgroup = parts.cgroup.as_ref().map_or(0, AsRawFd::as_raw_fd);
    let (spec, gate) = (parts.spec.as_raw_fd(), parts.gate.as_raw_fd());
    let (control, host, signals) = (control.as_raw_fd(), host.as_raw_fd(), signals.as_raw_fd());
    close_all_but(&mut [
        0, 1, 2, control, host, signals, spec, gate, cgroup, input, output, error,
    ])?;

    if level == Level::Namespace {
        // When the guardian was gone before, its end of the socket is closed, which is seen as soon as that is polled.
        sys::prctl(PR_SET_PDEATHSIG, SIGKILL).at(Step::DeathSignal)?;
        namespace::mount_proc()?;
    } else {
        sys::prctl(PR_SET_CHILD_SUBREAPER, 1).at(Step::Subreaper)?;
    }

    let own = sys::getpid().at(Step::Fork)?;
    // Later on its first process signals everybody there is, which must be the namespace.
    if (own == 1) != (level == Level::Namespace) {
        return Err(Failure::new(Step::PidNamespace, EINVAL));
    }
    // Absent before Linux 5.14; then everything is killed one by one.
    let kill = parts
        .cgroup
        .as_ref()
        .map(|cgroup| sys::open(Some(cgroup.as_fd()), c"cgroup.kill", O_WRONLY));
    let memory_events = parts
        .cgroup
        .as_ref()
        .map(|cgroup| sys::open(Some(cgroup.as_fd()), c"memory.events", 0));
    let (status, reports) = sys::pipe().at(Step::Plumbing)?;
    sys::fcntl(&status, F_SETFL, O_NONBLOCK).at(Step::Plumbing)?;
    let into_cgroup = parts
        .cgroup
        .as_ref()
        .map(|cgroup| sys::fork_into(cgroup.as_fd(), SIGCHLD));
    let (forked, entered) = match into_cgroup {
        Some(Ok(forked)) => (forked, true),
        // Not known to the kernel, or not allowed: then the worker goes there itself, or says why it cannot.
        _ => (sys::fork(0, SIGCHLD).at(Step::Fork)?, false),
    };
    match forked {
        Forked::Child => worker::run(&parts, own, entered, reports.as_fd()),
        Forked::Parent { pid, pidfd } => Ok(Started {
            own,
            worker: pid,
            pidfd,
            status: Some(status),
            cgroup_kill: kill.and_then(Result::ok),
            memory_events: memory_events.and_then(Result::ok),
        }),
    }
}

/// Says something to the guardian; whether it could be said.
fn say(control: &OwnedFd, message: Message<Event>, pidfd: Option<&OwnedFd>) -> bool {
    for _ in 0..TRIES {
        match packet::send(control, &message, [pidfd.map(AsFd::as_fd)]) {
            Sent::Yes => return true,
            Sent::Gone => return false,
            Sent::Full | Sent::Later => sys::poll(&mut [], Some(1)),
        }
    }
    false
}

/// How far the worker has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It makes its settings.
    Starting,
    /// It could not make them.
    Failed(Failure),
    /// It waits at the gate, and the guardian knows.
    Held,
    /// The gate has opened.
    Passed,
    /// It is the program, or could not become it.
    Done,
}

struct Keeper<'a> {
    id: u64,
    in_namespace: bool,
    host_grace: u64,
    /// The guardian, until it is gone.
    control: Option<OwnedFd>,
    /// A pidfd of the host, until it is gone.
    host: Option<&'a OwnedFd>,
    signals: &'a OwnedFd,
    sweep: &'a mut Sweep,
    started: Started,
    worker_is_gone: bool,
    stage: Stage,
    ending: Ending,
    killing_since: Option<u64>,
    swept: u32,
}

impl Keeper<'_> {
    fn keep(mut self) -> ! {
        loop {
            if self.reap_all() {
                self.leave();
            }
            if self.ending.act(sys::now()) == Act::Kill {
                self.kill();
                continue;
            }
            let timeout = self.ending.next().map(|next| next.saturating_sub(sys::now()));
            let mut polls = [
                Poll::readable(Some(self.signals.as_fd())),
                Poll::readable(self.control.as_ref().map(AsFd::as_fd)),
                Poll::readable(self.host.map(AsFd::as_fd)),
                Poll::readable(self.started.status.as_ref().map(AsFd::as_fd)),
            ];
            sys::poll(&mut polls, timeout);
            let [signals, control, host, status] = polls.map(|poll| poll.is_ready());
            if signals {
                // Which signals came does not matter: all that can be reaped is.
                let _ = sys::read(self.signals, &mut [0; 128]);
            }
            if status {
                self.read_reports();
            }
            if control {
                self.read_control();
            }
            if host {
                self.host = None;
                self.host_is_gone();
            }
        }
    }

    /// Reaps what has ended; whether there are no children left.
    fn reap_all(&mut self) -> bool {
        loop {
            match sys::reap(WALL) {
                Reaped::Child(pid, status) if pid == self.started.worker && !self.worker_is_gone => {
                    self.worker_is_gone = true;
                    // What it reported comes before its end.
                    self.read_reports();
                    match self.stage {
                        Stage::Starting => self.stage = Stage::Failed(Failure::new(Step::Fork, ECHILD)),
                        Stage::Failed(_) => {}
                        Stage::Held | Stage::Passed | Stage::Done => {
                            let oom_kills = self.started.memory_events.as_ref().map_or(0, proc::oom_kills);
                            self.say(Event::Exited, (status.into(), oom_kills.into()), false);
                        }
                    }
                }
                Reaped::Child(..) | Reaped::Stopped(_) => {}
                Reaped::Nobody => return false,
                Reaped::NoChildren => return true,
            }
        }
    }

    fn read_reports(&mut self) {
        while let Some(status) = &self.started.status {
            let mut bytes = [0; REPORT];
            let report = match sys::read(status, &mut bytes) {
                Ok(REPORT) => Report::decode(bytes),
                Ok(_) => {
                    self.started.status = None;
                    if self.stage == Stage::Passed {
                        self.stage = Stage::Done;
                        self.say(Event::Started, (0, 0), false);
                    }
                    return;
                }
                Err(_) => return,
            };
            match (self.stage, report) {
                (Stage::Starting, Some(Report::Ready)) => self.hold(),
                (Stage::Starting, Some(Report::Failed(failure))) => self.stage = Stage::Failed(failure),
                (Stage::Held, Some(Report::Passed)) => self.stage = Stage::Passed,
                (Stage::Passed, Some(Report::Failed(failure))) => {
                    self.stage = Stage::Done;
                    self.say(Event::ExecFailed, failure.numbers(), false);
                }
                // Nobody else has the pipe.
                _ => {}
            }
        }
    }

    fn hold(&mut self) {
        // The guardian knows the worker by this number when it inherits it.
        let told = self.say(Event::Held, (self.started.worker.into(), 0), true);
        if told {
            self.stage = Stage::Held;
            sys::forbid_allocation(true);
        } else {
            self.stage = Stage::Failed(Failure::new(Step::Plumbing, ECHILD));
            self.ending.kill(sys::now());
        }
    }

    fn say(&self, event: Event, (a, b): (i64, i64), with_pidfd: bool) -> bool {
        let message = Message::new(event, self.id).with(a, b, 0);
        let pidfd = with_pidfd.then_some(&self.started.pidfd);
        self.control
            .as_ref()
            .is_some_and(|control| say(control, message, pidfd))
    }

    fn read_control(&mut self) {
        while let Some(control) = &self.control {
            match packet::receive::<Request>(control, false) {
                Incoming::Message(message, _) => match message.kind {
                    Request::Stop => {
                        let grace = message.a.max(0).cast_unsigned();
                        self.stop(grace, message.b == 1);
                    }
                    Request::Signal => self.signal(message.a, message.b),
                    _ => {}
                },
                Incoming::Nonsense => {}
                Incoming::Nothing => return,
                Incoming::End => {
                    self.control = None;
                    self.ending.kill(sys::now());
                }
            }
        }
    }

    fn host_is_gone(&mut self) {
        if self.host_grace == 0 && self.in_namespace {
            // The kernel kills everything in the namespace, sooner than we could. Nobody is left to be told how.
            sys::exit(0);
        }
        self.stop(self.host_grace, false);
    }

    fn stop(&mut self, grace: u64, silent: bool) {
        if self.ending.stop(sys::now(), grace, silent) {
            let swept = self.signal_tree(&[SIGTERM, SIGCONT]);
            self.swept = self.swept.max(swept);
        }
    }

    fn signal(&mut self, signal: i64, target: i64) {
        let Ok(signal @ 1..=64) = i32::try_from(signal) else {
            return;
        };
        match Target::from_number(target) {
            Some(Target::Worker) if !self.worker_is_gone => {
                // Not reaped, so that the number is its own; it may have ended.
                let _ = sys::kill(self.started.worker, signal);
            }
            Some(Target::Group) => self.signal_group(signal),
            Some(Target::Tree) => drop(self.signal_tree(&[signal])),
            Some(Target::Worker) | None => {}
        }
    }

    /// Signals the worker's process group.
    fn signal_group(&mut self, signal: i32) {
        let Started { own, worker, .. } = self.started;
        if !self.worker_is_gone {
            let _ = sys::kill(-worker, signal);
            return;
        }
        // The number may be another group's by now. The pidfd means the group that the worker led.
        let signalled = sys::pidfd_signal(&self.started.pidfd, signal, PIDFD_SIGNAL_PROCESS_GROUP);
        // Before Linux 6.9 its members are signalled each by itself.
        if signalled.is_err_and(|error| error.raw_os_error() == Some(EINVAL)) {
            self.sweep.signal_members(own, worker, signal);
        }
    }

    /// Signals the whole tree, and says how many processes outside the worker's group that were.
    fn signal_tree(&mut self, signals: &[i32]) -> u32 {
        let Started { own, worker, .. } = self.started;
        if self.in_namespace {
            let outside = self.sweep.count_outside(own, worker);
            for signal in signals {
                // Everything in the namespace but its first process, which we are.
                let _ = sys::kill(-1, *signal);
            }
            return outside;
        }
        signals.iter().for_each(|signal| self.signal_group(*signal));
        self.sweep.signal_outside(own, worker, signals)
    }

    fn kill(&mut self) {
        let Started { own, worker, .. } = self.started;
        let now = sys::now();
        let first = self.killing_since.is_none();
        let since = *self.killing_since.get_or_insert(now);
        if self.in_namespace {
            if first {
                self.swept = self.swept.max(self.sweep.count_outside(own, worker));
            }
            let _ = sys::kill(-1, SIGKILL);
            if now - since > KILL_PATIENCE_MS || self.control.is_none() {
                self.leave();
            }
            return;
        }
        if let Some(kill) = &self.started.cgroup_kill {
            if first {
                self.swept = self.swept.max(self.sweep.count_outside(own, worker));
            }
            let _ = sys::write(kill, b"1");
            if first {
                // What has left the cgroup is found next time.
                return;
            }
        }
        self.swept = self.swept.max(self.sweep.kill(own, worker, &|_| false));
    }

    fn leave(&self) -> ! {
        match self.stage {
            Stage::Starting => {
                self.say(
                    Event::SpawnFailed,
                    Failure::new(Step::Fork, ECHILD).numbers(),
                    false,
                );
            }
            Stage::Failed(failure) => drop(self.say(Event::SpawnFailed, failure.numbers(), false)),
            Stage::Held | Stage::Passed | Stage::Done => {
                self.say(Event::Ended, (self.ending.by() as i64, self.swept.into()), false);
            }
        }
        sys::exit(0)
    }
}
