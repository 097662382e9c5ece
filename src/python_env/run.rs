//! Runs a helper program to its end, with a bound on its time and on what is kept of its output.

use std::{
    io::{self, Read},
    process::{Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

/// What is kept of each output stream; a resolver that cannot find a package prints a lot.
const KEPT: u64 = 256 * 1024;
/// How long output is awaited after the program has ended: a child it left behind may hold the pipe open.
const OUTPUT_GRACE: Duration = Duration::from_millis(500);

/// How a helper program ended.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) status: ExitStatus,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Finished {
    /// What it said about its failure, on one line: the exception that ends a traceback, else what came first.
    pub(super) fn reason(&self) -> String {
        let mut lines = self.stderr.lines().filter(|line| !line.trim().is_empty());
        let traceback = self.stderr.contains("Traceback (most recent call last)");
        let line = if traceback {
            lines.next_back()
        } else {
            lines.next()
        };
        line.unwrap_or_default().trim().to_owned()
    }

    /// The last lines it wrote, standard error first choice, for an error message.
    pub(super) fn last_words(&self, lines: usize) -> String {
        let text = if self.stderr.trim().is_empty() {
            &self.stdout
        } else {
            &self.stderr
        };
        let all: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

/// Runs `command` with no input; `Ok(None)` when it did not end within `limit` and was killed.
///
/// It stays in our process group, so that Ctrl-C at a terminal ends a long installation too.
pub(super) fn run(command: &mut Command, limit: Duration) -> io::Result<Option<Finished>> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take().map(collect);
    let stderr = child.stderr.take().map(collect);

    let pid = Pid::from_child(&child);
    let ended = pidfd_open(pid, PidfdFlags::empty()).and_then(|pidfd| {
        let timeout = Timespec::try_from(limit).ok();
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut fds, timeout.as_ref()))
    });
    if matches!(ended, Ok(0)) {
        child.kill()?;
        child.wait()?;
        return Ok(None);
    }
    let status = child.wait()?;
    let text = |stream: Option<mpsc::Receiver<Vec<u8>>>| {
        let bytes = stream.and_then(|stream| stream.recv_timeout(OUTPUT_GRACE).ok());
        String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
    };
    Ok(Some(Finished {
        status,
        stdout: text(stdout),
        stderr: text(stderr),
    }))
}

/// Reads a stream on a thread: the end of what is written, at most [`KEPT`] bytes of it.
fn collect(mut stream: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut kept = Vec::new();
        let mut chunk = [0_u8; 8192];
        while let Ok(length @ 1..) = stream.read(&mut chunk) {
            kept.extend_from_slice(&chunk[..length]);
            let excess = (kept.len() as u64).saturating_sub(KEPT) as usize;
            if excess > 0 {
                kept.drain(..excess);
            }
        }
        // Nobody waits any more after a time-out.
        let _ = sender.send(kept);
    });
    receiver
}
