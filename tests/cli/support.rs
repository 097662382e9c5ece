//! A home of its own for each test, and the command run in it.

#![allow(dead_code, reason = "each test file uses its part")]

#[path = "../common/executable.rs"]
mod executable;

use std::{
    fs,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use executable::write_executable;
use tempfile::TempDir;
use tokio::time::Instant;

/// Bound on anything a test waits for: the machine may be busy.
const LIMIT: Duration = Duration::from_secs(60);

/// A directory for a test's modules and its cache.
pub(crate) struct Home {
    dir: TempDir,
}

/// What a run gave.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) code: i32,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn path(&self) -> &str {
        self.dir().to_str().unwrap()
    }

    /// The command, with everything it keeps inside this home.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_snakepit"));
        command
            .args(args)
            .stdin(Stdio::null())
            .env("XDG_CACHE_HOME", self.dir().join("cache"))
            .env("XDG_STATE_HOME", self.dir().join("state"))
            .env("NO_COLOR", "1")
            .env_remove("RUST_LOG");
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        finish(&mut self.command(args))
    }

    /// A Python module, importable with `--path`.
    pub(crate) fn module(&self, name: &str, source: &str) {
        self.file(&format!("{name}.py"), source);
    }

    pub(crate) fn file(&self, name: &str, content: &str) {
        let path = self.dir().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// A program that the shell runs.
    pub(crate) fn script(&self, name: &str, body: &str) {
        write_executable(&self.dir().join(name), &format!("#!/bin/sh\n{body}\n"));
    }
}

pub(crate) fn finish(command: &mut Command) -> Ran {
    let output = command.output().unwrap();
    Ran {
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: output.status.code().unwrap_or(-1),
    }
}

/// Sends a signal by name.
pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("kill")
        .args(["-s", name, &pid.to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

/// Waits for a child; one that does not end in time is killed and fails the test.
#[track_caller]
pub(crate) fn wait_for(child: &mut Child, limit: Duration) -> ExitStatus {
    let until = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > until {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("it did not end within {limit:?}");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// The content of a file that somebody else is about to make whole.
#[track_caller]
pub(crate) fn read_when_there(path: &Path) -> String {
    let until = Instant::now() + LIMIT;
    loop {
        match fs::read_to_string(path) {
            Ok(content) => return content,
            Err(error) => assert!(Instant::now() < until, "{}: {error}", path.display()),
        }
        thread::sleep(Duration::from_millis(5));
    }
}
