//! The seam to the registry: a record of what a run has started.
//!
//! A [`Ledger`] learns of a worker before its process exists and forgets it only when nothing of it is left,
//! so that whatever a host leaves behind by dying can be found by its rows.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
    path::PathBuf,
    sync::Mutex,
    time::SystemTime,
};

use async_trait::async_trait;

use crate::{
    id::{RunId, WorkerId},
    process::{Containment, ProcessIdentity},
};

/// How far a recorded worker has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowState {
    /// About to be created; its process may or may not exist.
    Reserved,
    /// Created; its identity is known.
    Active,
    /// Being ended.
    Ending,
}

/// One recorded worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The run that starts it.
    pub run_id: RunId,
    /// The worker.
    pub worker_id: WorkerId,
    /// The program.
    pub program: PathBuf,
    /// The backend that starts it.
    pub launcher: String,
    /// How far it has come.
    pub state: RowState,
    /// Where it is reached, as `SNAKEPIT_CHANNEL` tells it.
    pub endpoint: String,
    /// Who it is, from `Active` on.
    pub identity: Option<ProcessIdentity>,
    /// What keeps its tree together; empty until it is `Active`.
    pub containment: Containment,
    /// When the row was reserved.
    pub reserved_at: SystemTime,
}

impl Row {
    /// The row of a worker that is about to be created, reserved now.
    pub fn reserved(
        run_id: RunId,
        worker_id: WorkerId,
        program: impl Into<PathBuf>,
        launcher: impl Into<String>,
        endpoint: impl Into<String>,
    ) -> Self {
        Self {
            run_id,
            worker_id,
            program: program.into(),
            launcher: launcher.into(),
            state: RowState::Reserved,
            endpoint: endpoint.into(),
            identity: None,
            containment: Containment::default(),
            reserved_at: SystemTime::now(),
        }
    }
}

/// Records what a run starts. Each method returns when the change would survive the host's death.
///
/// The states of a row go reserved, active, ending, gone; a method called out of that order answers
/// [`LedgerError::IllegalTransition`] and changes nothing. A method must not wait without bound: starts and endings wait
/// for it.
#[async_trait]
pub trait Ledger: Send + Sync + fmt::Debug {
    /// Adds a row in state `Reserved`.
    ///
    /// # Errors
    /// When the row exists already or cannot be stored.
    async fn reserve(&self, row: Row) -> Result<(), LedgerError>;

    /// The process exists: `Reserved` becomes `Active`.
    ///
    /// # Errors
    /// When the row is not reserved or the change cannot be stored.
    async fn activate(
        &self,
        worker: WorkerId,
        identity: &ProcessIdentity,
        containment: &Containment,
    ) -> Result<(), LedgerError>;

    /// Its end has begun: `Reserved` or `Active` becomes `Ending`; an ending row stays so.
    ///
    /// # Errors
    /// When there is no such row or the change cannot be stored.
    async fn ending(&self, worker: WorkerId) -> Result<(), LedgerError>;

    /// Nothing of it is left: the row goes.
    ///
    /// # Errors
    /// When there is no such row or the change cannot be stored.
    async fn release(&self, worker: WorkerId) -> Result<(), LedgerError>;

    /// All rows, by worker.
    ///
    /// # Errors
    /// When they cannot be read.
    async fn rows(&self) -> Result<Vec<Row>, LedgerError>;
}

/// Why the ledger did not take a change.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The row is not in a state that allows the change.
    #[error("cannot {change} {worker}: its row is {}", found.map_or("absent".to_owned(), |s| format!("{s:?}").to_lowercase()))]
    IllegalTransition {
        /// What was asked for, as in `activate`.
        change: &'static str,
        /// The worker.
        worker: WorkerId,
        /// The state found; `None` when there is no row.
        found: Option<RowState>,
    },
    /// The store failed.
    #[error("cannot store the row of {worker}")]
    Store {
        /// The worker.
        worker: WorkerId,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Rows and the changes they allow, without anything that keeps them: what every [`Ledger`] does in the same way.
///
/// Each change gives the row as it is afterwards.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    rows: BTreeMap<WorkerId, Row>,
}

impl Rows {
    /// Rows that were there before, as read from a store.
    pub fn from_rows(rows: impl IntoIterator<Item = Row>) -> Self {
        let rows = rows.into_iter().map(|row| (row.worker_id, row)).collect();
        Self { rows }
    }

    /// As [`Ledger::reserve`].
    ///
    /// # Errors
    /// When the row exists already.
    pub fn reserve(&mut self, row: Row) -> Result<&Row, LedgerError> {
        let worker = row.worker_id;
        match self.rows.entry(worker) {
            Entry::Occupied(found) => Err(LedgerError::IllegalTransition {
                change: "reserve",
                worker,
                found: Some(found.get().state),
            }),
            Entry::Vacant(place) => Ok(place.insert(Row {
                state: RowState::Reserved,
                identity: None,
                containment: Containment::default(),
                ..row
            })),
        }
    }

    /// As [`Ledger::activate`].
    ///
    /// # Errors
    /// When the row is not reserved.
    pub fn activate(
        &mut self,
        worker: WorkerId,
        identity: &ProcessIdentity,
        containment: &Containment,
    ) -> Result<&Row, LedgerError> {
        let row = self.allowed("activate", worker, &[RowState::Reserved])?;
        row.state = RowState::Active;
        row.identity = Some(identity.clone());
        row.containment = containment.clone();
        Ok(row)
    }

    /// As [`Ledger::ending`].
    ///
    /// # Errors
    /// When there is no such row.
    pub fn ending(&mut self, worker: WorkerId) -> Result<&Row, LedgerError> {
        let allowed = [RowState::Reserved, RowState::Active, RowState::Ending];
        let row = self.allowed("mark as ending", worker, &allowed)?;
        row.state = RowState::Ending;
        Ok(row)
    }

    /// As [`Ledger::release`]; gives the row that was there.
    ///
    /// # Errors
    /// When there is no such row, or its process was never ended.
    pub fn release(&mut self, worker: WorkerId) -> Result<Row, LedgerError> {
        let row = self.allowed("release", worker, &[RowState::Reserved, RowState::Ending])?;
        let row = row.clone();
        self.rows.remove(&worker);
        Ok(row)
    }

    /// The row of a worker.
    pub fn get(&self, worker: WorkerId) -> Option<&Row> {
        self.rows.get(&worker)
    }

    /// Puts back what a change has replaced: `None` is no row.
    pub fn restore(&mut self, worker: WorkerId, row: Option<Row>) {
        match row {
            Some(row) => self.rows.insert(worker, row),
            None => self.rows.remove(&worker),
        };
    }

    /// All rows, by worker.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Row> {
        self.rows.values()
    }

    fn allowed(
        &mut self,
        change: &'static str,
        worker: WorkerId,
        allowed: &[RowState],
    ) -> Result<&mut Row, LedgerError> {
        let row = self.rows.get_mut(&worker);
        let found = row.as_ref().map(|row| row.state);
        row.filter(|row| allowed.contains(&row.state))
            .ok_or(LedgerError::IllegalTransition {
                change,
                worker,
                found,
            })
    }
}

/// A ledger in memory: the order of the steps without the durability. What a crashed host leaves behind
/// cannot be found by it.
#[derive(Debug, Default)]
pub struct MemoryLedger {
    rows: Mutex<Rows>,
}

impl MemoryLedger {
    /// An empty ledger.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Rows> {
        // A panic while the rows were held cannot have left them half changed: every change is one call.
        self.rows
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[async_trait]
impl Ledger for MemoryLedger {
    async fn reserve(&self, row: Row) -> Result<(), LedgerError> {
        self.lock().reserve(row).map(drop)
    }

    async fn activate(
        &self,
        worker: WorkerId,
        identity: &ProcessIdentity,
        containment: &Containment,
    ) -> Result<(), LedgerError> {
        self.lock().activate(worker, identity, containment).map(drop)
    }

    async fn ending(&self, worker: WorkerId) -> Result<(), LedgerError> {
        self.lock().ending(worker).map(drop)
    }

    async fn release(&self, worker: WorkerId) -> Result<(), LedgerError> {
        self.lock().release(worker).map(drop)
    }

    async fn rows(&self) -> Result<Vec<Row>, LedgerError> {
        Ok(self.lock().iter().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(worker: u64) -> Row {
        Row::reserved(RunId::random(), WorkerId(worker), "python3", "fake", "fd:0")
    }

    fn identity() -> ProcessIdentity {
        ProcessIdentity {
            pid: 7,
            pgid: 7,
            start_ticks: 1,
            handle: None,
            boot_id: "boot".into(),
            pid_namespace: 1,
        }
    }

    #[tokio::test]
    async fn a_row_goes_through_its_states_in_order() {
        let ledger = MemoryLedger::new();
        let worker = WorkerId(1);
        ledger.reserve(row(1)).await.unwrap();
        ledger
            .activate(worker, &identity(), &Containment::default())
            .await
            .unwrap();
        assert_eq!(ledger.rows().await.unwrap()[0].identity, Some(identity()));
        ledger.ending(worker).await.unwrap();
        ledger.release(worker).await.unwrap();
        assert!(ledger.rows().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn steps_out_of_order_are_refused_and_change_nothing() {
        let ledger = MemoryLedger::new();
        let worker = WorkerId(1);
        assert!(
            ledger
                .activate(worker, &identity(), &Containment::default())
                .await
                .is_err()
        );
        ledger.reserve(row(1)).await.unwrap();
        assert!(ledger.reserve(row(1)).await.is_err());
        ledger
            .activate(worker, &identity(), &Containment::default())
            .await
            .unwrap();
        let error = ledger.release(worker).await.unwrap_err().to_string();
        assert_eq!(error, "cannot release worker 1: its row is active");
        assert_eq!(ledger.rows().await.unwrap().len(), 1);
    }
}
