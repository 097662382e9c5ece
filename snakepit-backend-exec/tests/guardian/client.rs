//! A host of the tests' own: it speaks the protocol with the real program, and knows nothing of the crate's host side.

use std::{
    cell::RefCell,
    collections::HashMap,
    fs::File,
    io::{IoSlice, IoSliceMut, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, memfd_create},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    },
    process::{Pid, PidfdFlags, getpid, pidfd_open},
};

use crate::{
    wire::{Event, LEN, Level, MAX_FDS, Message, Request, SPAWN_CGROUP, Spec, VERSION},
    yard::Yard,
};

/// How long anything may take on a machine that is busy with something else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The user that owns nothing.
pub(crate) const NOBODY: u32 = 65534;

/// Every level.
pub(crate) const LEVELS: [Level; 4] = [
    Level::Subreaper,
    Level::Cgroup,
    Level::Namespace,
    Level::SharedNamespace,
];

/// A guardian that was started and the yard that all its processes are in.
pub(crate) struct Guardian {
    pub(crate) process: Child,
    pub(crate) socket: OwnedFd,
    pub(crate) level: Level,
    pub(crate) yard: Yard,
    user: Option<u32>,
    kept: RefCell<HashMap<u64, Vec<OwnedFd>>>,
}

/// What came from the guardian.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) message: Message<Event>,
    pub(crate) fds: Vec<OwnedFd>,
}

impl Guardian {
    /// One that has said welcome. `None`, and loudly, where the machine has no such level.
    pub(crate) fn welcomed(level: Level) -> Option<Self> {
        Self::welcomed_as(level, None, 0)
    }

    pub(crate) fn welcomed_as(level: Level, user: Option<u32>, grace_ms: i64) -> Option<Self> {
        Self::welcomed_in(Yard::new(), level, user, grace_ms)
    }

    pub(crate) fn welcomed_in(yard: Yard, level: Level, user: Option<u32>, grace_ms: i64) -> Option<Self> {
        let guardian = Self::started_in(yard, level, user)?;
        guardian.hello(grace_ms, getpid());
        let told = guardian.hear();
        if told.message.kind == Event::Refused {
            eprintln!("SKIPPED: {level:?} is refused to {user:?} here: {told:?}");
            return None;
        }
        assert_eq!(told.message.kind, Event::Welcome, "{told:?}");
        assert_eq!(
            (told.message.a, told.message.b),
            (i64::from(VERSION), level as i64)
        );
        Some(guardian)
    }

    /// One that waits for its hello.
    pub(crate) fn started(level: Level) -> Option<Self> {
        Self::started_in(Yard::new(), level, None)
    }

    fn started_in(yard: Yard, level: Level, user: Option<u32>) -> Option<Self> {
        if level == Level::Cgroup && !yard.has_cgroup() {
            eprintln!("SKIPPED: no cgroup can be made here");
            return None;
        }
        let (socket, theirs) = pair();
        let mut command = Command::new(program());
        // Errors go to a pipe, whose other end is this process's alone.
        command.stdin(theirs).stdout(Stdio::null()).stderr(Stdio::piped());
        command.env_clear();
        yard.mark(&mut command);
        if let Some(user) = user {
            command.uid(user).gid(user);
            yard.delegate(user);
        }
        let process = command.spawn().unwrap();
        yard.admit(process.id());
        Some(Self {
            process,
            socket,
            level,
            yard,
            user,
            kept: RefCell::default(),
        })
    }

    /// One that was started in another way.
    pub(crate) fn from_parts(process: Child, socket: OwnedFd, level: Level, yard: Yard) -> Self {
        yard.admit(process.id());
        Self {
            process,
            socket,
            level,
            yard,
            user: None,
            kept: RefCell::default(),
        }
    }

    pub(crate) fn hello(&self, grace_ms: i64, host: Pid) {
        let host = pidfd_open(host, PidfdFlags::empty()).unwrap();
        let hello = Message::new(Request::Hello, 0);
        let hello = hello.with(i64::from(VERSION), self.level as i64, grace_ms);
        match self.yard.directory().filter(|_| self.level == Level::Cgroup) {
            Some(cgroup) => self.say(hello, &[host.as_fd(), cgroup.as_fd()]),
            None => self.say(hello, &[host.as_fd()]),
        }
    }

    pub(crate) fn say(&self, message: Message<Request>, fds: &[impl AsFd]) {
        self.say_bytes(&message.encode(), fds);
    }

    pub(crate) fn say_bytes(&self, bytes: &[u8], fds: &[impl AsFd]) {
        send(&self.socket, bytes, fds);
    }

    /// What comes next; a panic when nothing does.
    pub(crate) fn hear(&self) -> Told {
        self.try_hear(PATIENCE).expect("the guardian says nothing")
    }

    /// What comes within this time; `None` also when the guardian is gone.
    pub(crate) fn try_hear(&self, patience: Duration) -> Option<Told> {
        loop {
            let mut told = receive(&self.socket, patience)?;
            let id = told.message.id;
            let mut kept = self.kept.borrow_mut();
            match told.message.kind {
                // For what comes next about this worker.
                Event::Kept => {
                    kept.insert(id, told.fds);
                }
                Event::Held => {
                    told.fds = kept.remove(&id).expect("it is told before");
                    return Some(told);
                }
                Event::SpawnFailed => {
                    kept.remove(&id);
                    return Some(told);
                }
                _ => return Some(told),
            }
        }
    }

    /// What comes next, which is this.
    pub(crate) fn expect(&self, kind: Event, id: u64) -> Told {
        let told = self.hear();
        assert_eq!((told.message.kind, told.message.id), (kind, id), "{told:?}");
        told
    }

    /// Asks for a worker.
    pub(crate) fn spawn(&self, id: u64, spec: &Spec) {
        let [input, output, error] = [(); 3].map(|()| null());
        self.spawn_with(id, spec, [input, output, error]);
    }

    pub(crate) fn spawn_with(&self, id: u64, spec: &Spec, standard: [OwnedFd; 3]) {
        self.spawn_where(id, spec, standard, self.level == Level::Cgroup);
    }

    pub(crate) fn spawn_where(&self, id: u64, spec: &Spec, standard: [OwnedFd; 3], in_cgroup: bool) {
        let mut fds = vec![OwnedFd::from(memory_file(&spec.encode()))];
        fds.extend(standard);
        let mut message = Message::new(Request::Spawn, id);
        if in_cgroup {
            message.a = SPAWN_CGROUP;
            fds.push(self.yard.make_leaf(id, self.user).into());
        }
        self.say(message, &fds);
    }

    /// A worker that waits at its gate; its pidfd and its keeper's.
    pub(crate) fn held(&self, id: u64, spec: &Spec) -> (OwnedFd, OwnedFd) {
        self.spawn(id, spec);
        let fds = self.expect(Event::Held, id).fds;
        let [keeper, worker] = fds.try_into().unwrap();
        (worker, keeper)
    }

    /// A worker that has executed its program.
    pub(crate) fn running(&self, id: u64, spec: &Spec) -> (OwnedFd, OwnedFd) {
        let fds = self.held(id, spec);
        self.go(id);
        self.expect(Event::Started, id);
        fds
    }

    /// A worker that runs a shell script until it has printed a line, and that line.
    pub(crate) fn script(&self, id: u64, script: &str) -> Scripted {
        let (reading, writing) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let spec = shell(script);
        self.spawn_with(id, &spec, [null(), writing, null()]);
        let fds = self.expect(Event::Held, id).fds;
        self.go(id);
        self.expect(Event::Started, id);
        let [keeper, worker] = fds.try_into().unwrap();
        let line = read_line(&reading);
        Scripted {
            worker,
            keeper,
            output: reading,
            line,
        }
    }

    pub(crate) fn go(&self, id: u64) {
        self.say(Message::new(Request::Go, id), &NONE);
    }

    pub(crate) fn stop(&self, id: u64, grace_ms: i64) {
        self.say(Message::new(Request::Stop, id).with(grace_ms, 0, 0), &NONE);
    }

    pub(crate) fn signal(&self, id: u64, signal: i32, target: i64) {
        self.say(
            Message::new(Request::Signal, id).with(signal.into(), target, 0),
            &NONE,
        );
    }

    /// The wait status, and who ended it, of a worker about which nothing else is told.
    pub(crate) fn ended(&self, id: u64) -> (i64, Message<Event>) {
        let status = self.expect(Event::Exited, id).message.a;
        (status, self.expect(Event::Ended, id).message)
    }

    /// It still answers.
    pub(crate) fn assert_well(&self) {
        self.say(Message::new(Request::Ping, 0).with(4711, 0, 0), &NONE);
        assert_eq!(self.expect(Event::Pong, 0).message.a, 4711);
    }

    /// Goes away, and waits for it to do so.
    pub(crate) fn disconnect(&mut self) {
        // The other end of a pair of which nobody has this one any more.
        self.socket = pair().0;
        let status = self.process.wait().unwrap();
        assert!(status.success(), "{status}");
    }

    /// Goes away; nothing is left.
    pub(crate) fn leave(mut self) {
        self.disconnect();
        self.yard.assert_empty();
    }
}

/// What a shell script said.
pub(crate) struct Scripted {
    pub(crate) worker: OwnedFd,
    pub(crate) keeper: OwnedFd,
    pub(crate) output: OwnedFd,
    pub(crate) line: String,
}

/// No descriptors.
pub(crate) const NONE: [OwnedFd; 0] = [];

/// The program under test: the one of this build, which aborts where it allocates and should not. With
/// `SNAKEPIT_TEST_GUARDIAN=embedded` the one that the crate carries.
pub(crate) fn program() -> &'static str {
    match std::env::var("SNAKEPIT_TEST_GUARDIAN").as_deref() {
        Ok("embedded") => concat!(env!("OUT_DIR"), "/snakepit-guardian"),
        _ => env!("CARGO_BIN_EXE_snakepit-guardian"),
    }
}

pub(crate) fn pair() -> (OwnedFd, OwnedFd) {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    socketpair(family, kind, SocketFlags::CLOEXEC, None).unwrap()
}

pub(crate) fn null() -> OwnedFd {
    File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .unwrap()
        .into()
}

pub(crate) fn memory_file(bytes: &[u8]) -> File {
    let mut file = File::from(memfd_create("spec", MemfdFlags::CLOEXEC).unwrap());
    file.write_all(bytes).unwrap();
    file
}

pub(crate) fn shell(script: &str) -> Spec {
    Spec {
        program: b"/bin/sh".to_vec(),
        argv: ["sh", "-c", script].map(|text| text.as_bytes().to_vec()).to_vec(),
        environment: vec![b"PATH=/usr/local/bin:/usr/bin:/bin".to_vec()],
        ..Spec::default()
    }
}

pub(crate) fn send(socket: &OwnedFd, bytes: &[u8], fds: &[impl AsFd]) {
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); 1024];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
}

pub(crate) fn receive(socket: &OwnedFd, patience: Duration) -> Option<Told> {
    if !is_ready(socket, patience) {
        return None;
    }
    let mut bytes = [0; LEN + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let len = match recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    ) {
        Ok(received) if received.bytes > 0 => received.bytes,
        _ => return None,
    };
    let fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fds = fds.flatten().collect();
    let message = Message::decode(&bytes[..len]).expect("the guardian speaks the protocol");
    Some(Told { message, fds })
}

/// Whether it is readable, or its end is there, within this time: a socket, a pipe, or a pidfd's process that has ended.
pub(crate) fn is_ready(fd: impl AsFd, patience: Duration) -> bool {
    let timeout = Timespec::try_from(patience).unwrap();
    let mut polls = [PollFd::new(&fd, PollFlags::IN)];
    poll(&mut polls, Some(&timeout)).unwrap() > 0
}

pub(crate) fn assert_ends(pidfd: impl AsFd) {
    assert!(is_ready(pidfd, PATIENCE), "a process lives on");
}

/// A line of output, or what there is of it at the end.
pub(crate) fn read_line(output: &OwnedFd) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.last() != Some(&b'\n') {
        assert!(is_ready(output, PATIENCE), "no line comes after {line:?}");
        if rustix::io::read(output, &mut byte).unwrap() == 0 {
            break;
        }
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap().trim_end().to_owned()
}

/// A wait status of waitpid(2).
pub(crate) fn exited(code: i64) -> i64 {
    code << 8
}

impl Drop for Guardian {
    fn drop(&mut self) {
        self.yard.clear();
        let _ = self.process.wait();
    }
}
