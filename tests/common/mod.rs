//! What the system tests share.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use snakepit::{Pool, PoolBuilder, PythonEnv, core::process::Stat, registry::Settings};
use tokio::time::{Instant, sleep};

/// How long a condition may take on a machine that is busy. A bound, not an expectation.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Where the tests keep records.
pub const STATE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/state");

/// The directory of misbehaving workers.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// A pool of one worker that can import the fixtures, its records among the tests' own files.
pub fn builder() -> PoolBuilder {
    plain_builder().name("test").workers(1).path(fixtures())
}

/// The defaults, but for where records are kept, and the backend where `SNAKEPIT_TEST_BACKEND` names one: what holds on one
/// holds on all.
pub fn plain_builder() -> PoolBuilder {
    let builder = Pool::builder().registry(Settings::new().with_state_dir(STATE));
    match std::env::var("SNAKEPIT_TEST_BACKEND") {
        Ok(name) => builder.backend(name.parse().expect("SNAKEPIT_TEST_BACKEND names a backend")),
        Err(_) => builder,
    }
}

/// An interpreter with NumPy and pyarrow; says so loudly where there is none.
pub fn python_with_packages() -> Option<PythonEnv> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target"),
        PathBuf::from,
    );
    let python = target.join("python-venv/bin/python");
    if !python.exists() {
        eprintln!(
            "SKIPPED: there is no {}; `python/check` makes it",
            python.display()
        );
        return None;
    }
    let python = PythonEnv::builder().interpreter(python).build();
    Some(python.expect("an interpreter that python/check has used"))
}

/// Waits for a condition.
pub async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !done().await {
        assert!(began.elapsed() < PATIENCE, "it never came to this: {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

/// Whether a process has gone: no entry, or a zombie that nobody has read yet.
///
/// A pid that was given to somebody else since would count as alive, so this errs on the strict side.
pub fn is_gone(pid: u32) -> bool {
    Stat::read(pid).map_or(true, |stat| stat.is_dead())
}

/// The pid of the only worker.
pub async fn worker_pid(pool: &Pool) -> u32 {
    pool.status().await.workers[0]
        .child
        .status
        .pid
        .expect("the worker is ready")
}

/// Ends processes by exact identity when the test is over, also when it has failed.
#[derive(Debug, Default)]
pub struct Undertaker(Vec<snakepit::core::process::Pidfd>);

impl Undertaker {
    /// Takes care of a process that is alive now.
    pub fn add(&mut self, pid: u32) {
        if let Ok(pidfd) = snakepit::core::process::Pidfd::open(pid) {
            self.0.push(pidfd);
        }
    }
}

impl Drop for Undertaker {
    fn drop(&mut self) {
        for pidfd in &self.0 {
            // One that is gone already needs no signal.
            let _ = pidfd.signal(libc::SIGKILL);
        }
    }
}
