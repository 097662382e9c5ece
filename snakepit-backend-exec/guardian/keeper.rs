//! A keeper: the process between the guardian and one worker.
//!
//! It is a fork of the guardian, which makes it ahead: it is isolated, and has forked the worker, before anybody asks for
//! one. It reaps everything that comes to it, ends the tree when it is told to or when host or guardian are gone, and
//! leaves when it has no children left. As it is the first process of a PID namespace or a subreaper, that means that
//! nothing of the tree is left: its own end is the proof.

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
        self, Forked, Limit, Pid, Poll, Reaped,
        constants::{
            EINVAL, F_SETFL, O_NONBLOCK, O_WRONLY, PIDFD_SIGNAL_PROCESS_GROUP, PR_SET_CHILD_SUBREAPER,
            PR_SET_PDEATHSIG, SIGCHLD, SIGCONT, SIGKILL, SIGTERM, WALL, WUNTRACED,
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
    pub(crate) level: Level,
    pub(crate) host_grace: u64,
    /// Its end of the socket to the guardian.
    pub(crate) control: OwnedFd,
    /// The worker's end of its gate.
    pub(crate) gate: OwnedFd,
    /// Whether the worker is to be born into a cgroup, which comes when it is asked for. Else it is forked at once, and
    /// hears at its gate what it is to become.
    pub(crate) in_cgroup: bool,
    /// The limit on descriptors that the worker gets.
    pub(crate) descriptors: Limit,
    /// The namespace it was born into, where one is shared.
    pub(crate) shared: Option<&'a Shared>,
    pub(crate) host: &'a OwnedFd,
    pub(crate) signals: &'a OwnedFd,
    pub(crate) sweep: &'a mut Sweep,
}

/// Becomes the keeper.
pub(crate) fn run(kit: Kit<'_>) -> ! {
    // The guardian may have been in the midst of what is done without.
    sys::forbid_allocation(false);
    sys::set_name(c"snakepit-keeper");
    match isolate(&kit).and_then(|own| start(&kit, own)) {
        Ok(started) => {
            drop(kit.gate);
            sys::forbid_allocation(true);
            Keeper {
                in_namespace: kit.level == Level::Namespace,
                host_grace: kit.host_grace,
                control: Some(kit.control),
                host: Some(kit.host),
                signals: kit.signals,
                sweep: kit.sweep,
                started,
                worker_is_gone: false,
                stage: Stage::Starting,
                ending: Ending::default(),
                killing_since: None,
                swept: 0,
            }
            .keep()
        }
        Err(failure) => {
            let (step, errno) = failure.numbers();
            say(
                &kit.control,
                &Message::new(Event::SpawnFailed, 0).with(step, errno, 0),
                None,
            );
            sys::exit(0)
        }
    }
}

/// Makes this process one that holds a tree; its number in its own namespace.
fn isolate(kit: &Kit<'_>) -> Result<Pid, Failure> {
    // Its descriptors are the guardian's, and among those that are closed next.
    if let Some(shared) = kit.shared {
        shared.enter()?;
    }
    // The guardian's own three are let go of: what they are connected to must see the guardian's end, not ours.
    sys::duplicate_onto(sys::standard(1), 0).at(Step::Descriptors)?;
    sys::duplicate_onto(sys::standard(1), 2).at(Step::Descriptors)?;
    let [control, gate] = [&kit.control, &kit.gate].map(AsRawFd::as_raw_fd);
    let [host, signals] = [kit.host, kit.signals].map(AsRawFd::as_raw_fd);
    close_all_but(&mut [0, 1, 2, control, gate, host, signals])?;

    if kit.level == Level::Namespace {
        // When the guardian was gone before, its end of the socket is closed, which is seen as soon as that is polled.
        sys::prctl(PR_SET_PDEATHSIG, SIGKILL).at(Step::DeathSignal)?;
    } else {
        sys::prctl(PR_SET_CHILD_SUBREAPER, 1).at(Step::Subreaper)?;
    }
    let own = sys::getpid().at(Step::Fork)?;
    // Later on its first process signals everybody there is, which must be the namespace.
    if (own == 1) != (kit.level == Level::Namespace) {
        return Err(Failure::new(Step::PidNamespace, EINVAL));
    }
    if kit.level == Level::Namespace {
        namespace::leave_mounts()?;
    }
    Ok(own)
}

/// Waits until a worker is asked for. Leaves where nobody will do so any more.
fn await_spawn(kit: &Kit<'_>) -> Result<Parts, Failure> {
    loop {
        let mut polls = [
            Poll::readable(Some(kit.control.as_fd())),
            Poll::readable(Some(kit.host.as_fd())),
        ];
        sys::poll(&mut polls, None);
        match packet::receive::<Request>(&kit.control, false) {
            Incoming::Message(message, fds) if message.kind == Request::Spawn => {
                let parts = Parts::of(&message, fds)?;
                if parts.cgroup.is_none() {
                    return Err(Failure::new(Step::EnterCgroup, EINVAL));
                }
                return Ok(parts);
            }
            Incoming::End => sys::exit(0),
            Incoming::Message(..) | Incoming::Nonsense | Incoming::Nothing => {}
        }
        if polls[1].is_ready() {
            sys::exit(0);
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

/// Starts the worker: at once, or when it is asked for.
fn start(kit: &Kit<'_>, own: Pid) -> Result<Started, Failure> {
    let parts = if kit.in_cgroup {
        Some(await_spawn(kit)?)
    } else {
        None
    };
    let cgroup = parts.as_ref().and_then(|parts| parts.cgroup.as_ref());
    // Absent before Linux 5.14; then everything is killed one by one.
    let kill = cgroup.map(|cgroup| sys::open(Some(cgroup.as_fd()), c"cgroup.kill", O_WRONLY));
    let memory_events = cgroup.map(|cgroup| sys::open(Some(cgroup.as_fd()), c"memory.events", 0));
    let (status, reports) = sys::pipe().at(Step::Plumbing)?;
    sys::fcntl(&status, F_SETFL, O_NONBLOCK).at(Step::Plumbing)?;
    let into_cgroup = cgroup.map(|cgroup| sys::fork_into(cgroup.as_fd(), SIGCHLD));
    let (forked, entered) = match into_cgroup {
        Some(Ok(forked)) => (forked, true),
        // Not known to the kernel, or not allowed: then the worker goes there itself, or says why it cannot.
        _ => (sys::fork(0, SIGCHLD).at(Step::Fork)?, false),
    };
    match forked {
        Forked::Child => worker::run(worker::Kit {
            parts,
            keeper: own,
            entered,
            gate: &kit.gate,
            descriptors: kit.descriptors,
            guardian: &kit.control,
            status: &reports,
        }),
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
pub(crate) fn say(control: &OwnedFd, message: &Message<Event>, pidfd: Option<&OwnedFd>) -> bool {
    for _ in 0..TRIES {
        match packet::send(control, message, [pidfd.map(AsFd::as_fd)]) {
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
    /// It makes its settings, tells the guardian, and waits at the gate.
    Starting,
    /// It could not make them.
    Failed(Failure),
    /// The gate has opened.
    Passed,
    /// It is the program, or could not become it.
    Done,
}

struct Keeper<'a> {
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
            // A worker that waits, and could be stopped by another one, would keep whoever asks for it waiting.
            let stopped = if self.stage == Stage::Starting {
                WUNTRACED
            } else {
                0
            };
            match sys::reap(WALL | stopped) {
                Reaped::Stopped(pid) => drop(sys::kill(pid, SIGCONT)),
                Reaped::Child(pid, status) if pid == self.started.worker && !self.worker_is_gone => {
                    self.worker_is_gone = true;
                    // What it reported comes before its end.
                    self.read_reports();
                    match self.stage {
                        Stage::Failed(_) => {}
                        // The guardian knows whether it was ever held.
                        Stage::Starting | Stage::Passed | Stage::Done => {
                            let oom_kills = self.started.memory_events.as_ref().map_or(0, proc::oom_kills);
                            self.say(Event::Exited, (status.into(), oom_kills.into()));
                        }
                    }
                }
                Reaped::Child(..) => {}
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
                        self.say(Event::Started, (0, 0));
                    }
                    return;
                }
                Err(_) => return,
            };
            match (self.stage, report) {
                (Stage::Starting, Some(Report::Failed(failure))) => self.stage = Stage::Failed(failure),
                (Stage::Starting, Some(Report::Passed)) => self.stage = Stage::Passed,
                (Stage::Passed, Some(Report::Failed(failure))) => {
                    self.stage = Stage::Done;
                    self.say(Event::ExecFailed, failure.numbers());
                }
                // Nobody else has the pipe.
                _ => {}
            }
        }
    }

    fn say(&self, event: Event, (a, b): (i64, i64)) {
        if let Some(control) = &self.control {
            // A guardian that is gone, or takes nothing for so long, is seen elsewhere.
            say(control, &Message::new(event, 0).with(a, b, 0), None);
        }
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
            Stage::Failed(failure) => self.say(Event::SpawnFailed, failure.numbers()),
            Stage::Starting | Stage::Passed | Stage::Done => {
                self.say(Event::Ended, (self.ending.by() as i64, self.swept.into()));
            }
        }
        sys::exit(0)
    }
}
