//! What host and template say to each other.
//!
//! The template's inherited channel is its lifeline: the host sends one message over it, with the socket for everything else,
//! and then only keeps it open. When it closes the kernel kills the template.
//!
//! A message of the host is its length in bytes (32 bits), and that many bytes: fields with NULs between them. A list is
//! its length as a decimal number, and as many fields. Integers are in the byte order of the machine.
//!
//! | message | fields | descriptors |
//! |---|---|---|
//! | begin, on the lifeline | version, `shared` or `nested`, list of names of threads that do no harm, list of directories for `sys.path`, list of modules to import | the socket for the others; a pidfd of the host |
//! | fork | id, directory or nothing, program or nothing, list of arguments, list of `NAME=VALUE` | standard input, output and error; the gate, if there is a program; `cgroup.procs` of the cgroup that it is to be in, if there is one |
//!
//! A fork without a program is a worker of our runtime, whose gate is the preamble on its channel. With one, it is held until
//! a byte comes over the gate, and executes the program then; a number that comes back is the errno of execve(2).
//!
//! What comes back is a [`Reply`], from the template or from the process that it has forked: each in one sendmsg(2), so that
//! they do not mix.

use std::{
    ffi::{OsStr, OsString},
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use rustix::{
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, recvmsg, sendmsg,
    },
};

/// Of host and worker package; they come from one build.
const VERSION: &[u8] = b"3";
/// A reply without its text.
const REPLY: usize = 16;
/// Standard input, output, error, the gate and the cgroup.
const MAX_FDS: usize = 5;

/// A message of the host, being written.
#[derive(Debug, Default)]
pub(crate) struct Fields(Vec<u8>);

impl Fields {
    fn push(&mut self, field: &[u8]) {
        self.0.extend_from_slice(field);
        self.0.push(0);
    }

    fn number(&mut self, number: u64) {
        self.push(number.to_string().as_bytes());
    }

    fn list<'a>(&mut self, fields: impl ExactSizeIterator<Item = &'a [u8]>) {
        self.number(fields.len() as u64);
        for field in fields {
            self.push(field);
        }
    }

    /// The whole message.
    fn finish(mut self) -> io::Result<Vec<u8>> {
        // After the last field there is nothing to separate.
        self.0.pop();
        let length = u32::try_from(self.0.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.0.splice(0..0, length.to_ne_bytes());
        Ok(self.0)
    }
}

/// The first message.
pub(crate) fn begin(
    nested: bool,
    safe_threads: &[String],
    paths: &[impl AsRef<Path>],
    modules: &[String],
) -> io::Result<Vec<u8>> {
    let mut fields = Fields::default();
    fields.push(VERSION);
    fields.push(if nested { b"nested" } else { b"shared" });
    fields.list(safe_threads.iter().map(String::as_bytes));
    fields.list(paths.iter().map(|path| path.as_ref().as_os_str().as_bytes()));
    fields.list(modules.iter().map(String::as_bytes));
    fields.finish()
}

/// A request for a process.
#[derive(Debug)]
pub(crate) struct Fork<'a> {
    /// Where it begins; `None` is where the template is.
    pub(crate) cwd: Option<&'a Path>,
    /// What it executes; `None` is a worker of our runtime.
    pub(crate) program: Option<&'a Path>,
    /// The worker's arguments, or all of the program's, its name included.
    pub(crate) args: Vec<&'a OsStr>,
    /// All of its environment.
    pub(crate) env: Vec<(OsString, OsString)>,
}

impl Fork<'_> {
    /// The message.
    ///
    /// # Errors
    /// `InvalidInput` for an argument that cannot be, with a NUL byte.
    pub(crate) fn encode(&self, id: u64) -> io::Result<Vec<u8>> {
        if self.args.iter().any(|arg| arg.as_bytes().contains(&0)) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "an argument has a NUL byte",
            ));
        }
        let path = |path: Option<&Path>| path.map_or(&b""[..], |path| path.as_os_str().as_bytes()).to_vec();
        let mut fields = Fields::default();
        fields.number(id);
        fields.push(&path(self.cwd));
        fields.push(&path(self.program));
        fields.list(self.args.iter().map(|arg| arg.as_bytes()));
        let variables: Vec<Vec<u8>> = self
            .env
            .iter()
            .map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat())
            .collect();
        fields.list(variables.iter().map(Vec::as_slice));
        fields.finish()
    }
}

/// What the template says, or a process that it has forked.
#[derive(Debug)]
pub(crate) enum Reply {
    /// Everything is imported.
    Ready,
    /// A module could not be imported; why.
    Unfit(String),
    /// Workers cannot have PID namespaces; why.
    Unnested(String),
    /// A process is there, and waits at its gate; with the first process of its PID namespace, if it has one.
    Held {
        id: u64,
        pidfd: OwnedFd,
        first: Option<OwnedFd>,
    },
    /// There is no process: by an errno, or because these threads run.
    Refused { id: u64, errno: i32, text: String },
    /// A process was reaped, with this wait status.
    Exited { id: u64, status: i32 },
}

/// Sends what fits of some bytes, with descriptors; how many bytes that were.
pub(crate) fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    loop {
        match sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            sent => return Ok(sent?),
        }
    }
}

/// Replies as they come in, in whatever pieces.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Replies {
    /// Receives what is there; `false` at the end.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing, and what recvmsg(2) answers.
    pub(crate) fn receive(&mut self, socket: impl AsFd) -> io::Result<bool> {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
            match recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
                Err(Errno::INTR) => {}
                // It closed with something unread.
                Err(Errno::CONNRESET) => return Ok(false),
                other => break other?,
            }
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        self.bytes.extend_from_slice(&bytes[..received.bytes]);
        Ok(received.bytes > 0)
    }

    /// The next whole reply.
    ///
    /// # Errors
    /// `InvalidData` for what is none.
    pub(crate) fn next(&mut self) -> io::Result<Option<Reply>> {
        let Some(head) = self.bytes.first_chunk::<REPLY>() else {
            return Ok(None);
        };
        let [kind, _, l0, l1, v0, v1, v2, v3, id @ ..] = *head;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = i32::from_ne_bytes([v0, v1, v2, v3]);
        let id = u64::from_ne_bytes(id);
        if self.bytes.len() < REPLY + length {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&self.bytes[REPLY..REPLY + length]).into_owned();
        self.bytes.drain(..REPLY + length);
        Ok(Some(match kind {
            1 => Reply::Ready,
            2 => Reply::Unfit(text),
            // This process had no descriptor left for them. Whatever waits at its gate ends when that closes.
            3 if self.fds.len() < usize::try_from(value).unwrap_or(0).max(1) => {
                self.fds.clear();
                Reply::Refused {
                    id,
                    errno: Errno::MFILE.raw_os_error(),
                    text: "take the handles of the process".to_owned(),
                }
            }
            3 => Reply::Held {
                id,
                pidfd: self.fds.remove(0),
                first: (value > 1).then(|| self.fds.remove(0)),
            },
            4 => Reply::Refused {
                id,
                errno: value,
                text,
            },
            5 => Reply::Exited { id, status: value },
            6 => Reply::Unnested(text),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn messages_are_fields_with_nuls_between_them() {
        let begin = begin(true, &[], &["/a", "/b"], &["numpy".to_owned()]).unwrap();
        let (length, body) = begin.split_first_chunk().unwrap();
        assert_eq!(u32::from_ne_bytes(*length) as usize, body.len());
        assert_eq!(body, b"3\0nested\x000\x002\0/a\0/b\x001\0numpy");

        let fork = Fork {
            cwd: None,
            program: Some(Path::new("/bin/sh")),
            args: vec![OsStr::new("sh")],
            env: vec![("A".into(), "1=2".into())],
        };
        assert_eq!(
            &fork.encode(7).unwrap()[4..],
            b"7\0\0/bin/sh\x001\0sh\x001\0A=1=2"
        );
        let args = vec![OsStr::new("a\0b")];
        assert!(Fork { args, ..fork }.encode(7).is_err());
    }

    fn reply(kind: u8, text: &[u8], value: i32, id: u64) -> Vec<u8> {
        let mut bytes = vec![kind, 0];
        bytes.extend((text.len() as u16).to_ne_bytes());
        bytes.extend(value.to_ne_bytes());
        bytes.extend(id.to_ne_bytes());
        bytes.extend(text);
        bytes
    }

    #[test]
    fn replies_come_in_any_pieces_and_keep_their_descriptors() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let all = [
            reply(1, b"", 0, 0),
            reply(4, b"fork", 11, 3),
            reply(5, b"", 9, 4),
            reply(2, b"no module", 0, 0),
        ]
        .concat();
        let mut replies = Replies::default();
        let mut told = Vec::new();
        for byte in all {
            send(&theirs, &[byte], &[]).unwrap();
            assert!(replies.receive(&ours).unwrap());
            told.extend(replies.next().unwrap().map(|reply| format!("{reply:?}")));
        }
        let expected = [
            "Ready",
            r#"Refused { id: 3, errno: 11, text: "fork" }"#,
            "Exited { id: 4, status: 9 }",
            r#"Unfit("no module")"#,
        ];
        assert_eq!(told, expected);

        for id in [1, 2] {
            let fds = [theirs.as_fd(), theirs.as_fd()];
            let handles = id as usize;
            send(&theirs, &reply(3, b"", handles as i32, id), &fds[..handles]).unwrap();
        }
        for expected in [1, 2] {
            let reply = loop {
                match replies.next().unwrap() {
                    Some(reply) => break reply,
                    None => assert!(replies.receive(&ours).unwrap()),
                }
            };
            assert!(
                matches!(&reply, Reply::Held { id, first, .. } if *id == expected && first.is_some() == (expected == 2)),
                "{reply:?}"
            );
        }
        assert!(replies.next().unwrap().is_none());
        drop(theirs);
        assert!(!replies.receive(&ours).unwrap());
    }

    #[test]
    fn nonsense_is_an_error_and_a_lost_descriptor_that_of_one_process() {
        let mut replies = Replies {
            bytes: reply(9, b"", 0, 1),
            fds: Vec::new(),
        };
        assert_eq!(replies.next().unwrap_err().kind(), io::ErrorKind::InvalidData);
        for fds in [0, 1] {
            let null = || std::fs::File::open("/dev/null").unwrap().into();
            let mut replies = Replies {
                bytes: [reply(3, b"", 2, 7), reply(5, b"", 0, 8)].concat(),
                fds: (0..fds).map(|_| null()).collect(),
            };
            let refused = replies.next().unwrap();
            assert!(
                matches!(refused, Some(Reply::Refused { id: 7, errno, .. }) if errno == Errno::MFILE.raw_os_error()),
                "{refused:?}"
            );
            assert!(replies.fds.is_empty());
            let next = replies.next().unwrap();
            assert!(matches!(next, Some(Reply::Exited { id: 8, .. })), "{next:?}");
        }
    }
}
