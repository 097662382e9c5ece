//! A program that runs.

use std::{
    fmt, io,
    sync::{Arc, Mutex},
    time::Duration,
};

use snakepit_core::process::{Containment, EndReport, ExitOutcome, ProcessIdentity};
use tokio::{io::AsyncWriteExt, net::unix::pipe};

use super::{Child, Command, Inner, error::RunError, monitor::Exit, route, stop};
use crate::{proc::Proc, request::os, wire::Target};

/// A program that runs, or has run. Dropping it ends the program and all it started, at once and without grace;
/// [`stop`](Self::stop) is the way out.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    stdin: Option<pipe::Sender>,
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
}

/// What a [`Running`] shares with the tasks that end it. Its drop ends the program.
pub(crate) struct Shared {
    pub(super) proc: Proc,
    pub(super) inner: Arc<Inner>,
    pub(super) command: Command,
    /// Whether a stop has begun.
    stopping: Mutex<bool>,
}

pub(super) async fn run(inner: &Arc<Inner>, command: Command) -> Result<Running, RunError> {
    let job = command.clone();
    let prepared = tokio::task::spawn_blocking(move || Ok((job.resolve()?, route::open(&job.routes)?))).await;
    let prepared: Result<_, RunError> =
        prepared.map_err(|error| os("run the thread that looks the program up")(error.into()))?;
    let (program, (standard, ends)) = prepared?;
    let watched = |error| RunError::from(os("watch a pipe")(error));
    let stdin = ends
        .stdin
        .map(pipe::Sender::from_owned_fd)
        .transpose()
        .map_err(watched)?;
    let stdout = ends
        .stdout
        .map(pipe::Receiver::from_owned_fd)
        .transpose()
        .map_err(watched)?;
    let stderr = ends
        .stderr
        .map(pipe::Receiver::from_owned_fd)
        .transpose()
        .map_err(watched)?;
    let proc = inner.engine.spawn(program, standard).await?;
    let shared = Shared {
        proc,
        inner: Arc::clone(inner),
        command,
        stopping: Mutex::new(false),
    };
    shared.proc.open_gate().await?;
    Ok(Running {
        shared: Arc::new(shared),
        stdin,
        stdout,
        stderr,
    })
}

impl Running {
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Tells the monitors of its end. Holds nothing that keeps the program alive.
    pub(super) fn watch(&self) {
        let exits = self.shared.inner.exits.clone();
        let identity = self.identity().clone();
        let ending = self.shared.proc.watch();
        tokio::spawn(async move {
            if let Some(outcome) = ending.await {
                exits.tell(Exit { identity, outcome });
            }
        });
    }

    /// Who it is.
    pub fn identity(&self) -> &ProcessIdentity {
        self.shared.proc.identity()
    }

    /// What keeps it, and what it starts, from getting away.
    pub fn containment(&self) -> &Containment {
        self.shared.proc.containment()
    }

    /// Writes to its standard input, waiting while the pipe is full.
    ///
    /// # Errors
    /// `BrokenPipe` when it reads no more, or its standard input is no pipe or was closed.
    ///
    /// # Cancel safety
    /// Not safe: a part may have been written.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.stdin {
            Some(stdin) => stdin.write_all(bytes).await,
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// End-of-file on its standard input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// The pipe to its standard input, once.
    pub fn take_stdin(&mut self) -> Option<pipe::Sender> {
        self.stdin.take()
    }

    /// The pipe from its standard output, once.
    pub fn take_stdout(&mut self) -> Option<pipe::Receiver> {
        self.stdout.take()
    }

    /// The pipe from its standard error, once.
    pub fn take_stderr(&mut self) -> Option<pipe::Receiver> {
        self.stderr.take()
    }

    /// Waits until the program itself, not what it started, has ended.
    ///
    /// # Cancel safety
    /// Safe; nothing is lost.
    pub async fn exited(&self) -> ExitOutcome {
        self.shared.proc.exited().await
    }

    /// How it ended, if it has; does not wait.
    pub fn try_exited(&self) -> Option<ExitOutcome> {
        self.shared.proc.try_exited()
    }

    /// Whether this is one of its success codes.
    pub fn is_success(&self, outcome: ExitOutcome) -> bool {
        is_success(self.shared.command.codes(), outcome)
    }

    /// Sends a signal to the program itself; `Ok` when it has ended.
    ///
    /// # Errors
    /// What pidfd_send_signal(2) answers.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        self.shared.proc.signal(signal)
    }

    /// Sends a signal to its process group, which is its own. What the guardian cannot signal is left out.
    pub fn signal_group(&self, signal: i32) {
        self.shared.proc.signal_many(signal, Target::Group);
    }

    /// Sends a signal to everything it started, itself included. What the guardian cannot signal is left out.
    pub fn signal_tree(&self, signal: i32) {
        self.shared.proc.signal_many(signal, Target::Tree);
    }

    /// Ends it and everything it started: its stop command or SIGTERM, its grace, SIGKILL, and resolves when nothing is
    /// left.
    ///
    /// # Cancel safety
    /// The ending goes on when the future is dropped.
    pub async fn stop(&self) -> EndReport {
        let grace = self.shared.command.grace;
        match &self.shared.command.stop_command {
            Some(argv) if self.shared.begin_stop() => stop::stop(&self.shared, argv.clone()).await,
            Some(_) => self.shared.proc.ended().await,
            None => self.shared.proc.end(grace).await,
        }
    }

    /// Ends it and everything it started with SIGTERM, another grace than its own, and SIGKILL. Of several calls the
    /// shortest grace wins; zero is SIGKILL at once.
    ///
    /// # Cancel safety
    /// The ending goes on when the future is dropped.
    pub async fn end(&self, grace: Duration) -> EndReport {
        self.shared.proc.end(grace).await
    }

    /// Waits until nothing is left of it and of what it started, however that comes about.
    ///
    /// # Cancel safety
    /// Safe; nothing is lost.
    pub async fn ended(&self) -> EndReport {
        self.shared.proc.ended().await
    }
}

pub(super) fn is_success(codes: &[i32], outcome: ExitOutcome) -> bool {
    matches!(outcome, ExitOutcome::Exited(code) if codes.contains(&code))
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.proc.fmt(f)
    }
}

impl Shared {
    /// `true` for the first who asks.
    fn begin_stop(&self) -> bool {
        let mut stopping = super::lock(&self.stopping);
        !std::mem::replace(&mut *stopping, true)
    }

    pub(super) fn child(&self) -> Option<Child> {
        self.proc.try_exited().is_none().then(|| Child {
            identity: self.proc.identity().clone(),
            program: Some(self.proc.program().name.clone()),
        })
    }
}
