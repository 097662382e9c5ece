//! What the main thread and the control thread share. Nothing here needs the GIL.

use std::{
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering},
    },
    time::Duration,
};

use snakepit_proto::v1::{AdapterReport, CallError};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::Instant,
};

use crate::{
    concurrency::Concurrency,
    events::Events,
    host_calls::HostCalls,
    place::Place,
    slot::Slot,
    sys,
    sys::MainThread,
    tree::{self, Keeper},
};

/// Exit status of a worker that lost its host or its channel.
pub(crate) const EXIT_LOST: i32 = 1;
/// Exit status of a worker that could not end in an orderly way within its limits.
pub(crate) const EXIT_FORCED: i32 = 70;

/// What the control thread asks of the main thread.
#[derive(Debug)]
pub(crate) enum Command {
    /// Import adapters, with directories to put on the path first.
    Prepare {
        /// Modules, in order.
        adapters: Vec<String>,
        /// For the front of `sys.path`.
        paths: Vec<String>,
    },
}

/// The outcome of importing the adapters.
pub(crate) type Prepared = Result<AdapterReport, CallError>;

/// A request to end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shutdown {
    /// Until then the running call may go on.
    pub(crate) grace_ends: Instant,
}

/// How the process came to its channel and its name.
#[derive(Debug)]
pub(crate) struct Identity {
    /// As in `CPython 3.11.7`.
    pub(crate) runtime: String,
    /// The process that serves; a fork of it has another pid.
    pub(crate) pid: u32,
    /// A host holds the other end: its loss is our end.
    pub(crate) inherited: bool,
    /// Who looks after it and what it starts, if somebody does.
    pub(crate) keeper: Option<Keeper>,
    /// There is a socket for calls.
    pub(crate) takes_calls: bool,
}

/// State of one worker process.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) identity: Identity,
    pub(crate) slot: Slot,
    /// How many calls run at the same time; known from the first host's handshake on, or from the first call.
    pub(crate) concurrency: watch::Sender<Option<Concurrency>>,
    pub(crate) events: Events,
    pub(crate) host_calls: HostCalls,
    pub(crate) prepared: watch::Sender<Option<Arc<Prepared>>>,
    pub(crate) shutdown: watch::Sender<Option<Shutdown>>,
    /// The main thread has run the stop hooks and waits for the connections to be flushed.
    pub(crate) finished: watch::Sender<bool>,
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    /// A ping was answered. Any number of them are one to a main thread that was busy meanwhile.
    pub(crate) heartbeat: Notify,
    is_prepared: AtomicBool,
    log_level: AtomicU32,
    exit_code: AtomicI32,
    /// The socket file to remove at the end, with its device and inode: a file of the same name that is not
    /// ours stays.
    pub(crate) socket_file: OnceLock<(PathBuf, u64, u64)>,
}

impl Shared {
    pub(crate) fn new(identity: Identity, commands: mpsc::UnboundedSender<Command>) -> Self {
        Self {
            slot: Slot::new(MainThread::current()),
            concurrency: watch::Sender::new(None),
            events: Events::new(identity.inherited),
            host_calls: HostCalls::new(),
            identity,
            prepared: watch::Sender::new(None),
            shutdown: watch::Sender::new(None),
            finished: watch::Sender::new(false),
            commands,
            heartbeat: Notify::new(),
            is_prepared: AtomicBool::new(false),
            log_level: AtomicU32::new(0),
            exit_code: AtomicI32::new(0),
            socket_file: OnceLock::new(),
        }
    }

    /// More adapters are about to be imported: what was published is no longer the answer, and calls wait.
    pub(crate) fn expect_prepared(&self) {
        self.is_prepared.store(false, Ordering::Release);
        self.prepared.send_replace(None);
    }

    /// Publishes the outcome of the imports; calls that waited for it go on.
    pub(crate) fn set_prepared(&self, outcome: Prepared) {
        self.prepared.send_replace(Some(Arc::new(outcome)));
        self.is_prepared.store(true, Ordering::Release);
    }

    /// Waits until the imports were done or failed.
    pub(crate) async fn until_prepared(&self) {
        if !self.is_prepared.load(Ordering::Acquire) {
            let mut prepared = self.prepared.subscribe();
            // The sender lives in `self`, so waiting cannot fail.
            let _ = prepared.wait_for(Option::is_some).await;
        }
    }

    /// Asks for a concurrency; answers what it is, since the first request counts.
    pub(crate) fn settle_concurrency(&self, asked: Concurrency) -> Concurrency {
        let mut settled = asked;
        self.concurrency.send_if_modified(|concurrency| {
            let first = concurrency.is_none();
            settled = *concurrency.get_or_insert(asked);
            first
        });
        settled
    }

    /// Where the slot has the call of code that says it runs at `place`; with one call at a time all code is that call's.
    pub(crate) fn place(&self, place: Option<u64>) -> Option<Place> {
        match *self.concurrency.borrow() {
            None | Some(Concurrency::One) => None,
            Some(_) => Some(place.map_or(Place::NONE, Place::from_number)),
        }
    }

    /// Asks the worker to end; the first request counts.
    pub(crate) fn request_shutdown(&self, grace: Duration) {
        // A day bounds what a caller can ask for and keeps the sum below the clock's range.
        let grace = grace.min(Duration::from_secs(24 * 60 * 60));
        self.slot.drain();
        self.shutdown.send_if_modified(|shutdown| {
            let first = shutdown.is_none();
            if first {
                *shutdown = Some(Shutdown {
                    grace_ends: Instant::now() + grace,
                });
            }
            first
        });
    }

    /// Waits for a request to end.
    pub(crate) async fn until_shutdown(&self) -> Shutdown {
        let mut shutdown = self.shutdown.subscribe();
        loop {
            if let Some(shutdown) = *shutdown.borrow_and_update() {
                return shutdown;
            }
            if shutdown.changed().await.is_err() {
                // The sender lives in `self`.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Is the worker on its way out?
    pub(crate) fn is_shutting_down(&self) -> bool {
        self.shutdown.borrow().is_some()
    }

    /// The level below which log records are not sent.
    pub(crate) fn log_level(&self) -> u32 {
        self.log_level.load(Ordering::Relaxed)
    }

    /// Sets the level of [`Self::log_level`].
    pub(crate) fn set_log_level(&self, level: u32) {
        self.log_level.store(level, Ordering::Relaxed);
    }

    /// The status an orderly end leaves with.
    pub(crate) fn exit_code(&self) -> i32 {
        self.exit_code.load(Ordering::Relaxed)
    }

    /// Sets the status of [`Self::exit_code`].
    pub(crate) fn set_exit_code(&self, code: i32) {
        self.exit_code.store(code, Ordering::Relaxed);
    }

    /// Ends everything below this process, then the process. Needs no GIL.
    pub(crate) fn leave(&self, code: i32) -> ! {
        self.remove_socket_file();
        // Where the host is lost, a keeper ends the tree at this very moment, this process included.
        if code != EXIT_LOST || !self.identity.keeper.is_some_and(Keeper::is_there) {
            tree::end_descendants(self.identity.keeper);
        }
        sys::exit_now(code)
    }

    fn remove_socket_file(&self) {
        use std::os::unix::fs::MetadataExt as _;
        if let Some((path, device, inode)) = self.socket_file.get() {
            let ours = std::fs::symlink_metadata(path)
                .is_ok_and(|found| found.dev() == *device && found.ino() == *inode);
            if ours {
                // Nothing is left to do about a file that cannot be removed.
                let _ = std::fs::remove_file(path);
            }
        }
    }
}
