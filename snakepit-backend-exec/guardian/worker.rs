//! The worker before it is the program: a child of its keeper that makes its settings, waits at the gate and executes.

use std::{
    convert::Infallible,
    ffi::{CString, c_char},
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
    ptr,
};

use crate::{
    close::close_all_but,
    failure::{At, Failure},
    sys::{
        self, Limit, Pid,
        constants::{E2BIG, EINVAL, O_WRONLY, PR_SET_PDEATHSIG, PRIO_PROCESS, RLIMIT_NOFILE, SIGKILL},
    },
    text::Text,
    wire::{Spec, Step},
};

/// What a worker is made of.
pub(crate) struct Parts {
    /// The spec, in a memory file.
    pub(crate) spec: OwnedFd,
    pub(crate) standard: [OwnedFd; 3],
    /// Where the byte comes from that opens the gate.
    pub(crate) gate: OwnedFd,
    pub(crate) cgroup: Option<OwnedFd>,
    /// The limit on descriptors as it was before the guardian raised its own.
    pub(crate) descriptors: Limit,
}

/// What a worker tells its keeper, over a pipe that executing the program closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// It waits at the gate.
    Ready,
    /// The gate has opened.
    Passed,
    Failed(Failure),
}

/// Bytes of a report.
pub(crate) const REPORT: usize = 8;

impl Report {
    fn encode(self) -> [u8; REPORT] {
        let (step, errno) = match self {
            Self::Ready => (-1, 0),
            Self::Passed => (-2, 0),
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
            -1 => Some(Self::Ready),
            -2 => Some(Self::Passed),
            step => Some(Self::Failed(Failure::new(
                Step::from_number(step.into())?,
                i32::from_ne_bytes([e, f, g, h]),
            ))),
        }
    }
}

/// What this process exits with when it never became the program; the report says why.
const NOT_EXECUTED: i32 = 127;

/// Becomes the worker. `keeper` is the process that it was forked from, in the worker's PID namespace; `entered` says
/// whether it began in its cgroup.
pub(crate) fn run(parts: &Parts, keeper: Pid, entered: bool, status: BorrowedFd<'_>) -> ! {
    let Err(failure) = become_program(parts, keeper, entered, status);
    tell(status, Report::Failed(failure));
    sys::exit(NOT_EXECUTED)
}

fn tell(status: BorrowedFd<'_>, report: Report) {
    // A pipe takes so few bytes whole. Where the keeper is gone, this process is about to be, too.
    let _ = sys::write(status, &report.encode());
}

fn become_program(
    parts: &Parts,
    keeper: Pid,
    entered: bool,
    status: BorrowedFd<'_>,
) -> Result<Infallible, Failure> {
    let spec = Spec::decode(&read_spec(&parts.spec)?).ok_or(Failure::new(Step::ReadSpec, EINVAL))?;
    let program = Program::new(&spec)?;
    sys::setsid().at(Step::WorkerSession)?;
    if let Some(cgroup) = parts.cgroup.as_ref().filter(|_| !entered) {
        enter(cgroup).at(Step::EnterCgroup)?;
    }
    for (target, fd) in (0..).zip(&parts.standard) {
        sys::duplicate_onto(fd, target).at(Step::Descriptors)?;
    }
    close_all_but(&mut [0, 1, 2, parts.gate.as_raw_fd(), status.as_raw_fd()])?;
    set_limits(&spec, parts.descriptors)?;
    set_identity(&spec)?;
    if !spec.cwd.is_empty() {
        sys::chdir(&c_string(&spec.cwd)?).at(Step::Cwd)?;
    }
    // A change of identity clears it. When the keeper was gone before, its death is seen below.
    sys::prctl(PR_SET_PDEATHSIG, SIGKILL).at(Step::DeathSignal)?;
    if sys::getppid().at(Step::DeathSignal)? != keeper {
        return Err(Failure::new(Step::DeathSignal, EINVAL));
    }
    sys::unblock_signals();
    tell(status, Report::Ready);
    // End-of-file: the guardian is gone, and nobody will ever open the gate.
    if !matches!(sys::read(&parts.gate, &mut [0]), Ok(1)) {
        sys::exit(NOT_EXECUTED);
    }
    tell(status, Report::Passed);
    let error = program.execute();
    Err(error).at(Step::Exec)
}

/// The longest spec. execve(2) takes 6 MiB of arguments and environment at most.
const LONGEST_SPEC: usize = 16 << 20;

fn read_spec(spec: &OwnedFd) -> Result<Vec<u8>, Failure> {
    // Another descriptor of the same open file, of which only positioned reads are made: they fail on what is no file.
    let file = File::from(spec.try_clone().at(Step::ReadSpec)?);
    let mut bytes = Vec::new();
    let mut chunk = [0; 16 * 1024];
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
fn set_limits(spec: &Spec, descriptors: Limit) -> Result<(), Failure> {
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

fn set_identity(spec: &Spec) -> Result<(), Failure> {
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

fn c_string(text: &[u8]) -> Result<CString, Failure> {
    CString::new(text).map_err(|_| Failure::new(Step::ReadSpec, EINVAL))
}

/// What execve(2) is given, all of it made before the gate.
struct Program {
    path: CString,
    argv: Texts,
    environment: Texts,
}

/// Texts, and the array of pointers to them that ends with null.
struct Texts {
    pointers: Vec<*const c_char>,
    /// What the pointers point into; moving the vector does not move the texts.
    _texts: Vec<CString>,
}

impl Texts {
    fn new(texts: &[Vec<u8>]) -> Result<Self, Failure> {
        let texts = texts
            .iter()
            .map(|text| c_string(text))
            .collect::<Result<Vec<_>, _>>()?;
        let pointers = texts
            .iter()
            .map(|text| text.as_ptr())
            .chain([ptr::null()])
            .collect();
        Ok(Self {
            pointers,
            _texts: texts,
        })
    }
}

impl Program {
    fn new(spec: &Spec) -> Result<Self, Failure> {
        Ok(Self {
            path: c_string(&spec.program)?,
            argv: Texts::new(&spec.argv)?,
            environment: Texts::new(&spec.environment)?,
        })
    }

    fn execute(&self) -> io::Error {
        sys::execute(&self.path, &self.argv.pointers, &self.environment.pointers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_read_back() {
        let failed = Report::Failed(Failure::new(Step::Exec, 2));
        for report in [Report::Ready, Report::Passed, failed] {
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
