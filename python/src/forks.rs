//! A template's side of the socket over which its host asks for processes, and the first steps of a process that it has forked.
//!
//! Native because each page that either of them writes to after a fork is copied, and Python writes to whatever it touches: the
//! reference counts of all names and values that a line of it uses. The form of the messages is described in
//! `snakepit-backend-zygote`, `wire.rs`.

use std::{
    collections::BTreeMap,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    ops::Range,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::fs::FileExt as _,
    },
    path::Path,
};

use pyo3::{
    exceptions::{PyOSError, PyValueError},
    prelude::*,
    types::{PyBytes, PyDict},
};
use rustix::{
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, recv, recvmsg, sendmsg,
    },
    process::{Pid, PidfdFlags, chdir, getpid, pidfd_open, setpgid},
};
use snakepit_proto::env::WORKER_ID;

use crate::{
    nest::{self, Side},
    sys,
};

/// Standard input, output, error, the gate and the cgroup.
const MOST_DESCRIPTORS: usize = 5;
/// The replies that a process is there, and waits at its gate; that there is none; and that it has ended.
const HELD: u8 = 3;
const REFUSED: u8 = 4;
const EXITED: u8 = 5;
/// A reply without its text.
const REPLY: usize = 16;

/// One message, and the descriptors that came with it; `None` when the other end is closed.
fn read(socket: BorrowedFd<'_>) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut head = [0; size_of::<u32>()];
    let mut received = loop {
        // Nothing that is executed shall have them.
        let flags = RecvFlags::CMSG_CLOEXEC;
        match recvmsg(socket, &mut [IoSliceMut::new(&mut head)], &mut ancillary, flags) {
            Err(Errno::INTR) => {}
            received => break received?.bytes,
        }
    };
    let descriptors = ancillary
        .drain()
        .filter_map(|part| match part {
            RecvAncillaryMessage::ScmRights(arrived) => Some(arrived),
            _ => None,
        })
        .flatten()
        .collect();
    if received == 0 || !fill(socket, &mut head, &mut received)? {
        return Ok(None);
    }
    let mut body = vec![0; u32::from_ne_bytes(head) as usize];
    Ok(fill(socket, &mut body, &mut 0)?.then_some((body, descriptors)))
}

/// Receives until `bytes` are full; false when the other end closes before.
fn fill(socket: BorrowedFd<'_>, bytes: &mut [u8], received: &mut usize) -> io::Result<bool> {
    while *received < bytes.len() {
        match recv(socket, &mut bytes[*received..], RecvFlags::empty()) {
            Ok((0, _)) => return Ok(false),
            Ok((count, _)) => *received += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

/// The fields of a message, one after the other.
struct Fields<'a> {
    body: &'a [u8],
    next: Option<usize>,
}

impl<'a> Fields<'a> {
    fn new(body: &'a [u8]) -> Self {
        Self { body, next: Some(0) }
    }

    fn next(&mut self) -> Option<Range<usize>> {
        let start = self.next?;
        let end = self.body[start..].iter().position(|byte| *byte == 0);
        self.next = end.map(|length| start + length + 1);
        Some(start..end.map_or(self.body.len(), |length| start + length))
    }

    fn number<N: std::str::FromStr>(&mut self) -> Option<N> {
        let field = self.next()?;
        std::str::from_utf8(&self.body[field]).ok()?.parse().ok()
    }

    fn list(&mut self) -> Option<Vec<Range<usize>>> {
        let count = self.number::<usize>()?;
        (0..count).map(|_| self.next()).collect()
    }
}

/// A request for a process.
#[pyclass(module = "snakepit._native")]
#[derive(Debug)]
pub(crate) struct Fork {
    body: Vec<u8>,
    #[pyo3(get)]
    id: u64,
    cwd: Range<usize>,
    program: Range<usize>,
    arguments: Vec<Range<usize>>,
    environment: Vec<Range<usize>>,
    descriptors: Vec<OwnedFd>,
}

impl Fork {
    fn parse(body: Vec<u8>, descriptors: Vec<OwnedFd>) -> Option<Self> {
        let mut fields = Fields::new(&body);
        Some(Self {
            id: fields.number()?,
            cwd: fields.next()?,
            program: fields.next()?,
            arguments: fields.list()?,
            environment: fields.list()?,
            descriptors,
            body,
        })
    }

    /// The file through which a process enters the cgroup that it is to be in; after the gate, where there is one.
    fn cgroup(&self) -> Option<&OwnedFd> {
        self.descriptors.get(3 + usize::from(!self.program.is_empty()))
    }

    fn variables(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.environment.iter().filter_map(|variable| {
            let variable = &self.body[variable.clone()];
            let name = variable.iter().position(|byte| *byte == b'=')?;
            Some((&variable[..name], &variable[name + 1..]))
        })
    }
}

#[pymethods]
impl Fork {
    /// What is to be executed; empty for a worker.
    #[getter]
    fn program<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.body[self.program.clone()])
    }

    /// The worker's arguments, or all of the program's.
    #[getter]
    fn arguments<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyBytes>> {
        let arguments = self.arguments.iter();
        arguments
            .map(|argument| PyBytes::new(py, &self.body[argument.clone()]))
            .collect()
    }

    /// All of its environment.
    #[getter]
    fn environment<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let environment = PyDict::new(py);
        for (name, value) in self.variables() {
            environment.set_item(PyBytes::new(py, name), PyBytes::new(py, value))?;
        }
        Ok(environment)
    }

    /// Closes the descriptors that came with it.
    fn close(&mut self) {
        self.descriptors.clear();
    }

    /// The descriptor of the gate, where there is a program.
    #[getter]
    fn gate(&self) -> Option<i32> {
        let gate = self.descriptors.get(3).filter(|_| !self.program.is_empty());
        gate.map(|gate| gate.as_raw_fd())
    }
}

/// Where a template takes requests from, and what it knows of its own environment.
#[pyclass(module = "snakepit._native")]
#[derive(Debug)]
pub(crate) struct Forks {
    /// `None` in a process that serves calls.
    connection: Option<OwnedFd>,
    environment: BTreeMap<Vec<u8>, Vec<u8>>,
    marks: Marks,
}

/// Where this process's environment lies in its memory, as `/proc/PID/environ` shows it.
#[derive(Debug)]
struct Marks {
    /// Where the template's own worker id is.
    own: u64,
    /// Room for that of a forked process, and its size.
    room: u64,
    size: usize,
}

#[pymethods]
impl Forks {
    /// Takes requests from a socket that stays the caller's.
    #[new]
    fn new(
        connection: i32,
        environment: BTreeMap<Vec<u8>, Vec<u8>>,
        own: u64,
        room: u64,
        size: usize,
    ) -> PyResult<Self> {
        Ok(Self {
            connection: Some(sys::duplicate(connection)?),
            environment,
            marks: Marks { own, room, size },
        })
    }

    /// The next request; `None` when the host is gone.
    fn receive(&self) -> PyResult<Option<Fork>> {
        let Some((body, descriptors)) = read(self.connection().map_err(io::Error::from)?)? else {
            return Ok(None);
        };
        let fork = Fork::parse(body, descriptors);
        fork.map(Some)
            .ok_or_else(|| PyValueError::new_err("a request that is none"))
    }

    /// Makes the calling process the one that was asked for, up to its gate, and tells so. `nested` is whether it has a
    /// namespace.
    fn hold(&self, fork: &Fork, nested: bool) -> PyResult<()> {
        self.held(fork, nested).map_err(|(step, error)| {
            let code = error.raw_os_error().unwrap_or(libc::EINVAL);
            PyOSError::new_err((code, format!("{step}: {error}")))
        })
    }

    /// Lets go of the socket, in a process that serves calls.
    fn close(&mut self) {
        self.connection = None;
    }

    /// What the environment of the process has to lose and to get: names, and names with values.
    #[expect(
        clippy::type_complexity,
        reason = "two lists, for the one who calls it to unpack"
    )]
    fn changes<'py>(
        &self,
        py: Python<'py>,
        fork: &Fork,
    ) -> (
        Vec<Bound<'py, PyBytes>>,
        Vec<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)>,
    ) {
        let wanted: BTreeMap<&[u8], &[u8]> = fork.variables().collect();
        let lost = self.environment.keys();
        let lost = lost.filter(|name| !wanted.contains_key(name.as_slice()));
        let got = wanted
            .iter()
            .filter(|(name, value)| self.environment.get(**name).map(Vec::as_slice) != Some(**value));
        (
            lost.map(|name| PyBytes::new(py, name)).collect(),
            got.map(|(name, value)| (PyBytes::new(py, name), PyBytes::new(py, value)))
                .collect(),
        )
    }
}

impl Forks {
    fn connection(&self) -> rustix::io::Result<BorrowedFd<'_>> {
        self.connection.as_ref().map(OwnedFd::as_fd).ok_or(Errno::BADF)
    }

    fn held(&self, fork: &Fork, nested: bool) -> Result<(), (&'static str, io::Error)> {
        let step = |name| move |error: Errno| (name, error.into());
        if let Some(cgroup) = fork.cgroup() {
            // 0 is whoever writes.
            rustix::io::write(cgroup, b"0").map_err(step("enter its cgroup"))?;
        }
        setpgid(None, None).map_err(step("make a process group"))?;
        for (number, descriptor) in (0..3).zip(&fork.descriptors) {
            sys::put(descriptor.as_fd(), number).map_err(|error| ("set up its descriptors", error))?;
        }
        let cwd = &fork.body[fork.cwd.clone()];
        if !cwd.is_empty() {
            chdir(cwd).map_err(step("change the directory"))?;
        }
        self.marks
            .write(fork)
            .map_err(|error| ("set the environment", error))?;
        let own = open(getpid())?;
        let first = if nested { Some(open(Pid::INIT)?) } else { None };
        let handles: Vec<_> = [Some(&own), first.as_ref()]
            .into_iter()
            .flatten()
            .map(AsFd::as_fd)
            .collect();
        self.tell(HELD, fork.id, handles.len() as i32, "", &handles)
            .map_err(step("tell the host"))
    }

    /// In one piece, since the forked processes use the same connection.
    fn tell(
        &self,
        kind: u8,
        id: u64,
        value: i32,
        text: &str,
        handles: &[BorrowedFd<'_>],
    ) -> rustix::io::Result<()> {
        let mut reply = [0; REPLY];
        reply[0] = kind;
        reply[2..4].copy_from_slice(&(text.len() as u16).to_ne_bytes());
        reply[4..8].copy_from_slice(&value.to_ne_bytes());
        reply[8..].copy_from_slice(&id.to_ne_bytes());
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !handles.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(handles)) {
            return Err(Errno::INVAL);
        }
        let bytes = [IoSlice::new(&reply), IoSlice::new(text.as_bytes())];
        let connection = self.connection()?;
        rustix::io::retry_on_intr(|| sendmsg(connection, &bytes, &mut ancillary, SendFlags::NOSIGNAL))?;
        Ok(())
    }
}

fn open(pid: Pid) -> Result<OwnedFd, (&'static str, io::Error)> {
    pidfd_open(pid, PidfdFlags::empty()).map_err(|error| ("open a pidfd", error.into()))
}

/// Makes processes in namespaces of their own.
#[pyclass(module = "snakepit._native")]
#[derive(Debug)]
pub(crate) struct Nests {
    /// `None` in a process that serves calls.
    nests: Option<nest::Nests>,
}

#[pymethods]
impl Nests {
    /// Prepares the calling process, which has one thread, and tries one. They end with the host, whose pidfd is given.
    #[new]
    fn new(host: i32) -> PyResult<Self> {
        let nests = nest::Nests::new(sys::duplicate(host)?).map_err(|(step, error)| {
            let code = error.raw_os_error().unwrap_or(libc::EPERM);
            PyOSError::new_err((code, format!("{step}: {error}")))
        })?;
        Ok(Self { nests: Some(nests) })
    }

    /// Forks: 0 in the process that was asked for; in the template the pid of the first process of its namespace, or `None` where
    /// there is none, and the host has been told why.
    fn fork(&mut self, py: Python<'_>, forks: &Forks, fork: &Fork) -> PyResult<Option<i32>> {
        let nests = self.nests.as_ref().ok_or(Errno::BADF).map_err(io::Error::from)?;
        let connection = forks.connection().map_err(io::Error::from)?;
        let told = Told {
            forks,
            connection,
            id: fork.id,
        };
        sys::before_fork(py);
        match nests.fork(&told) {
            Ok(Side::Worker) => {
                sys::after_fork_in_child(py);
                self.nests = None;
                Ok(Some(0))
            }
            Ok(Side::Template(first)) => {
                sys::after_fork_in_parent(py);
                Ok(first.map(|first| first.as_raw_nonzero().get()))
            }
            Err(error) => {
                sys::after_fork_in_parent(py);
                Err(error.into())
            }
        }
    }
}

/// What becomes of one request.
struct Told<'a> {
    forks: &'a Forks,
    connection: BorrowedFd<'a>,
    id: u64,
}

impl nest::Told for Told<'_> {
    fn refused(&self, step: &'static str, error: &io::Error) {
        let errno = error.raw_os_error().unwrap_or(libc::EINVAL);
        // An error means that the host is gone.
        let _ = self.forks.tell(REFUSED, self.id, errno, step, &[]);
    }

    fn exited(&self, status: i32) {
        // As above.
        let _ = self.forks.tell(EXITED, self.id, status, "", &[]);
    }

    fn host(&self) -> BorrowedFd<'_> {
        self.connection
    }
}

impl Marks {
    /// What a worker leaves behind is found by the worker id that stands in its environment, and a forked process has that of its
    /// template. Its own is written into room that the template was given for it.
    fn write(&self, fork: &Fork) -> io::Result<()> {
        let mut variables = fork.variables();
        let id = variables.find(|(name, _)| *name == WORKER_ID.as_bytes());
        let (name, value) = id.ok_or(io::ErrorKind::InvalidInput)?;
        let mut mark = [name, b"=", value].concat();
        mark.resize(self.size.max(mark.len()), 0);
        let memory = std::fs::OpenOptions::new()
            .write(true)
            .open(Path::new("/proc/self/mem"))?;
        memory.write_all_at(b"_", self.own)?;
        memory.write_all_at(&mark, self.room)
    }
}

/// The fields of the one message that comes over a template's lifeline, and the descriptors with it; `None` when the host is gone.
#[pyfunction]
#[expect(
    clippy::type_complexity,
    reason = "two lists, for the one who calls it to unpack"
)]
pub(crate) fn receive_setup(
    py: Python<'_>,
    lifeline: i32,
) -> PyResult<Option<(Vec<Bound<'_, PyBytes>>, Vec<i32>)>> {
    let lifeline = sys::duplicate(lifeline)?;
    let Some((body, descriptors)) = read(lifeline.as_fd())? else {
        return Ok(None);
    };
    let fields = body.split(|byte| *byte == 0);
    let descriptors = descriptors.into_iter().map(std::os::fd::IntoRawFd::into_raw_fd);
    Ok(Some((
        fields.map(|field| PyBytes::new(py, field)).collect(),
        descriptors.collect(),
    )))
}

/// Takes what is free in the heap between things that are in use, and keeps it.
#[pyfunction]
pub(crate) fn fill_holes() {
    sys::fill_holes();
}
