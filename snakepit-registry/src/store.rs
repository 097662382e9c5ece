//! The store of one run: sled 0.34, and the number of rows beside it.
//!
//! Keys of the default tree: `version`, the version of what follows as a decimal number, and one `worker/ID` for each row, ID
//! being 16 hex digits; the module `row` has the values.
//!
//! sled opens a file that was cut off with the later rows silently missing, hence the file `rows`: one decimal number,
//! which is never more than what has been stored. Fewer rows than that is a loss.

use std::{
    any::Any,
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use snakepit_core::{WorkerId, ledger::Row};

use crate::{layout, row};

/// The version of keys and values.
pub(crate) const VERSION: u32 = 1;

const VERSION_KEY: &[u8] = b"version";
const WORKER_PREFIX: &str = "worker/";
/// Digits of the number in the file `rows`: it is overwritten in place.
const COUNT_WIDTH: usize = 10;

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another program wrote it.
    #[error("the store has version {found}, this program knows version {known}")]
    Newer {
        /// The version found.
        found: u32,
        /// The version this program writes.
        known: u32,
    },
    /// The database.
    #[error("the database failed")]
    Database(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The database found itself in a state that it holds for impossible.
    #[error("the database gave up: {0}")]
    Panicked(String),
    /// It is there, and nothing of ours is in it.
    #[error("there is no version in the store: it was torn or overwritten")]
    NoVersion,
    /// A file beside it.
    #[error("a file of the store cannot be read or written")]
    File(#[from] io::Error),
}

impl From<sled::Error> for StoreError {
    fn from(error: sled::Error) -> Self {
        Self::Database(Box::new(error))
    }
}

/// A change of one row: its bytes, or none for its removal.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) worker: WorkerId,
    pub(crate) row: Option<Vec<u8>>,
}

/// An open store.
pub(crate) struct Store {
    db: sled::Db,
    count: File,
    stored: BTreeSet<u64>,
}

/// What was read from a store.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) rows: Vec<Row>,
    /// Rows that were there once and cannot be read any more.
    pub(crate) lost: usize,
}

impl Store {
    /// Opens the store in the directory of a run, or makes it, and reads its rows.
    pub(crate) fn open(run_dir: &Path) -> Result<(Self, Contents), StoreError> {
        let directory = run_dir.join(layout::STORE);
        let is_new = !directory.exists();
        if is_new {
            layout::make_dir(&directory)?;
        }
        let count = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(run_dir.join(layout::ROWS))?;
        guarded(|| {
            let db = database(&directory)?;
            if is_new {
                db.insert(VERSION_KEY, VERSION.to_string().as_bytes())?;
                db.flush()?;
            }
            let (stored, contents) = read(&db, read_count(run_dir))?;
            let store = Self { db, count, stored };
            store.write_count(store.stored.len())?;
            Ok((store, contents))
        })
    }

    /// Reads the rows of the store in this directory of a run, which nobody else may have open.
    pub(crate) fn read(run_dir: &Path) -> Result<Contents, StoreError> {
        let counted = read_count(run_dir);
        let directory = run_dir.join(layout::STORE);
        guarded(|| Ok(read(&database(&directory)?, counted)?.1))
    }

    /// Makes the changes and returns when they would survive us.
    pub(crate) fn apply(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        let before = self.stored.len();
        for change in changes {
            let key = format!("{WORKER_PREFIX}{:016x}", change.worker.0);
            match &change.row {
                Some(row) => {
                    self.stored.insert(change.worker.0);
                    batch.insert(key.as_bytes(), row.as_slice());
                }
                None => {
                    self.stored.remove(&change.worker.0);
                    batch.remove(key.as_bytes());
                }
            }
        }
        let after = self.stored.len();
        // Killed between any two of these steps, the number is at most what is stored.
        if after < before {
            self.write_count(after)?;
        }
        let db = &self.db;
        guarded(move || {
            db.apply_batch(batch)?;
            db.flush()?;
            Ok(())
        })?;
        if after > before {
            self.write_count(after)?;
        }
        Ok(())
    }

    fn write_count(&self, count: usize) -> io::Result<()> {
        self.count
            .write_all_at(format!("{count:0COUNT_WIDTH$}\n").as_bytes(), 0)
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("stored", &self.stored.len())
            .finish()
    }
}

/// The number of rows a run has recorded, as the file beside its store says without opening it.
pub(crate) fn read_count(run_dir: &Path) -> Option<usize> {
    let text = fs::read_to_string(run_dir.join(layout::ROWS)).ok()?;
    text.trim_end().parse().ok()
}

fn database(directory: &Path) -> Result<sled::Db, sled::Error> {
    sled::Config::new()
        .path(directory)
        // Nothing is read but when it is opened.
        .cache_capacity(64 * 1024)
        .mode(sled::Mode::LowSpace)
        .use_compression(false)
        // Whoever writes flushes, and waits for it.
        .flush_every_ms(None)
        .open()
}

fn read(db: &sled::Db, counted: Option<usize>) -> Result<(BTreeSet<u64>, Contents), StoreError> {
    let version = db.get(VERSION_KEY)?.ok_or(StoreError::NoVersion)?;
    let version = std::str::from_utf8(&version)
        .ok()
        .and_then(|text| text.parse().ok());
    match version {
        Some(VERSION) => {}
        Some(found) => {
            return Err(StoreError::Newer {
                found,
                known: VERSION,
            });
        }
        None => return Err(StoreError::NoVersion),
    }
    let mut stored = BTreeSet::new();
    let mut contents = Contents::default();
    for entry in db.scan_prefix(WORKER_PREFIX) {
        let (key, value) = entry?;
        match row::decode(&value) {
            Ok(row) => {
                stored.insert(row.worker_id.0);
                contents.rows.push(row);
            }
            Err(error) => {
                contents.lost += 1;
                tracing::debug!(key = %String::from_utf8_lossy(&key), %error, "a row cannot be read");
            }
        }
    }
    let found = contents.rows.len() + contents.lost;
    contents.lost += counted.unwrap_or(0).saturating_sub(found);
    Ok((stored, contents))
}

/// sled asserts what a broken file can break.
fn guarded<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(StoreError::Panicked(message(&*panic))))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "for no stated reason".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::row;

    fn put(worker: u64) -> Change {
        Change {
            worker: WorkerId(worker),
            row: Some(row::encode(&row(worker))),
        }
    }

    fn gone(worker: u64) -> Change {
        Change {
            worker: WorkerId(worker),
            row: None,
        }
    }

    /// A process that another test starts holds our descriptors until it executes, and the lock of the store with them.
    fn once_free<T>(open: impl Fn() -> Result<T, StoreError>) -> Result<T, StoreError> {
        for _ in 0..1000 {
            match open() {
                Err(error) if format!("{error:?}").contains("could not acquire lock") => {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                opened => return opened,
            }
        }
        open()
    }

    fn open(dir: &Path) -> Result<(Store, Contents), StoreError> {
        once_free(|| Store::open(dir))
    }

    fn read(dir: &Path) -> Result<Contents, StoreError> {
        once_free(|| Store::read(dir))
    }

    #[test]
    fn what_was_applied_is_there_the_next_time() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, contents) = open(dir.path()).unwrap();
        assert!(contents.rows.is_empty());
        store.apply(&[put(1), put(2), put(3)]).unwrap();
        store.apply(&[gone(2), put(1)]).unwrap();
        assert_eq!(read_count(dir.path()), Some(2));
        drop(store);
        let contents = read(dir.path()).unwrap();
        let workers: Vec<_> = contents.rows.iter().map(|row| row.worker_id.0).collect();
        assert_eq!((workers, contents.lost), (vec![1, 3], 0));
        let (mut store, _) = open(dir.path()).unwrap();
        store.apply(&[gone(1), gone(3)]).unwrap();
        drop(store);
        assert!(read(dir.path()).unwrap().rows.is_empty());
    }

    #[test]
    fn another_version_is_refused_and_both_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = open(dir.path()).unwrap();
        store.db.insert(VERSION_KEY, "2").unwrap();
        drop(store);
        for error in [read(dir.path()).unwrap_err(), open(dir.path()).unwrap_err()] {
            assert!(
                error.to_string().contains("version 2") && error.to_string().contains("version 1"),
                "{error}"
            );
        }
    }

    #[test]
    fn rows_that_are_missing_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = open(dir.path()).unwrap();
        store.apply(&[put(1), put(2)]).unwrap();
        store.db.remove(format!("{WORKER_PREFIX}{:016x}", 1)).unwrap();
        store
            .db
            .insert(format!("{WORKER_PREFIX}{:016x}", 2), "{}")
            .unwrap();
        drop(store);
        let contents = read(dir.path()).unwrap();
        assert_eq!((contents.rows.len(), contents.lost), (0, 2));
    }

    #[test]
    fn a_file_that_is_no_store_is_an_error_and_no_panic() {
        for (what, damage) in [
            ("zeros", (|bytes: &mut Vec<u8>| bytes.fill(0)) as fn(&mut Vec<u8>)),
            ("garbage", |bytes| {
                for (n, byte) in bytes.iter_mut().enumerate() {
                    *byte = (n.wrapping_mul(2_654_435_761) >> 7) as u8;
                }
            }),
            ("nothing", Vec::clear),
            ("half", |bytes| bytes.truncate(bytes.len() / 2)),
            ("a header", |bytes| bytes.truncate(20)),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let (mut store, _) = open(dir.path()).unwrap();
            store.apply(&(0..50).map(put).collect::<Vec<_>>()).unwrap();
            drop(store);
            let db = dir.path().join("store/db");
            let mut bytes = fs::read(&db).unwrap();
            damage(&mut bytes);
            fs::write(&db, bytes).unwrap();
            match read(dir.path()) {
                Ok(contents) => assert!(contents.lost > 0, "{what}: {contents:?}"),
                Err(error) => println!("{what}: {error}"),
            }
        }
    }
}
