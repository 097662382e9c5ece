//! `snakepit call --reload`: the same call again whenever the code changes.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in its helpers"
)]

#[path = "cli/support.rs"]
mod support;

use std::{
    io::{BufRead as _, BufReader, Read},
    process::{Child, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use support::{Home, signal, wait_for};

/// Bound on anything a test waits for: the machine may be busy.
const LIMIT: Duration = Duration::from_secs(60);

/// The command, and what it says line by line.
struct Reloading {
    child: Child,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
}

fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (said, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            // A test that is over listens no more.
            let _ = said.send(line);
        }
    });
    lines
}

impl Reloading {
    fn start(home: &Home, args: &[&str]) -> Self {
        let args = [&["call", "--reload", "--path", home.path()], args].concat();
        let mut child = home
            .command(&args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            stdout: lines(child.stdout.take().unwrap()),
            stderr: lines(child.stderr.take().unwrap()),
            child,
        }
    }

    #[track_caller]
    fn prints(&self) -> String {
        self.stdout.recv_timeout(LIMIT).unwrap()
    }

    /// Waits for a line on standard error with this in it.
    #[track_caller]
    fn tells(&self, what: &str) -> String {
        let mut before = Vec::new();
        loop {
            match self.stderr.recv_timeout(LIMIT) {
                Ok(line) if line.contains(what) => return line,
                Ok(line) => before.push(line),
                Err(error) => panic!("{error}, no {what:?} in {before:#?}"),
            }
        }
    }

    /// Ends it as a Ctrl-C does; nothing more was printed and nothing is left.
    #[track_caller]
    fn interrupt(mut self, worker: &str) {
        signal(self.child.id(), "INT");
        let status = wait_for(&mut self.child, LIMIT);
        assert_eq!(status.code(), Some(1));
        self.tells("error: interrupted");
        assert_eq!(self.stdout.iter().collect::<Vec<_>>(), [""; 0]);
        assert!(
            !std::fs::exists(format!("/proc/{worker}")).unwrap(),
            "{worker} is left"
        );
    }
}

impl Drop for Reloading {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Ours, and not waited for: the pid is its own.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A module whose function answers this and its process.
fn version(home: &Home, answer: &str) {
    home.module(
        "code",
        &format!("import os\ndef f():\n    return [{answer}, os.getpid()]\n"),
    );
}

fn parts(line: &str) -> (String, String) {
    let answer: serde_json::Value = serde_json::from_str(line).unwrap();
    (answer[0].to_string(), answer[1].to_string())
}

#[test]
fn each_change_is_called_and_broken_code_leaves_the_old_serving() {
    let home = Home::new();
    version(&home, "1");
    let command = Reloading::start(&home, &["code:f"]);
    let (first, old) = parts(&command.prints());
    assert_eq!(first, "1");

    version(&home, "2");
    let (second, worker) = parts(&command.prints());
    assert_eq!(second, "2");
    assert_ne!(old, worker, "the new code has a process of its own");

    home.module("code", "import os\ndef f(:\n");
    command.tells("not reloaded: ");
    command.tells("SyntaxError");
    assert!(
        std::fs::exists(format!("/proc/{worker}")).unwrap(),
        "the old code serves on"
    );

    version(&home, "3");
    let (third, worker) = parts(&command.prints());
    assert_eq!(third, "3");
    command.interrupt(&worker);
}

#[test]
fn a_call_that_fails_is_told_and_made_again_after_the_next_change() {
    let home = Home::new();
    home.module("code", "def f():\n    raise ValueError('not yet')\n");
    let command = Reloading::start(&home, &["code:f"]);
    command.tells("ValueError: not yet");
    home.module("code", "import os\ndef f():\n    os._exit(7)\n");
    command.tells("exited with code 7");
    version(&home, "'at last'");
    let (answer, worker) = parts(&command.prints());
    assert_eq!(answer, "\"at last\"");
    command.interrupt(&worker);
}

#[test]
fn a_call_that_goes_on_is_cancelled_once_the_new_code_is_ready() {
    let home = Home::new();
    home.module(
        "code",
        "import time\ndef f():\n    yield 'old'\n    while True:\n        time.sleep(0.1)\n",
    );
    let command = Reloading::start(&home, &["code:f", "--stream"]);
    assert_eq!(command.prints(), "\"old\"");
    // One that does not load takes nothing from it.
    home.module("code", "def f():\n    return nonsense nonsense\n");
    command.tells("SyntaxError");
    home.module("code", "import os\ndef f():\n    yield os.getpid()\n");
    command.tells("the call is cancelled");
    let worker = command.prints();
    command.interrupt(&worker);
}

#[test]
fn without_a_directory_there_is_nothing_to_watch() {
    let ran = Home::new().run(&["call", "math:hypot", "3", "4", "--reload"]);
    assert_eq!((ran.stdout.as_str(), ran.code), ("", 2), "{}", ran.stderr);
    assert!(ran.stderr.contains("--path"), "{}", ran.stderr);
}

#[test]
fn code_that_does_not_load_at_the_start_is_an_error() {
    let home = Home::new();
    home.module("code", "def f(:\n");
    let ran = home.run(&["call", "code:f", "--path", home.path(), "--reload"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("SyntaxError"), "{}", ran.stderr);
}
