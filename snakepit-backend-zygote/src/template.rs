//! The template: one interpreter that has imported everything, and forks on request.

mod link;
mod start;

use std::{
    collections::HashMap,
    io,
    os::{fd::OwnedFd, unix::process::ExitStatusExt as _},
    process::ExitStatus,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::process::Signal;
use snakepit_core::{
    launch::{LaunchError, LaunchedProcess},
    process::{Containment, ExitOutcome, Pidfd},
};
pub(crate) use start::{Means, start};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{sleep, timeout},
};

use self::link::Request;
use crate::{
    error::{TemplateError, launch_error},
    wire::{Fork, Reply},
};

/// A template grown by this much more than it had when it was ready is replaced: all that it forks inherits what it has.
const GROWTH: u64 = 64 << 20;
/// The pause between looks at how a process has ended that nobody tells of.
const LOOK: Duration = Duration::from_millis(1);
/// How long the template may take to reap a process.
const REAPED: Duration = Duration::from_secs(2);
/// How long another may, once the template is gone: whoever adopts orphans does so at once, or when it pleases.
const REAPED_BY_ANOTHER: Duration = Duration::from_millis(50);

/// A template that is ready. When the last of those who use it is gone (the launcher, and each process forked from it), it
/// is ended, and its row is released.
#[derive(Debug)]
pub(crate) struct Template {
    process: Arc<dyn LaunchedProcess>,
    desk: Arc<Desk>,
    requests: mpsc::UnboundedSender<Request>,
    next_id: AtomicU64,
    baseline: Option<u64>,
    fork_deadline: Duration,
    /// Ends it when dropped; the other end tells when that is done.
    _used: mpsc::Sender<()>,
    ended: watch::Receiver<bool>,
}

/// A process that was forked.
#[derive(Debug)]
pub(crate) struct Forked {
    pub(crate) pidfd: Pidfd,
    /// The first process of its PID namespace, if it has one.
    pub(crate) first: Option<Pidfd>,
    /// How it ended, as the template tells it.
    pub(crate) exited: oneshot::Receiver<i32>,
}

/// The handles of a process, and of the first one of its PID namespace.
type Handles = (OwnedFd, Option<OwnedFd>);
type Answer = oneshot::Sender<Result<Handles, ForkError>>;

/// Who waits for what the template says.
#[derive(Debug, Default)]
struct Desk {
    waiting: Mutex<HashMap<u64, Answer>>,
    exits: Mutex<HashMap<u64, oneshot::Sender<i32>>>,
    gone: AtomicBool,
}

/// Why there was no fork.
#[derive(Debug)]
enum ForkError {
    Threads(String),
    Os(io::Error),
    /// The template is gone.
    Gone,
}

impl Desk {
    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, Answer>> {
        // Each use leaves it whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn exits(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<i32>>> {
        self.exits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, id: u64, answer: Result<Handles, ForkError>) {
        let waiting = self.waiting().remove(&id);
        let unwanted = match waiting {
            Some(waiting) => waiting.send(answer).err(),
            None => Some(answer),
        };
        // Whoever asked for it has gone: it waits at its gate, which closes with the channel as well.
        if let Some(Ok((pidfd, _))) = unwanted
            && let Ok(pidfd) = Pidfd::from_fd(pidfd)
        {
            // An error means that it has ended, which is the aim.
            let _ = pidfd.signal(Signal::KILL.as_raw());
        }
    }

    fn handle(&self, reply: Reply) {
        match reply {
            Reply::Held { id, pidfd, first } => self.answer(id, Ok((pidfd, first))),
            Reply::Refused { id, errno: 0, text } => self.answer(id, Err(ForkError::Threads(text))),
            Reply::Refused { id, errno, text } => {
                let error = io::Error::from_raw_os_error(errno);
                let error = io::Error::new(error.kind(), format!("{text}: {error}"));
                self.answer(id, Err(ForkError::Os(error)));
            }
            Reply::Exited { id, status } => {
                // It ended before it could say that it is there.
                let error = io::Error::other("the forked process ended while it was set up");
                if self.waiting().contains_key(&id) {
                    self.answer(id, Err(ForkError::Os(error)));
                }
                if let Some(exit) = self.exits().remove(&id) {
                    // An error means that nobody wants to know.
                    let _ = exit.send(status);
                }
            }
            Reply::Ready | Reply::Unfit(_) | Reply::Unnested(_) => {
                tracing::debug!("the template says twice that it is ready");
            }
        }
    }

    /// The template forks nothing more.
    fn refuse(&self) {
        self.gone.store(true, Ordering::Release);
        let waiting: Vec<_> = self.waiting().drain().collect();
        for (_, answer) in waiting {
            // An error means that nobody waits.
            let _ = answer.send(Err(ForkError::Gone));
        }
    }

    /// Nobody tells anything more.
    fn close(&self) {
        self.refuse();
        self.exits().clear();
    }
}

impl Template {
    /// Whether it can fork.
    pub(crate) fn is_alive(&self) -> bool {
        !self.desk.gone.load(Ordering::Acquire)
    }

    /// Whether it has taken so much memory since it was ready that a new one is better.
    pub(crate) fn has_grown(&self) -> bool {
        let now = resident(self.process.identity().pid);
        matches!((self.baseline, now), (Some(then), Some(now)) if now > then * 2 && now > then + GROWTH)
    }

    /// What keeps it, and so what it forks, from getting away.
    pub(crate) fn containment(&self) -> Containment {
        self.process.containment()
    }

    /// Tells when it has been ended.
    pub(crate) fn end_seen(&self) -> watch::Receiver<bool> {
        self.ended.clone()
    }

    /// Forks a process, which waits at its gate.
    ///
    /// # Cancel safety
    /// A process whose future is dropped is killed before its gate opens.
    pub(crate) async fn fork(&self, fork: &Fork<'_>, fds: Vec<OwnedFd>) -> Result<Forked, LaunchError> {
        let os = |source| LaunchError::Os {
            step: "fork the template",
            source,
        };
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let bytes = fork.encode(id).map_err(os)?;
        let (answer, answered) = oneshot::channel();
        let (exit, exited) = oneshot::channel();
        self.desk.waiting().insert(id, answer);
        self.desk.exits().insert(id, exit);
        let forgotten = Forgotten { desk: &self.desk, id };
        // An error means that it is gone, which is told below.
        let sent = self.requests.send(Request { bytes, fds }).is_ok() && self.is_alive();
        let answer = if sent {
            timeout(self.fork_deadline, answered).await
        } else {
            Ok(Ok(Err(ForkError::Gone)))
        };
        let error = match answer {
            Ok(Ok(Ok((pidfd, first)))) => {
                let pidfd = Pidfd::from_fd(pidfd).map_err(os)?;
                let first = first.map(Pidfd::from_fd).transpose().map_err(os)?;
                std::mem::forget(forgotten);
                return Ok(Forked { pidfd, first, exited });
            }
            Ok(Ok(Err(ForkError::Threads(threads)))) => {
                return Err(launch_error(Arc::new(TemplateError::Threads { threads })));
            }
            Ok(Ok(Err(ForkError::Os(error)))) => error,
            Ok(Ok(Err(ForkError::Gone)) | Err(_)) => io::Error::other("the template has ended"),
            Err(_) => {
                self.condemn();
                io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("the template has not answered within {:?}", self.fork_deadline),
                )
            }
        };
        Err(os(error))
    }

    /// Kills a template that does not answer, and it alone: the processes forked from it go on.
    fn condemn(&self) {
        tracing::warn!(
            pid = self.process.identity().pid,
            "the template does not answer: killing it"
        );
        self.desk.refuse();
        if let Err(error) = self.process.signal(Signal::KILL.as_raw()) {
            tracing::warn!(%error, "cannot kill the template");
        }
    }
}

/// Takes a request out of the books whose process nobody waits for.
struct Forgotten<'a> {
    desk: &'a Desk,
    id: u64,
}

impl Drop for Forgotten<'_> {
    fn drop(&mut self) {
        self.desk.waiting().remove(&self.id);
        self.desk.exits().remove(&self.id);
    }
}

/// How a process that was forked has ended, once it has: what the template or the kernel tells first.
pub(crate) async fn outcome(pidfd: Arc<Pidfd>, mut exited: oneshot::Receiver<i32>) -> ExitOutcome {
    let told = async {
        loop {
            tokio::select! {
                biased;
                status = &mut exited => return status.ok().map(|status| ExitStatus::from_raw(status).into()),
                () = sleep(LOOK) => {}
            }
            if let Ok(Some(outcome)) = pidfd.reaped_outcome() {
                return Some(outcome);
            }
        }
    };
    if let Some(outcome) = timeout(REAPED, told).await.unwrap_or(Some(ExitOutcome::Unknown)) {
        return outcome;
    }
    // The template is gone. Whoever reaps now tells nobody but the kernel.
    let looked = async {
        loop {
            if let Ok(Some(outcome)) = pidfd.reaped_outcome() {
                return outcome;
            }
            sleep(LOOK).await;
        }
    };
    timeout(REAPED_BY_ANOTHER, looked)
        .await
        .unwrap_or(ExitOutcome::Unknown)
}

/// Resident memory of a process in bytes.
fn resident(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
