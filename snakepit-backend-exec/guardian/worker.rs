//! The worker before it is the program: a child of its keeper that hears what it is to become, makes its settings, waits at
//! the gate and executes. It is forked before anybody asks for it, where it needs no cgroup of its own.

use std::{
    convert::Infallible,
    ffi::{CStr, c_char},
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::FileExt,
    },
    ptr,
};

use crate::{
    close::close_all_but,
    failure::{At, Failure},
    keeper::say,
    packet::{self, Fds, Incoming},
    sys::{
        self, Limit, Pid,
        constants::{
            E2BIG, ECHILD, EINVAL, EMFILE, O_WRONLY, PR_SET_PDEATHSIG, PRIO_PROCESS, RLIMIT_NOFILE, SIGKILL,
        },
    },
    text::Text,
    wire::{Event, Message, Request, SPAWN_CGROUP, Spec, Step},
};

/// What a worker is made of, as it came with the message that asks for it.
pub(crate) struct Parts {
    /// The spec, in a memory file.
    pub(crate) spec: OwnedFd,
    pub(crate) standard: [OwnedFd; 3],
    pub(crate) cgroup: Option<OwnedFd>,
}

/// What this process needs to become the worker.
pub(crate) struct Kit<'a> {
    /// What it is to become; heard at the gate where that is not known yet.
    pub(crate) parts: Option<Parts>,
    /// The process that it was forked from, in the worker's PID namespace.
    pub(crate) keeper: Pid,
    /// It began in its cgroup.
    pub(crate) entered: bool,
    /// A socket to the guardian, over which it is told what to become, and when.
    pub(crate) gate: &'a OwnedFd,
    /// The limit on descriptors as it was before the guardian raised its own.
    pub(crate) descriptors: Limit,
    /// The keeper's end of the socket to the guardian, which is told from here: that saves a way over the keeper.
    pub(crate) guardian: &'a OwnedFd,
    /// Where the keeper hears from.
    pub(crate) status: &'a OwnedFd,
}

/// What a worker tells its keeper, over a pipe that executing the program closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// The gate has opened.
    Passed,
    Failed(Failure),
}

/// Bytes of a report.
pub(crate) const REPORT: usize = 8;

impl Report {
    fn encode(self) -> [u8; REPORT] {
        let (step, errno) = match self {
            Self::Passed => (-1, 0),
            Self::Failed(failure) => (failure.step as i32, failure.errno),
        };
        let mut bytes = [0; REPORT];
        bytes[..4].copy_from_slice(&step.to_ne_bytes());
        bytes[4..].copy_from_slice(&errno.to_ne_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: [u8; REPORT]) -> Option<Self> {
        let [a, b, c, d, e, f, g, h] = bytes;
        match i32::from_ne_bytes([a, b, c, d]) {
            -1 => Some(Self::Passed),
            step => Some(Self::Failed(Failure::new(
                Step::from_number(step.into())?,
                i32::from_ne_bytes([e, f, g, h]),
            ))),
        }
    }
}

/// What this process exits with when it never became the program; the report says why.
const NOT_EXECUTED: i32 = 127;

/// Becomes the worker.
pub(crate) fn run(mut kit: Kit<'_>) -> ! {
    let Err(failure) = become_program(&mut kit);
    tell(kit.status, Report::Failed(failure));
    sys::exit(NOT_EXECUTED)
}

fn tell(status: &OwnedFd, report: Report) {
    // A pipe takes so few bytes whole. Where the keeper is gone, this process is about to be, too.
    let _ = sys::write(status, &report.encode());
}

fn become_program(kit: &mut Kit<'_>) -> Result<Infallible, Failure> {
    be_born(kit)?;
    let Parts { spec, standard, .. } = match kit.parts.take() {
        Some(parts) => parts,
        None => await_spawn(kit.gate)?,
    };
    let spec = read_spec(&spec)?;
    let spec = Spec::decode(&spec).ok_or(Failure::new(Step::ReadSpec, EINVAL))?;
    // Made before the gate, as is everything else.
    let (argv, environment) = (pointers(&spec.argv), pointers(&spec.environment));
    for (target, fd) in (0..).zip(&standard) {
        sys::duplicate_onto(fd, target).at(Step::Descriptors)?;
    }
    set_limits(&spec, kit.descriptors)?;
    set_identity(&spec)?;
    if !spec.cwd.is_empty() {
        sys::chdir(spec.cwd).at(Step::Cwd)?;
    }
    // A change of identity clears it.
    die_with(kit.keeper)?;
    sys::unblock_signals();
    hold(kit)?;
    await_go(kit.gate);
    tell(kit.status, Report::Passed);
    let error = sys::execute(spec.program, &argv, &environment);
    Err(error).at(Step::Exec)
}

/// Does what needs to know nothing of the worker, and has the guardian know of this process.
fn be_born(kit: &Kit<'_>) -> Result<(), Failure> {
    sys::set_name(c"snakepit-worker");
    sys::setsid().at(Step::WorkerSession)?;
    let cgroup = kit.parts.as_ref().and_then(|parts| parts.cgroup.as_ref());
    if let Some(cgroup) = cgroup.filter(|_| !kit.entered) {
        enter(cgroup).at(Step::EnterCgroup)?;
    }
    let [gate, guardian, status] = [kit.gate, kit.guardian, kit.status].map(AsRawFd::as_raw_fd);
    let mut keep = vec![0, 1, 2, gate, guardian, status];
    if let Some(parts) = &kit.parts {
        let fds = parts.standard.iter().chain([&parts.spec]).chain(&parts.cgroup);
        keep.extend(fds.map(AsRawFd::as_raw_fd));
    }
    close_all_but(&mut keep)?;
    die_with(kit.keeper)?;
    let own = sys::getpid().at(Step::Plumbing)?;
    let pidfd = sys::pidfd_open(own).at(Step::Plumbing)?;
    // The guardian knows the worker by this number when it inherits it.
    let born = Message::new(Event::Born, 0).with(own.into(), 0, 0);
    tell_guardian(kit.guardian, &born, Some(&pidfd))
}

/// Has the kernel kill this process when its keeper dies.
fn die_with(keeper: Pid) -> Result<(), Failure> {
    sys::prctl(PR_SET_PDEATHSIG, SIGKILL).at(Step::DeathSignal)?;
    if sys::getppid().at(Step::DeathSignal)? == keeper {
        Ok(())
    } else {
        Err(Failure::new(Step::DeathSignal, EINVAL))
    }
}

/// Waits to be told what to become.
fn await_spawn(gate: &OwnedFd) -> Result<Parts, Failure> {
    loop {
        match packet::receive::<Request>(gate, true) {
            Incoming::Message(message, fds) if message.kind == Request::Spawn => {
                return Parts::of(&message, fds);
            }
            // The guardian is gone, or has no use for this process.
            Incoming::End => sys::exit(NOT_EXECUTED),
            Incoming::Message(..) | Incoming::Nonsense | Incoming::Nothing => {}
        }
    }
}

fn await_go(gate: &OwnedFd) {
    loop {
        match packet::receive::<Request>(gate, true) {
            Incoming::Message(message, _) if message.kind == Request::Go => return,
            // The guardian is gone, and nobody will ever open the gate.
            Incoming::End => sys::exit(NOT_EXECUTED),
            Incoming::Message(..) | Incoming::Nonsense | Incoming::Nothing => {}
        }
    }
}

/// Tells the guardian that the worker waits at its gate, and lets go of the socket.
fn hold(kit: &Kit<'_>) -> Result<(), Failure> {
    tell_guardian(kit.guardian, &Message::new(Event::Held, 0), None)?;
    let socket = kit.guardian.as_raw_fd().cast_unsigned();
    // Executing the program would close it as well; until then nobody is to take this process for its keeper.
    let _ = sys::close_range(socket, socket);
    Ok(())
}

fn tell_guardian(
    guardian: &OwnedFd,
    message: &Message<Event>,
    pidfd: Option<&OwnedFd>,
) -> Result<(), Failure> {
    if say(guardian, message, pidfd) {
        Ok(())
    } else {
        Err(Failure::new(Step::Plumbing, ECHILD))
    }
}

impl Parts {
    /// From the message that asks for the worker.
    pub(crate) fn of(spawn: &Message<Request>, fds: Fds) -> Result<Self, Failure> {
        let protocol = |errno| Failure::new(Step::Protocol, errno);
        if fds.are_truncated() {
            return Err(protocol(EMFILE));
        }
        let (spec, standard, cgroup) = match spawn.a {
            0 => {
                let [spec, input, output, error] = fds.exactly().ok_or(protocol(EINVAL))?;
                (spec, [input, output, error], None)
            }
            SPAWN_CGROUP => {
                let [spec, input, output, error, cgroup] = fds.exactly().ok_or(protocol(EINVAL))?;
                (spec, [input, output, error], Some(cgroup))
            }
            _ => return Err(protocol(EINVAL)),
        };
        Ok(Self {
            spec,
            standard,
            cgroup,
        })
    }
}

/// The longest spec. execve(2) takes 6 MiB of arguments and environment at most.
const LONGEST_SPEC: usize = 16 << 20;

fn read_spec(spec: &OwnedFd) -> Result<Vec<u8>, Failure> {
    // Another descriptor of the same open file, of which only positioned reads are made: they fail on what is no file.
    let file = File::from(spec.try_clone().at(Step::ReadSpec)?);
    let mut bytes = Vec::new();
    // A page, which is most of what there is to read, as each page more is another to be made for this process.
    let mut chunk = [0; 4096];
    loop {
        match file.read_at(&mut chunk, bytes.len() as u64).at(Step::ReadSpec)? {
            0 => return Ok(bytes),
            len => bytes.extend_from_slice(&chunk[..len]),
        }
        if bytes.len() > LONGEST_SPEC {
            return Err(Failure::new(Step::ReadSpec, E2BIG));
        }
    }
}

fn enter(cgroup: &OwnedFd) -> io::Result<()> {
    let processes = sys::open(Some(cgroup.as_fd()), c"cgroup.procs", O_WRONLY)?;
    // 0 is whoever writes.
    sys::write(&processes, b"0").map(drop)
}

/// Limits, priority and the kernel's choice when memory runs out: all that may need more rights than the worker has.
fn set_limits(spec: &Spec<&CStr>, descriptors: Limit) -> Result<(), Failure> {
    if let Some(score) = spec.oom_score_adj {
        let text = Text::format(format_args!("{score}")).ok_or(Failure::new(Step::OomScore, EINVAL))?;
        let file = sys::open(None, c"/proc/self/oom_score_adj", O_WRONLY).at(Step::OomScore)?;
        sys::write(&file, text.as_bytes()).at(Step::OomScore)?;
    }
    sys::set_limit(RLIMIT_NOFILE, descriptors).at(Step::Rlimits)?;
    for &(resource, soft, hard) in &spec.rlimits {
        sys::set_limit(resource, Limit { soft, hard }).at(Step::Rlimits)?;
    }
    if let Some(nice) = spec.nice {
        sys::setpriority(PRIO_PROCESS, 0, nice).at(Step::Nice)?;
    }
    Ok(())
}

fn set_identity(spec: &Spec<&CStr>) -> Result<(), Failure> {
    if let Some(groups) = &spec.groups {
        sys::setgroups(groups).at(Step::Groups)?;
    }
    if let Some(gid) = spec.gid {
        sys::setresgid(gid).at(Step::Gid)?;
    }
    if let Some(uid) = spec.uid {
        sys::setresuid(uid).at(Step::Uid)?;
    }
    Ok(())
}

/// The array of pointers that execve(2) takes, which ends with null.
fn pointers(texts: &[&CStr]) -> Vec<*const c_char> {
    let pointers = texts.iter().map(|text| text.as_ptr());
    pointers.chain([ptr::null()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_read_back() {
        let failed = Report::Failed(Failure::new(Step::Exec, 2));
        for report in [Report::Passed, failed] {
            assert_eq!(Report::decode(report.encode()), Some(report));
        }
        assert_eq!(Report::decode([0x7f; REPORT]), None);
    }

    #[test]
    fn a_spec_is_read_from_files_only() {
        let file = tempfile::tempfile().unwrap();
        file.write_at(b"some bytes", 0).unwrap();
        assert_eq!(read_spec(&file.into()).unwrap(), b"some bytes");
        let (reading, _writing) = sys::pipe().unwrap();
        let failure = read_spec(&reading).unwrap_err();
        assert_eq!(failure.step, Step::ReadSpec);
        let zeros = File::open("/dev/zero").unwrap();
        assert_eq!(read_spec(&zeros.into()), Err(Failure::new(Step::ReadSpec, E2BIG)));
    }
}
