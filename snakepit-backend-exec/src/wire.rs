//! What host and guardian say to each other.
//!
//! The guardian's program includes this very file: it depends on the standard library alone. Each message is one
//! packet of a `SOCK_SEQPACKET` socket, of [`LEN`] bytes, with descriptors attached (`SCM_RIGHTS`) where its kind says so.
//! Both ends come from one build, so that there is one version; [`VERSION`] is checked all the same.
//!
//! # Order
//!
//! ```text
//! host                                             guardian
//! Hello [host pidfd]                         ->
//!                                            <-    Welcome, or Refused and its end
//! Spawn [spec, stdin, stdout, stderr, ...]   ->    has a keeper start the worker up to its gate
//!                                            <-    Kept [keeper pidfd, worker pidfd], unless there is none
//!                                            <-    Held, or SpawnFailed
//! Go                                         ->    the worker executes its program
//!                                            <-    Started, or ExecFailed
//!                                            <-    Exited    the worker itself has ended
//! Stop, Signal                               ->
//!                                            <-    Ended     nothing of its tree is left
//! ```
//!
//! `Exited` comes before `Ended`, and each comes once for everything that was `Held`, also when it was never
//! started. A message about an id that is not known (any more) is ignored by either side: they cross. So are a packet
//! that is no message, a `Go` before `Held`, and a `Spawn` or `Manage` with an id that is in use, as an answer would be
//! taken to be about the other. Descriptors that come with any of them are closed.

use std::ffi::CStr;

/// The version of what this file describes.
pub(crate) const VERSION: u32 = 2;

/// Bytes of a message.
pub(crate) const LEN: usize = 40;

/// The most descriptors that come with one message.
pub(crate) const MAX_FDS: usize = 8;

/// One message: what it is, whom it is about, and up to three numbers that its kind explains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message<K> {
    pub(crate) kind: K,
    /// The worker it is about, as its `Spawn` named it; 0 where none is meant.
    pub(crate) id: u64,
    pub(crate) a: i64,
    pub(crate) b: i64,
    pub(crate) c: i64,
}

/// A kind of message, by its number.
pub(crate) trait Kind: Copy {
    fn number(self) -> u32;
    fn from_number(number: u32) -> Option<Self>;
}

impl<K: Kind> Message<K> {
    pub(crate) fn new(kind: K, id: u64) -> Self {
        Self {
            kind,
            id,
            a: 0,
            b: 0,
            c: 0,
        }
    }

    pub(crate) fn with(self, a: i64, b: i64, c: i64) -> Self {
        Self { a, b, c, ..self }
    }

    pub(crate) fn encode(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[0..4].copy_from_slice(&self.kind.number().to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.id.to_ne_bytes());
        bytes[16..24].copy_from_slice(&self.a.to_ne_bytes());
        bytes[24..32].copy_from_slice(&self.b.to_ne_bytes());
        bytes[32..40].copy_from_slice(&self.c.to_ne_bytes());
        bytes
    }

    /// `None` for a packet of another length or of an unknown kind.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LEN] = bytes.try_into().ok()?;
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            word
        };
        let mut number = [0; 4];
        number.copy_from_slice(&bytes[0..4]);
        Some(Self {
            kind: K::from_number(u32::from_ne_bytes(number))?,
            id: u64::from_ne_bytes(word(8)),
            a: i64::from_ne_bytes(word(16)),
            b: i64::from_ne_bytes(word(24)),
            c: i64::from_ne_bytes(word(32)),
        })
    }
}

/// Defines an enum of kinds with their numbers.
macro_rules! kinds {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $kind:ident = $number:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum $name { $($(#[$doc])* $kind = $number,)* }

        impl Kind for $name {
            fn number(self) -> u32 {
                self as u32
            }

            fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$kind),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    /// From the host to the guardian.
    Request {
        /// First. `a`: [`VERSION`]; `b`: a [`Level`]; `c`: milliseconds that trees get to end after the host's death.
        /// Descriptors: a pidfd of the host; then, where the host made cgroups for this run, the directory of the
        /// cgroup they are in (each worker's is named by its id in decimal, and the guardian removes it when it is empty, and the
        /// one they are in when it leaves).
        Hello = 1,
        /// Start a worker up to its gate. `a`: flags, see [`SPAWN_CGROUP`]. Descriptors: the [`Spec`] in a memory file,
        /// standard input, output, error; then, with `SPAWN_CGROUP`, the directory of its own cgroup.
        Spawn = 2,
        /// Open the gate.
        Go = 3,
        /// Send a signal. `a`: which; `b`: a [`Target`].
        Signal = 4,
        /// End the tree. `a`: milliseconds from SIGTERM to SIGKILL, 0 for SIGKILL at once; `b`: 1 when SIGTERM is not
        /// to be sent (the grace is kept, as somebody else has asked the worker to end). Again with a shorter grace:
        /// the shorter one wins.
        Stop = 5,
        /// Answered by `Pong` with the same `a`; of several that the host does not take in time, only the last.
        Ping = 6,
        /// Watch a process that was not started here, and kill it when the host dies. Descriptor: its pidfd. `Exited`
        /// (with `a` = -1 where its status cannot be known) and `Ended` tell of its end; `Signal` and `Stop` work on
        /// the process itself. `SpawnFailed` when it is no pidfd, or of a process that may not be signalled.
        Manage = 7,
        /// Forget a managed process, without a word and without killing it.
        Release = 8,
    }
}

kinds! {
    /// From the guardian to the host.
    Event {
        /// The guardian is isolated and ready. `a`: [`VERSION`]; `b`: the [`Level`] in force.
        Welcome = 1,
        /// It cannot be what was asked for, and leaves. `a`: a [`Step`]; `b`: errno.
        Refused = 2,
        /// The worker is made as it was asked for, and waits at its gate.
        Held = 3,
        /// There is no worker, and nothing is left of the attempt. `a`: a [`Step`]; `b`: errno.
        SpawnFailed = 4,
        /// The gate was opened and the program executed.
        Started = 5,
        /// The gate was opened and the program could not be executed; `Exited` and `Ended` follow. `a`: a [`Step`]; `b`:
        /// errno.
        ExecFailed = 6,
        /// The worker itself has ended. `a`: its wait status, as waitpid(2) gives it. Where the keeper died first and
        /// the kernel reaped the worker, SIGKILL, which is what the kernel sent it; its pidfd tells exactly. `b`: how many processes of its
        /// cgroup the OOM killer has killed; 0 where it has none.
        Exited = 7,
        /// Nothing of the worker's tree is left. `a`: an [`EndedBy`]; `b`: how many processes outside the worker's own
        /// process group had to be signalled.
        Ended = 8,
        /// Answers `Ping`.
        Pong = 9,
        /// The worker's process exists and leads its session. Descriptors: pidfds of its keeper and of itself, which come so
        /// early that the host looks at both while the worker makes its settings.
        Kept = 10,
        /// From the process that becomes a worker to the guardian alone: it exists and leads its session. `a`: its number in
        /// its PID namespace. Descriptor: its pidfd.
        Born = 11,
    }
}

/// `Spawn` comes with the directory of a cgroup that the worker is to be put in.
pub(crate) const SPAWN_CGROUP: i64 = 1;

/// Defines an enum that travels as one of a message's numbers.
macro_rules! number {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $kind:ident = $number:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum $name { $($(#[$doc])* $kind = $number,)* }

        impl $name {
            pub(crate) fn from_number(number: i64) -> Option<Self> {
                match number {
                    $($number => Some(Self::$kind),)*
                    _ => None,
                }
            }
        }
    };
}

number! {
    /// How worker trees are contained.
    Level {
        /// Each keeper is a subreaper.
        Subreaper = 1,
        /// So it is, and each worker has a cgroup, whose directory comes with `Spawn`.
        Cgroup = 2,
        /// Each keeper is the first process of a PID namespace with a fresh `/proc`.
        Namespace = 3,
        /// One PID namespace for all workers of the run, below an init of its own; each keeper is a subreaper in it.
        SharedNamespace = 4,
    }
}

number! {
    /// Who gets a signal.
    Target {
        /// The worker itself.
        Worker = 0,
        /// Its process group.
        Group = 1,
        /// Everything in its tree.
        Tree = 2,
    }
}

number! {
    /// The last step that ending a tree needed.
    EndedBy {
        /// Nothing was left to signal.
        Itself = 0,
        /// SIGTERM, or the worker's own leave within the grace.
        Term = 1,
        /// SIGKILL.
        Kill = 2,
    }
}

number! {
    /// What the guardian was doing when it failed.
    Step {
        /// Reading what the host sent.
        Protocol = 0,
        /// setsid(2).
        Session = 1,
        /// Becoming a subreaper.
        Subreaper = 2,
        /// Blocking signals, and reading them from a descriptor.
        Signals = 3,
        /// Making a user namespace.
        UserNamespace = 4,
        /// Mapping the user and the group into it.
        IdMap = 5,
        /// Making a PID and a mount namespace.
        PidNamespace = 6,
        /// Mounting a fresh `/proc`.
        MountProc = 7,
        /// Creating the keeper or the worker.
        Fork = 8,
        /// Putting the worker into its cgroup.
        EnterCgroup = 9,
        /// Reading the spec.
        ReadSpec = 10,
        /// Making a session for the worker.
        WorkerSession = 11,
        /// Setting its descriptors.
        Descriptors = 12,
        /// setrlimit(2).
        Rlimits = 13,
        /// setpriority(2).
        Nice = 14,
        /// Writing `oom_score_adj`.
        OomScore = 15,
        /// setgroups(2).
        Groups = 16,
        /// setresgid(2).
        Gid = 17,
        /// setresuid(2).
        Uid = 18,
        /// chdir(2).
        Cwd = 19,
        /// prctl(2), to die with the keeper.
        DeathSignal = 20,
        /// execve(2).
        Exec = 21,
        /// Creating sockets, pipes or polls.
        Plumbing = 22,
    }
}

/// What to execute, in the memory file that comes with `Spawn`.
///
/// Numbers are eight bytes in the machine's order; `none` is `i64::MIN`. A text is its length, its bytes, which hold no NUL,
/// and a NUL, so that it can be given to the kernel as it stands there. A list is its length and then its items.
///
/// ```text
/// program  argv[]  environment[] ("NAME=value")  cwd ("" for the guardian's own)
/// uid  gid  groups[] (or none)  nice  oom_score_adj  rlimits[] (resource, soft, hard)
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spec<T = Vec<u8>> {
    pub(crate) program: T,
    pub(crate) argv: Vec<T>,
    pub(crate) environment: Vec<T>,
    pub(crate) cwd: T,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) groups: Option<Vec<u32>>,
    pub(crate) nice: Option<i32>,
    pub(crate) oom_score_adj: Option<i32>,
    /// (resource, soft, hard)
    pub(crate) rlimits: Vec<(u32, u64, u64)>,
}

const NONE: i64 = i64::MIN;

impl<T: AsRef<[u8]>> Spec<T> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 * 1024);
        let number = |out: &mut Vec<u8>, number: i64| out.extend_from_slice(&number.to_ne_bytes());
        let text = |out: &mut Vec<u8>, text: &T| {
            let bytes = text.as_ref();
            number(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
            out.push(0);
        };
        text(&mut out, &self.program);
        for list in [&self.argv, &self.environment] {
            number(&mut out, list.len() as i64);
            list.iter().for_each(|item| text(&mut out, item));
        }
        text(&mut out, &self.cwd);
        number(&mut out, self.uid.map_or(NONE, i64::from));
        number(&mut out, self.gid.map_or(NONE, i64::from));
        match &self.groups {
            None => number(&mut out, NONE),
            Some(groups) => {
                number(&mut out, groups.len() as i64);
                groups
                    .iter()
                    .for_each(|group| number(&mut out, i64::from(*group)));
            }
        }
        number(&mut out, self.nice.map_or(NONE, i64::from));
        number(&mut out, self.oom_score_adj.map_or(NONE, i64::from));
        number(&mut out, self.rlimits.len() as i64);
        for (resource, soft, hard) in &self.rlimits {
            number(&mut out, i64::from(*resource));
            number(&mut out, soft.cast_signed());
            number(&mut out, hard.cast_signed());
        }
        out
    }
}

impl<'a> Spec<&'a CStr> {
    /// `None` for anything that [`encode`](Spec::encode) would not have written.
    pub(crate) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let spec = Self {
            program: reader.text()?,
            argv: reader.list(Reader::text)?,
            environment: reader.list(Reader::text)?,
            cwd: reader.text()?,
            uid: reader.optional()?,
            gid: reader.optional()?,
            groups: reader.optional_list()?,
            nice: reader.optional()?,
            oom_score_adj: reader.optional()?,
            rlimits: reader.list(|reader| {
                Some((
                    reader.number()?.try_into().ok()?,
                    reader.number()?.cast_unsigned(),
                    reader.number()?.cast_unsigned(),
                ))
            })?,
        };
        reader.0.is_empty().then_some(spec)
    }
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn number(&mut self) -> Option<i64> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(i64::from_ne_bytes(*number))
    }

    fn text(&mut self) -> Option<&'a CStr> {
        let len = usize::try_from(self.number()?).ok()?;
        let (text, rest) = self.0.split_at_checked(len.checked_add(1)?)?;
        self.0 = rest;
        CStr::from_bytes_with_nul(text).ok()
    }

    fn list<T>(&mut self, item: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let len = self.number()?;
        self.items(len, item)
    }

    fn items<T>(&mut self, len: i64, item: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let len = usize::try_from(len).ok()?;
        // Each item takes eight bytes at least, so that a wrong length cannot ask for more memory than there are bytes.
        if len > self.0.len() / 8 {
            return None;
        }
        let mut items = Vec::with_capacity(len);
        for _ in 0..len {
            items.push(item(self)?);
        }
        Some(items)
    }

    fn optional<T: TryFrom<i64>>(&mut self) -> Option<Option<T>> {
        match self.number()? {
            NONE => Some(None),
            number => number.try_into().ok().map(Some),
        }
    }

    fn optional_list(&mut self) -> Option<Option<Vec<u32>>> {
        match self.number()? {
            NONE => Some(None),
            len => self
                .items(len, |reader| reader.number()?.try_into().ok())
                .map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_back() {
        let message = Message::new(Request::Stop, 7).with(-1, i64::MAX, 3);
        assert_eq!(Message::decode(&message.encode()), Some(message));
        assert_eq!(Message::<Request>::decode(&[0; LEN]), None);
        assert_eq!(Message::<Request>::decode(&message.encode()[1..]), None);
    }

    #[test]
    fn specs_read_back_and_nothing_else_does() {
        let spec = Spec {
            program: b"/bin/sh".to_vec(),
            argv: vec![b"sh".to_vec(), b"".to_vec()],
            environment: vec![b"A=b".to_vec()],
            cwd: b"/".to_vec(),
            uid: Some(7),
            gid: None,
            groups: Some(vec![1, u32::MAX]),
            nice: Some(-5),
            oom_score_adj: Some(1000),
            rlimits: vec![(7, 10, u64::MAX)],
        };
        let read = Spec {
            program: c"/bin/sh",
            argv: vec![c"sh", c""],
            environment: vec![c"A=b"],
            cwd: c"/",
            uid: spec.uid,
            gid: spec.gid,
            groups: spec.groups.clone(),
            nice: spec.nice,
            oom_score_adj: spec.oom_score_adj,
            rlimits: spec.rlimits.clone(),
        };
        let bytes = spec.encode();
        assert_eq!(Spec::decode(&bytes), Some(read));
        let empty = Spec::<Vec<u8>>::default().encode();
        assert_eq!(Spec::decode(&empty), Some(Spec::default()));
        for len in 0..bytes.len() {
            assert_eq!(Spec::decode(&bytes[..len]), None, "the first {len} bytes");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(Spec::decode(&longer), None);
        let nul = Spec {
            program: b"a\0b".to_vec(),
            ..spec
        };
        assert_eq!(Spec::decode(&nul.encode()), None);
        assert_eq!(Spec::decode(&i64::MAX.to_ne_bytes()), None);
    }
}
