//! Runs a helper program to its end, with a bound on its time and on what is kept of its output.

use std::{
    io::{self, Read},
    os::fd::OwnedFd,
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{ioctl_fionbio, retry_on_intr},
    process::{Pid, PidfdFlags, pidfd_open},
};
use tokio::time::Instant;

/// What is kept of each output stream; a resolver that cannot find a package prints a lot.
const KEPT: usize = 256 * 1024;
/// What a pipe holds unless somebody asks for more: pipe(7).
const PIPE_CAPACITY: usize = 64 * 1024;

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
/// What it has written by its end is there by then; nobody waits for a child that it left behind with its output.
///
/// It stays in our process group, so that Ctrl-C at a terminal ends a long installation too.
pub(super) fn run(command: &mut Command, limit: Duration) -> io::Result<Option<Finished>> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdout = Output::of(child.stdout.take().map(Into::into));
    let mut stderr = Output::of(child.stderr.take().map(Into::into));
    let pid = Pid::from_child(&child);
    let ended = pidfd_open(pid, PidfdFlags::empty())
        .map_err(Into::into)
        .and_then(|pidfd| until_end(&pidfd, &mut [&mut stdout, &mut stderr], limit));
    if !matches!(ended, Ok(true)) {
        child.kill()?;
        child.wait()?;
        return ended.map(|_| None);
    }
    Ok(Some(Finished {
        status: child.wait()?,
        stdout: stdout.text(),
        stderr: stderr.text(),
    }))
}

/// Reads outputs until the process has ended, and all that is there then; `false` when it takes longer than `limit`.
fn until_end(pidfd: &OwnedFd, outputs: &mut [&mut Output], limit: Duration) -> io::Result<bool> {
    for pipe in outputs.iter().filter_map(|output| output.pipe.as_ref()) {
        ioctl_fionbio(pipe, true)?;
    }
    let began = Instant::now();
    loop {
        let left = Timespec::try_from(limit.saturating_sub(began.elapsed())).ok();
        let mut fds = vec![PollFd::new(pidfd, PollFlags::IN)];
        let open = outputs.iter().filter_map(|output| output.pipe.as_ref());
        fds.extend(open.map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        if retry_on_intr(|| poll(&mut fds, left.as_ref()))? == 0 {
            return Ok(false);
        }
        // Seen before the outputs are read, so that all it wrote is read.
        let has_ended = !fds[0].revents().is_empty();
        for output in &mut *outputs {
            output.read()?;
        }
        if has_ended {
            return Ok(true);
        }
    }
}

/// What comes from one output stream: the end of it, at most [`KEPT`] bytes.
struct Output {
    /// Until it ends.
    pipe: Option<std::fs::File>,
    kept: Vec<u8>,
}

impl Output {
    fn of(pipe: Option<OwnedFd>) -> Self {
        let pipe = pipe.map(Into::into);
        let kept = Vec::new();
        Self { pipe, kept }
    }

    /// Reads what is there, without waiting for more: at most what a pipe holds, as somebody may write without end.
    fn read(&mut self) -> io::Result<()> {
        let mut chunk = [0; 8192];
        for _ in 0..=PIPE_CAPACITY / chunk.len() {
            let Some(pipe) = &mut self.pipe else { break };
            match pipe.read(&mut chunk) {
                Ok(0) => self.pipe = None,
                Ok(length) => self.kept.extend_from_slice(&chunk[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            let excess = self.kept.len().saturating_sub(KEPT);
            self.kept.drain(..excess);
        }
        Ok(())
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.kept).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn sh(script: &str, limit: Duration) -> Option<Finished> {
        run(Command::new("/bin/sh").args(["-c", script]), limit).unwrap()
    }

    #[test]
    fn what_it_wrote_is_there_while_a_child_still_holds_its_output() {
        let finished = sh("sleep 600 & echo $!; echo no good >&2; exit 3", LONG).unwrap();
        let child = finished.stdout.trim().parse().ok().and_then(Pid::from_raw);
        rustix::process::kill_process(child.unwrap(), rustix::process::Signal::KILL).unwrap();
        assert_eq!(finished.status.code(), Some(3));
        assert_eq!(finished.reason(), "no good");
    }

    #[test]
    fn of_a_flood_the_end_is_kept() {
        let finished = sh("seq 1 200000", LONG).unwrap();
        assert!(finished.stdout.ends_with("\n199999\n200000\n"));
        assert_eq!(finished.stdout.len(), KEPT);
    }

    #[test]
    fn one_that_takes_too_long_is_killed() {
        assert!(sh("exec sleep 600", Duration::from_millis(50)).is_none());
    }
}
