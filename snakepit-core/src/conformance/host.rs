//! A host that can be killed: this program, run anew.

use std::{
    error::Error,
    fmt,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    pin::Pin,
    process::{Child, ChildStdin, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::timeout;

use super::{
    evidence::Evidence,
    ground::{Ground, LONG, SHORT},
    marks::Marks,
};
use crate::{
    launch::{LaunchedProcess, Launcher},
    process::{Pidfd, Stat},
};

/// The variable that makes this program a host: the name of the candidate.
const CANDIDATE: &str = "SNAKEPIT_CONFORMANCE_HOST";
/// The variable with the directory of the scripts.
const SCRIPTS: &str = "SNAKEPIT_CONFORMANCE_SCRIPTS";

type BoxError = Box<dyn Error + Send + Sync>;
type Promised<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// A launcher to be tried, under the name by which a report tells it from others.
pub struct Candidate {
    name: String,
    make: Box<dyn Fn() -> Promised<Arc<dyn Launcher>> + Send + Sync>,
    hosted: Option<StartHosted>,
}

impl Candidate {
    /// A launcher that `make` makes: once for the suite, and once in each host that is going to be killed. An error
    /// means that this machine does not let it work, as without the kernel feature that it needs.
    pub fn new<F>(name: impl Into<String>, make: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Arc<dyn Launcher>, BoxError>> + Send + 'static,
    {
        Self {
            name: name.into(),
            make: Box::new(move || Box::pin(make())),
            hosted: None,
        }
    }

    /// In a host that is going to be killed, has `start` start the worker, in place of a program that ignores every
    /// signal and its standard input.
    #[must_use]
    pub fn with_hosted(self, start: StartHosted) -> Self {
        let hosted = Some(start);
        Self { hosted, ..self }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes the launcher.
    pub(super) async fn launcher(&self) -> Result<Arc<dyn Launcher>, BoxError> {
        (self.make)().await
    }
}

impl fmt::Debug for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidate")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Starts a worker in a host, through the launcher, and has it run a script with `/bin/sh`. The script starts children and
/// daemons and comes back at once.
pub type StartHosted = fn(Arc<dyn Launcher>, PathBuf) -> StartingHosted;

/// What [`StartHosted`] returns.
pub type StartingHosted = Pin<Box<dyn Future<Output = Result<Box<dyn Hosted>, BoxError>> + Send>>;

/// A worker in a host that is going to be killed. Dropped when the host panics.
#[async_trait]
pub trait Hosted: Send {
    /// Its pid, in the host's PID namespace.
    fn worker(&self) -> u32;

    /// Ends it and all it started, with a grace well under a second.
    async fn end(self: Box<Self>);
}

/// Makes this process a host if the suite has started it as one, and comes back otherwise. [`main`](super::main) calls
/// it; a program that runs a [`Suite`](super::Suite) of its own calls it first.
///
/// # Panics
/// In a host, when it is told to.
pub fn become_host(candidates: &[Candidate]) {
    let (Some(name), Some(scripts)) = (std::env::var_os(CANDIDATE), std::env::var_os(SCRIPTS)) else {
        return;
    };
    let served = candidates
        .iter()
        .find(|candidate| name == *candidate.name)
        .ok_or_else(|| "there is no such candidate".into())
        .and_then(|candidate| serve(candidate, Path::new(&scripts)));
    let code = served.map_or_else(
        |error| {
            eprintln!(
                "the host for {} cannot go on: {}",
                name.display(),
                Evidence::of(&*error)
            );
            1
        },
        |()| 0,
    );
    std::process::exit(code);
}

/// Whether this process was started as a host.
pub(super) fn is_host() -> bool {
    std::env::var_os(CANDIDATE).is_some()
}

/// Starts a worker, says so, and does what standard input says until that ends.
fn serve(candidate: &Candidate, scripts: &Path) -> Result<(), BoxError> {
    // Whoever adopts its orphans is then outside of its session, wherever the suite runs.
    rustix::process::setsid()?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let launcher = candidate.launcher().await?;
        let mut hosted = Some(match candidate.hosted {
            Some(start) => start(launcher, scripts.join("family")).await?,
            None => Foreign::start(launcher, &scripts.join("worker")).await?,
        });
        println!("{}", hosted.as_ref().map_or(0, |hosted| hosted.worker()));
        std::io::stdout().flush()?;
        loop {
            match next_order().await?.as_deref() {
                Some("end") => {
                    if let Some(hosted) = hosted.take() {
                        hosted.end().await;
                    }
                }
                Some("exit") => std::process::exit(0),
                // Without the message, which would look like a failure of the suite.
                Some("panic") => std::panic::resume_unwind(Box::new("told to panic")),
                // The suite is gone.
                _ => return Ok(()),
            }
        }
    })
}

async fn next_order() -> Result<Option<String>, BoxError> {
    let reading = || std::io::stdin().lines().next().transpose();
    Ok(tokio::task::spawn_blocking(reading).await??)
}

/// A program that ignores every signal but SIGKILL, and its standard input.
struct Foreign {
    process: Arc<dyn LaunchedProcess>,
    watching: tokio::task::JoinHandle<()>,
}

impl Foreign {
    async fn start(launcher: Arc<dyn Launcher>, script: &Path) -> Result<Box<dyn Hosted>, BoxError> {
        let process = launcher
            .launch(&Ground::plain("/bin/sh", &[&script.to_string_lossy()]))
            .await?;
        process.open_gate().await?;
        // As a starter does it: what a crashed worker has left is ended.
        let crashed = Arc::downgrade(&process);
        let watching = tokio::spawn(async move {
            if let Some(process) = crashed.upgrade() {
                process.exited().await;
                process.end(Duration::ZERO).await;
            }
        });
        Ok(Box::new(Self { process, watching }))
    }
}

#[async_trait]
impl Hosted for Foreign {
    fn worker(&self) -> u32 {
        self.process.identity().pid
    }

    async fn end(self: Box<Self>) {
        self.process.end(SHORT).await;
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

/// A running host, as the suite holds it. Dropping it kills it, and its worker.
#[derive(Debug)]
pub(super) struct Host {
    child: Child,
    orders: ChildStdin,
    pub(super) pidfd: Arc<Pidfd>,
    pub(super) worker: Arc<Pidfd>,
    /// The processes between worker and host, nearest to the host first.
    pub(super) helpers: Vec<Arc<Pidfd>>,
}

impl Host {
    pub(super) async fn start(candidate: &str, marks: &Marks) -> Result<Self, Evidence> {
        let mut child = Command::new(std::env::current_exe()?)
            .env(CANDIDATE, candidate)
            .env(SCRIPTS, marks.path(""))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let missing = || Evidence("a host has no pipes".into());
        let orders = child.stdin.take().ok_or_else(missing)?;
        let stdout = child.stdout.take().ok_or_else(missing)?;
        let pidfd = Arc::new(Pidfd::open(child.id())?);
        // Held from here on, so that it is killed whatever comes.
        let mut host = Self {
            child,
            orders,
            worker: Arc::clone(&pidfd),
            pidfd,
            helpers: Vec::new(),
        };
        let first = move || BufReader::new(stdout).lines().next().transpose();
        // Many interpreters start at a time.
        let line = timeout(LONG, tokio::task::spawn_blocking(first)).await???;
        let pid = line.as_deref().and_then(|line| line.parse().ok());
        let pid = pid.ok_or_else(|| Evidence("the host could not start a worker".into()))?;
        host.worker = Arc::new(Pidfd::open(pid)?);
        host.helpers = host.helpers()?;
        Ok(host)
    }

    /// Nobody where the worker does not descend from its host: who looks after it cannot be told then.
    fn helpers(&self) -> Result<Vec<Arc<Pidfd>>, Evidence> {
        let mut helpers = Vec::new();
        let mut at = Arc::clone(&self.worker);
        loop {
            let parent = Stat::read(at.pid())?.ppid;
            if parent == self.pidfd.pid() {
                helpers.reverse();
                return Ok(helpers);
            }
            if parent <= 1 {
                return Ok(Vec::new());
            }
            at = Arc::new(Pidfd::open(parent)?);
            helpers.push(Arc::clone(&at));
        }
    }

    /// Tells it what to do.
    pub(super) fn order(&mut self, order: &str) -> Result<(), Evidence> {
        Ok(writeln!(self.orders, "{order}")?)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Both may have ended already. It is not reaped before, so that the pid is its own.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.worker.signal(libc::SIGKILL);
        for helper in &self.helpers {
            let _ = helper.signal(libc::SIGKILL);
        }
    }
}

/// Whether every thread of a process has stopped, or the process has ended.
pub(super) fn is_frozen(pidfd: &Pidfd) -> bool {
    let stopped = |path: PathBuf| {
        let stat = std::fs::read(path.join("stat")).ok();
        stat.and_then(|text| Stat::parse(&text).ok())
            .is_none_or(|stat| matches!(stat.state, b'T' | b't' | b'Z' | b'X'))
    };
    let tasks = std::fs::read_dir(format!("/proc/{}/task", pidfd.pid()));
    tasks.map_or(true, |mut tasks| {
        tasks.all(|task| task.is_ok_and(|task| stopped(task.path())))
    })
}
