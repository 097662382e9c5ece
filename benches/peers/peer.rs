//! Processes the benchmark starts, and their certain end.

use std::{
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{ChildStdin, ChildStdout},
    time::timeout,
};

use crate::{Result, proc};

/// The longest that a start or an answer may take; a hundred workers that import pandas take minutes on a busy machine.
pub(crate) const ANSWER: Duration = Duration::from_secs(240);

/// A peer's process, leader of its own group. Dropping it kills the group and all that is below the process, also what
/// has left the group, as Ray's services have, and reaps the leader; so failure and Ctrl-C leave nothing behind. The
/// group's number cannot be reused before the leader is reaped.
#[derive(Debug)]
pub(crate) struct Peer {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
    what: String,
}

impl Peer {
    /// Starts a program with pipes for JSON lines or readiness.
    pub(crate) fn start(what: &str, command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|error| format!("cannot start {what}: {error}"))?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (stdin, stdout) = pipes.ok_or("a piped child has its pipes")?;
        Ok(Self {
            child,
            input: Some(ChildStdin::from_std(stdin)?),
            output: BufReader::new(ChildStdout::from_std(stdout)?).lines(),
            what: what.to_owned(),
        })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its next line.
    pub(crate) async fn line(&mut self) -> Result<String> {
        let line = timeout(ANSWER, self.output.next_line())
            .await
            .map_err(|_| format!("{} gave no answer in {ANSWER:?}", self.what))??;
        line.ok_or_else(|| format!("{} ended early", self.what).into())
    }

    /// Sends a line and waits for the answer.
    pub(crate) async fn ask(&mut self, request: &serde_json::Value) -> Result<String> {
        let input = self.input.as_mut().ok_or("the peer's input is closed")?;
        input.write_all(format!("{request}\n").as_bytes()).await?;
        self.line().await
    }

    /// Waits until it has closed its output: for a program that ends by itself.
    pub(crate) async fn finished(&mut self) -> Result<()> {
        self.input = None;
        while timeout(ANSWER, self.output.next_line()).await??.is_some() {}
        Ok(())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // By their pidfds, taken while they are seen to be below the leader: a number may be another's by then.
        let below = below(self.pid());
        // An error means that the whole group has ended already.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        for process in below {
            // It may have ended with its group.
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
        if let Err(error) = self.child.wait() {
            eprintln!("cannot reap {}: {error}", self.what);
        }
    }
}

/// All processes below one.
fn below(leader: u32) -> Vec<OwnedFd> {
    // What cannot be read leaves the group, which is killed in any case.
    let before = proc::descendants(leader).unwrap_or_default();
    let open = |pid: u32| {
        Some((
            pid,
            pidfd_open(Pid::from_raw(pid.cast_signed())?, PidfdFlags::empty()).ok()?,
        ))
    };
    let opened: Vec<_> = before.into_iter().filter_map(open).collect();
    let still = proc::descendants(leader).unwrap_or_default();
    let opened = opened.into_iter().filter(|(pid, _)| still.contains(pid));
    opened.map(|(_, process)| process).collect()
}
