//! The ledger of a host that wants to be cleaned up after.

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use snakepit_core::{
    RunId, WorkerId,
    ledger::{Ledger, LedgerError, Row, Rows},
    process::{Containment, ProcessIdentity},
};
use tokio::sync::oneshot;

use crate::{
    layout::{self, DirError},
    row,
    run_dir::RunDir,
    settings::{AppNameError, Policy, Settings, check_app},
    store::{Change, Store, StoreError},
    writer::{Answer, Sink, Writer},
};

/// Why a registry could not be opened. With [`Policy::BestEffort`] only [`App`](Self::App) is one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The application's name.
    #[error(transparent)]
    App(#[from] AppNameError),
    /// The directory of the application.
    #[error("no directory for the records of {app}")]
    Directory {
        /// The application.
        app: String,
        /// Why.
        #[source]
        source: DirError,
    },
    /// The directory of this run.
    #[error("no directory for this run in {}", app_dir.display())]
    Run {
        /// The directory of the application.
        app_dir: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Somebody else's share in the registry came first, without insisting on records.
    #[error("the registry of this program works in memory: {reason}")]
    Degraded {
        /// Why.
        reason: Arc<str>,
    },
    /// The disk does not answer.
    #[error("no answer from the disk with {} within {bound:?}", state_dir.display())]
    Silent {
        /// The state directory.
        state_dir: PathBuf,
        /// How long it was waited for.
        bound: Duration,
    },
    /// The store in it.
    #[error("no store for this run in {}", app_dir.display())]
    Store {
        /// The directory of the application.
        app_dir: PathBuf,
        /// Why.
        #[source]
        source: StoreError,
    },
}

/// Takes back a row whose caller leaves before it is recorded: he cannot know that he would have to release it.
struct Reserving<'a> {
    registry: &'a Registry,
    worker: Option<WorkerId>,
}

impl Drop for Reserving<'_> {
    fn drop(&mut self) {
        let Some(worker) = self.worker else { return };
        let mut rows = lock(&self.registry.rows);
        rows.restore(worker, None);
        // Nobody waits for it; at worst a row is left of which there is no process.
        let _ = self.registry.send(Change { worker, row: None });
    }
}

/// Why a change was not recorded although its row allows it.
#[derive(Clone, Debug, thiserror::Error)]
enum Unrecorded {
    #[error("{0}")]
    Store(Arc<str>),
    #[error("the disk did not take it within {0:?}")]
    Silent(Duration),
    #[error("the thread that writes is gone")]
    NoWriter,
    #[error("this process is a fork of the host; it has to open a registry of its own")]
    Forked,
}

/// Records what this run starts in a store that outlives the host.
///
/// Its directory is there as long as it is open, and longer only if rows are left. Dropping the last handle closes it; that blocks
/// for a few milliseconds, [`close`](Self::close) does not.
pub struct Registry {
    settings: Settings,
    run_id: RunId,
    /// A fork has a copy of all this and must touch none of it.
    pid: u32,
    rows: Mutex<Rows>,
    disk: Mutex<Disk>,
    writes: Arc<AtomicU64>,
    /// Whether somebody who shares it insists on records.
    required: AtomicBool,
}

/// What the rows are written to.
#[derive(Debug, Default)]
struct Disk {
    /// The directory, also while nothing is written to it any more: its lock says that we live.
    directory: Option<RunDir>,
    writer: Option<Writer>,
    /// Why nothing is written any more.
    degraded: Option<Arc<str>>,
}

/// Where a change goes.
enum Sent {
    Recorded(oneshot::Receiver<Answer>),
    MemoryOnly,
}

/// The registries of this process that are open.
static SHARED: Mutex<Vec<Weak<Registry>>> = Mutex::new(Vec::new());

impl Registry {
    /// Opens a registry for [this process's run](RunId::current). Blocks for some milliseconds.
    ///
    /// A process has one for an application and a state directory: [`shared`](Self::shared) finds it.
    ///
    /// # Errors
    /// When the application's name cannot be one; with [`Policy::Required`] also when nothing can be recorded, as when the
    /// process has it open already. With best effort it works in memory then, having warned.
    pub fn open(settings: &Settings) -> Result<Arc<Self>, OpenError> {
        Self::open_run(settings, RunId::current())
    }

    fn open_run(settings: &Settings, run_id: RunId) -> Result<Arc<Self>, OpenError> {
        check_app(settings.app())?;
        let registry = Self::in_memory(settings, run_id);
        match registry.open_disk() {
            Ok((rows, disk)) => {
                *lock(&registry.rows) = rows;
                *lock(&registry.disk) = disk;
            }
            Err(error) if settings.policy() == Policy::Required => return Err(error),
            Err(error) => registry.degrade(snakepit_core::rpc::error_chain(&error).into()),
        }
        Ok(Arc::new(registry))
    }

    fn in_memory(settings: &Settings, run_id: RunId) -> Self {
        Self {
            settings: settings.clone(),
            run_id,
            pid: std::process::id(),
            rows: Mutex::default(),
            disk: Mutex::default(),
            writes: Arc::default(),
            required: AtomicBool::new(settings.policy() == Policy::Required),
        }
    }

    fn open_disk(&self) -> Result<(Rows, Disk), OpenError> {
        let settings = &self.settings;
        let app = settings.app().to_owned();
        let app_dir = layout::make_app_dir(&settings.state_dir(), &app)
            .map_err(|source| OpenError::Directory { app, source })?;
        let run = |source| OpenError::Run {
            app_dir: app_dir.clone(),
            source,
        };
        let mut directory =
            RunDir::make(&app_dir, settings.app(), self.run_id, settings.write_bound()).map_err(run)?;
        let (store, contents) = match Store::open(directory.path()) {
            Ok(opened) => opened,
            Err(source) => {
                if directory.is_new() {
                    // What remains on a full disk is removed by the next cleanup.
                    let _ = directory.remove();
                }
                return Err(OpenError::Store { app_dir, source });
            }
        };
        directory.settle().map_err(run)?;
        let sink = Counted {
            store,
            writes: Arc::clone(&self.writes),
        };
        let disk = Disk {
            writer: Some(Writer::start(sink).map_err(run)?),
            directory: Some(directory),
            degraded: None,
        };
        Ok((Rows::from_rows(contents.rows), disk))
    }

    /// The registry of this process for the application and the state directory: the one that is open, or a new one. Of the
    /// policies of those who share it the strictest is in force; the other settings are those it was opened with.
    ///
    /// # Errors
    /// As [`open`](Self::open); also when records are required, and the one that is open has gone on in memory.
    pub fn shared(settings: &Settings) -> Result<Arc<Self>, OpenError> {
        let mut shared = lock(&SHARED);
        let pid = std::process::id();
        shared.retain(|registry| registry.strong_count() > 0);
        let same = |registry: &Arc<Self>| registry.is(pid, settings);
        if let Some(open) = shared.iter().filter_map(Weak::upgrade).find(same) {
            if settings.policy() == Policy::Required {
                if let Some(reason) = open.degraded() {
                    return Err(OpenError::Degraded { reason });
                }
                open.required.store(true, Ordering::Relaxed);
            }
            return Ok(open);
        }
        let opened = Self::open(settings)?;
        shared.push(Arc::downgrade(&opened));
        Ok(opened)
    }

    /// As [`shared`](Self::shared), without blocking, and without waiting for a disk that does not answer: that counts as one
    /// that cannot be written, once it has had as long as a [write](Settings::with_write_bound).
    ///
    /// # Errors
    /// As [`open`](Self::open).
    ///
    /// # Panics
    /// Outside a tokio runtime with time enabled.
    ///
    /// # Cancel safety
    /// Safe; what was opened is closed again.
    pub async fn join(settings: &Settings) -> Result<Arc<Self>, OpenError> {
        let bound = settings.write_bound();
        let opening = tokio::task::spawn_blocking({
            let settings = settings.clone();
            move || Self::shared(&settings)
        });
        match tokio::time::timeout(bound, opening).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            Err(_) if settings.policy() == Policy::Required => Err(OpenError::Silent {
                state_dir: settings.state_dir(),
                bound,
            }),
            Err(_) => {
                let registry = Self::in_memory(settings, RunId::current());
                registry.degrade(Unrecorded::Silent(bound).to_string().into());
                Ok(Arc::new(registry))
            }
        }
    }

    /// Whether this process has the registry for the application and the state directory open, or is opening one. A program
    /// that gave up its pools without waiting for them can tell from it when they have ended. Does not block.
    pub fn is_open(settings: &Settings) -> bool {
        let shared = match SHARED.try_lock() {
            Ok(shared) => shared,
            Err(TryLockError::Poisoned(shared)) => shared.into_inner(),
            Err(TryLockError::WouldBlock) => return true,
        };
        let pid = std::process::id();
        let open: Vec<_> = shared.iter().filter_map(Weak::upgrade).collect();
        // Before what may be the last handles: closing takes its time.
        drop(shared);
        open.iter().any(|registry| registry.is(pid, settings))
    }

    fn is(&self, pid: u32, settings: &Settings) -> bool {
        self.pid == pid
            && self.settings.app() == settings.app()
            && self.settings.state_dir() == settings.state_dir()
    }

    /// The settings it was opened with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The run it records.
    pub fn run_id(&self) -> RunId {
        self.run_id
    }

    /// The directory of the run; `None` when there is none, which [`degraded`](Self::degraded) explains.
    pub fn directory(&self) -> Option<PathBuf> {
        let disk = lock(&self.disk);
        disk.directory
            .as_ref()
            .map(|directory| directory.path().to_owned())
    }

    /// Why changes are kept in memory only; `None` while they are recorded. Once it is so it stays so.
    pub fn degraded(&self) -> Option<Arc<str>> {
        lock(&self.disk).degraded.clone()
    }

    /// How often it has written and waited for the disk. Changes that come at a time share one.
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// Gives up this handle; if it was the last one, closes the registry and removes its directory unless rows are
    /// left. Waits at most as long as a [write](Settings::with_write_bound) may take.
    ///
    /// # Cancel safety
    /// The closing goes on when the future is dropped.
    pub async fn close(self: Arc<Self>) {
        if let Some(last) = Arc::into_inner(self) {
            // Only a panic of it would be an error, and that has been told.
            let _ = tokio::task::spawn_blocking(move || drop(last)).await;
        }
    }

    fn send(&self, change: Change) -> Sent {
        match &lock(&self.disk).writer {
            Some(writer) => Sent::Recorded(writer.send(change)),
            None => Sent::MemoryOnly,
        }
    }

    /// Makes a change of one row in memory, then on disk.
    async fn change(
        &self,
        worker: WorkerId,
        change: impl FnOnce(&mut Rows) -> Result<(), LedgerError>,
    ) -> Result<(), LedgerError> {
        if self.pid != std::process::id() {
            return Err(stored(worker, Unrecorded::Forked));
        }
        let (before, sent) = {
            let mut rows = lock(&self.rows);
            let before = rows.get(worker).cloned();
            change(&mut rows)?;
            let row = rows.get(worker).map(row::encode);
            // Sent while the rows are held: the disk sees changes in the order in which memory did.
            (before, self.send(Change { worker, row }))
        };
        let Sent::Recorded(answer) = sent else {
            return Ok(());
        };
        let bound = self.settings.write_bound();
        let failure = match tokio::time::timeout(bound, answer).await {
            Ok(Ok(Ok(()))) => return Ok(()),
            Ok(Ok(Err(error))) => Unrecorded::Store(snakepit_core::rpc::error_chain(&*error).into()),
            Ok(Err(_)) => Unrecorded::NoWriter,
            Err(_) => Unrecorded::Silent(bound),
        };
        if self.required.load(Ordering::Relaxed) {
            lock(&self.rows).restore(worker, before);
            return Err(stored(worker, failure));
        }
        self.degrade(failure.to_string().into());
        Ok(())
    }

    /// Goes on in memory, and says so once.
    fn degrade(&self, reason: Arc<str>) {
        let mut disk = lock(&self.disk);
        if disk.degraded.is_some() {
            return;
        }
        // The thread ends by itself, or hangs with its disk; the directory stays for its lock.
        disk.writer = None;
        disk.degraded = Some(Arc::clone(&reason));
        drop(disk);
        tracing::warn!(
            app = self.settings.app(),
            directory = %self.settings.state_dir().display(),
            %reason,
            "workers are not recorded on disk from now on: should this program be killed, what they leave behind is found by their \
             environment only"
        );
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let disk = std::mem::take(self.disk.get_mut().unwrap_or_else(PoisonError::into_inner));
        if self.pid != std::process::id() {
            // A copy in a fork: closing its descriptor of the lock is all that it may do.
            std::mem::forget(disk.writer);
            return;
        }
        let bound = self.settings.write_bound();
        let is_empty = lock(&self.rows).iter().len() == 0;
        let closed = disk.writer.is_none_or(|writer| writer.close(bound));
        let Some(directory) = disk.directory.filter(|_| closed && is_empty) else {
            return;
        };
        // In a thread: a disk that hangs holds up that one.
        let path = directory.path().to_owned();
        let (ended, end) = std::sync::mpsc::channel();
        let removing = std::thread::Builder::new()
            .name("snakepit-ledger".to_owned())
            .spawn(move || {
                // Nobody waits for it any more when it takes too long.
                let _ = ended.send(directory.remove());
            });
        let removed = match removing {
            Ok(_) => end
                .recv_timeout(bound)
                .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())),
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            tracing::warn!(path = %path.display(), %error, "cannot remove the directory of this run; the next cleanup will");
        }
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("settings", &self.settings)
            .field("run_id", &self.run_id)
            .field("rows", &lock(&self.rows).iter().len())
            .field("degraded", &self.degraded())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Ledger for Registry {
    async fn reserve(&self, row: Row) -> Result<(), LedgerError> {
        let worker = row.worker_id;
        let mut reserving = Reserving {
            registry: self,
            worker: None,
        };
        let reserved = &mut reserving.worker;
        let change = |rows: &mut Rows| {
            rows.reserve(row)?;
            *reserved = Some(worker);
            Ok(())
        };
        let recorded = self.change(worker, change).await;
        // Also an error has undone what there was to undo.
        reserving.worker = None;
        recorded
    }

    async fn activate(
        &self,
        worker: WorkerId,
        identity: &ProcessIdentity,
        containment: &Containment,
    ) -> Result<(), LedgerError> {
        let change = |rows: &mut Rows| rows.activate(worker, identity, containment).map(drop);
        self.change(worker, change).await
    }

    async fn ending(&self, worker: WorkerId) -> Result<(), LedgerError> {
        self.change(worker, |rows| rows.ending(worker).map(drop)).await
    }

    async fn release(&self, worker: WorkerId) -> Result<(), LedgerError> {
        self.change(worker, |rows| rows.release(worker).map(drop)).await
    }

    async fn rows(&self) -> Result<Vec<Row>, LedgerError> {
        Ok(lock(&self.rows).iter().cloned().collect())
    }
}

/// A store that counts how often it is written.
struct Counted {
    store: Store,
    writes: Arc<AtomicU64>,
}

impl Sink for Counted {
    fn apply(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.store.apply(changes)
    }
}

fn stored(worker: WorkerId, why: Unrecorded) -> LedgerError {
    LedgerError::Store {
        worker,
        source: Box::new(why),
    }
}

/// No use of what is locked here leaves it half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use snakepit_core::ledger::RowState;

    use super::*;
    use crate::testing::row;

    /// A disk that answers nothing.
    struct Silent;

    impl Sink for Silent {
        fn apply(&mut self, _: &[Change]) -> Result<(), StoreError> {
            loop {
                std::thread::park();
            }
        }
    }

    fn on_a_silent_disk(policy: Policy) -> Registry {
        let settings = Settings::new()
            .with_policy(policy)
            .with_write_bound(Duration::from_millis(20));
        let registry = Registry::in_memory(&settings, RunId::random());
        lock(&registry.disk).writer = Some(Writer::start(Silent).unwrap());
        registry
    }

    #[tokio::test]
    async fn a_silent_disk_holds_up_one_start_and_then_the_registry_works_in_memory() {
        let registry = on_a_silent_disk(Policy::BestEffort);
        registry.reserve(row(1)).await.unwrap();
        let reason = registry.degraded().unwrap();
        assert!(reason.contains("20ms"), "{reason}");
        registry.ending(WorkerId(1)).await.unwrap();
        let rows = registry.rows().await.unwrap();
        assert_eq!(rows[0].state, RowState::Ending);
        registry.release(WorkerId(1)).await.unwrap();
    }

    #[tokio::test]
    async fn a_silent_disk_refuses_each_start_where_records_are_required_and_nothing_has_happened() {
        let registry = on_a_silent_disk(Policy::Required);
        for _ in 0..2 {
            let error = registry.reserve(row(1)).await.unwrap_err();
            let text = snakepit_core::rpc::error_chain(&error);
            assert!(text.contains("20ms"), "{text}");
            assert!(registry.rows().await.unwrap().is_empty());
        }
        assert_eq!(registry.degraded(), None);
    }

    #[tokio::test]
    async fn a_row_whose_reserver_leaves_is_taken_back() {
        let registry = on_a_silent_disk(Policy::BestEffort);
        {
            let mut reserving = std::pin::pin!(registry.reserve(row(1)));
            let waits =
                std::future::poll_fn(|context| std::task::Poll::Ready(reserving.as_mut().poll(context)));
            assert!(waits.await.is_pending());
            assert_eq!(lock(&registry.rows).iter().len(), 1);
        }
        assert_eq!(lock(&registry.rows).iter().len(), 0);
    }
}
