//! A pool's share in the registry of its program.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use snakepit_core::{
    WorkerId,
    event::{EventKind, Events},
    ledger::{Ledger, LedgerError, MemoryLedger, Row},
    process::{Containment, ProcessIdentity},
};
use snakepit_registry::{
    Registry, Settings,
    cleanup::{self, CleanupOptions, Report},
};

use super::Record;
use crate::builder::StartError;

/// Added to a cleanup's own bound, which a disk that does not answer can overrun.
const CLEANUP_SLACK: Duration = Duration::from_secs(1);

/// The handle of one pool on the registry. It is given up when the pool has ended, also while handles on the pool are left: the
/// registry is closed with the last one.
#[derive(Debug)]
pub(crate) struct Registered {
    settings: Settings,
    registry: Mutex<Option<Arc<Registry>>>,
    cleaned: OnceLock<Report>,
    events: Events,
    told: AtomicBool,
}

impl Record {
    /// Opens the registry and ends what dead hosts of the same application have left.
    pub(crate) async fn open(settings: Option<Settings>, events: &Events) -> Result<Self, StartError> {
        let Some(settings) = settings else {
            return Ok(Self::own(Arc::new(MemoryLedger::new())));
        };
        // What is on record costs next to nothing to look for, and goes before anything is started.
        let options = CleanupOptions::at_start(&settings).with_unrecorded(false);
        let cleaning = clean(&settings, options, events);
        let (registry, cleaned) = tokio::join!(Registry::join(&settings), cleaning);
        let registered = Registered {
            registry: Mutex::new(Some(registry?)),
            cleaned: OnceLock::new(),
            events: events.clone(),
            told: AtomicBool::new(false),
            settings,
        };
        if let Some(report) = cleaned.filter(|report| report.dead().next().is_some()) {
            // Nobody else has had it yet.
            let _ = registered.cleaned.set(report);
        }
        registered.tell_degraded();
        Ok(Self::Registered(Arc::new(registered)))
    }

    pub(crate) fn cleaned(&self) -> Option<&Report> {
        match self {
            Self::Own(_) => None,
            Self::Registered(registered) => registered.cleaned.get(),
        }
    }
}

/// Cleans up after dead hosts, and tells what was found. Whatever goes wrong, the pool can start.
async fn clean(settings: &Settings, options: CleanupOptions, events: &Events) -> Option<Report> {
    let bound = settings.cleanup_bound();
    if bound.is_zero() {
        return None;
    }
    let cleaned = tokio::time::timeout(bound + CLEANUP_SLACK, cleanup::run(&options)).await;
    let report = match cleaned {
        Ok(Ok(report)) => report,
        Ok(Err(error)) => {
            let error = snakepit_core::rpc::error_chain(&error);
            tracing::warn!(app = settings.app(), error, "cannot clean up after earlier runs");
            return None;
        }
        Err(_) => {
            tracing::warn!(
                app = settings.app(),
                ?bound,
                "no time to clean up after earlier runs"
            );
            return None;
        }
    };
    if report.has_findings() {
        tell(settings, &report, events);
    }
    Some(report)
}

fn tell(settings: &Settings, report: &Report, events: &Events) {
    let (app, summary) = (settings.app(), report.summary());
    if report.is_clean() {
        tracing::info!(app, "cleaned up after earlier runs: {summary}");
    } else {
        tracing::warn!(app, "cleaned up after earlier runs: {summary}");
    }
    for run in report.dead() {
        for process in &run.found {
            events.emit(EventKind::OrphanEnded {
                run: run.run_id,
                worker: process.worker,
                pid: process.pid,
                program: process.program.as_str().into(),
                left: process.why.as_deref().map(Into::into),
            });
        }
    }
    events.emit(EventKind::OrphansCleaned {
        runs: report.dead().count(),
        ended: report.ended(),
        remaining: report.left(),
        took: report.took,
    });
}

impl Registered {
    pub(super) fn tag(&self) -> String {
        self.settings.tag()
    }

    /// Looks for processes of the application whose run has no record, unless that has been done: it takes a look at every
    /// process, and workers can start meanwhile.
    pub(super) async fn look_around(&self) {
        if self.cleaned.get().is_none() {
            let options = CleanupOptions::at_start(&self.settings);
            if let Some(report) = clean(&self.settings, options, &self.events).await {
                // It is done once in the life of a pool.
                let _ = self.cleaned.set(report);
            }
        }
    }

    pub(super) async fn close(&self) {
        let registry = self.lock().take();
        if let Some(registry) = registry {
            registry.close().await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<Registry>>> {
        // Every use is one step.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The registry, for a change of this worker's row.
    fn registry(&self, worker: WorkerId) -> Result<Arc<Registry>, LedgerError> {
        self.lock().clone().ok_or_else(|| LedgerError::Store {
            worker,
            source: "the pool has ended".into(),
        })
    }

    /// Tells once that nothing is recorded on disk any more.
    fn tell_degraded(&self) {
        let reason = self.lock().as_ref().and_then(|registry| registry.degraded());
        if let Some(reason) = reason
            && !self.told.swap(true, Ordering::Relaxed)
        {
            self.events.emit(EventKind::LedgerDegraded { reason });
        }
    }
}

#[async_trait]
impl Ledger for Registered {
    async fn reserve(&self, row: Row) -> Result<(), LedgerError> {
        let recorded = self.registry(row.worker_id)?.reserve(row).await;
        self.tell_degraded();
        recorded
    }

    async fn activate(
        &self,
        worker: WorkerId,
        identity: &ProcessIdentity,
        containment: &Containment,
    ) -> Result<(), LedgerError> {
        let registry = self.registry(worker)?;
        let recorded = registry.activate(worker, identity, containment).await;
        self.tell_degraded();
        recorded
    }

    async fn ending(&self, worker: WorkerId) -> Result<(), LedgerError> {
        self.registry(worker)?.ending(worker).await
    }

    async fn release(&self, worker: WorkerId) -> Result<(), LedgerError> {
        self.registry(worker)?.release(worker).await
    }

    async fn rows(&self) -> Result<Vec<Row>, LedgerError> {
        let registry = self.lock().clone();
        match registry {
            Some(registry) => registry.rows().await,
            None => Ok(Vec::new()),
        }
    }
}
