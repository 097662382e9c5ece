//! Copies of this program in other roles, started and ended by the experiments.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use tokio::time::Instant;

use crate::{
    Result, crowd,
    host::{Plan, Ready},
};

/// The first argument of a copy of this program that is not to measure.
pub(crate) const MARK: &str = "--role";

/// A copy of this program in another role. Dropping it ends it and everything below this program.
#[derive(Debug)]
pub(crate) struct Role {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    what: String,
}

impl Role {
    /// A host.
    pub(crate) fn host(plan: &Plan) -> Result<Self> {
        Self::start("host", &serde_json::to_string(plan)?)
    }

    /// Starts a role.
    pub(crate) fn start(role: &str, argument: &str) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([MARK, role, argument])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (input, output) = pipes.ok_or("a piped child has its pipes")?;
        Ok(Self {
            child,
            input: Some(input),
            output: BufReader::new(output),
            what: format!("{role} {argument}"),
        })
    }

    /// Its pid.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it says that it is in place.
    pub(crate) fn ready(&mut self) -> Result<Ready> {
        Ok(serde_json::from_str(&self.line()?)?)
    }

    /// Its next line.
    pub(crate) fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err(format!("{} ended early", self.what).into());
        }
        Ok(line.trim_end().to_owned())
    }

    /// SIGKILL; when it was sent.
    pub(crate) fn kill(&mut self) -> Result<Instant> {
        let now = Instant::now();
        self.child.kill()?;
        Ok(now)
    }

    /// Asks it to stop; when it was asked.
    pub(crate) fn stop(&mut self) -> Result<Instant> {
        let input = self.input.as_mut().ok_or("its input is open")?;
        let now = Instant::now();
        input.write_all(b"stop\n")?;
        Ok(now)
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Err(error) = crowd::leave_nothing() {
            eprintln!("cannot end what {} has left: {error}", self.what);
        }
    }
}
