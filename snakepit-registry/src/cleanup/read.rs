//! Reading the store of a dead run.
//!
//! sled cannot open a store without writing to it, and refuses one whose file lock a fork of the host still holds. So a
//! copy is read.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use snakepit_core::RunId;

use crate::{
    layout,
    store::{Contents, Store, StoreError},
};

/// Name of the copy in the directory of the run, which is removed together with it.
const COPY: &str = "copy";

/// Where the copy is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the directory of the run if it can be written. Whoever does this has claimed the run.
    Run,
    /// Among temporary files: nothing of the run is touched.
    Temporary,
}

/// The rows of a run; none where its host had not come to make a store.
pub(super) fn contents(run_dir: &Path, place: Place) -> Result<Contents, StoreError> {
    if !run_dir.join(layout::STORE).try_exists()? {
        let lost = crate::store::read_count(run_dir).unwrap_or(0);
        return Ok(Contents {
            rows: Vec::new(),
            lost,
        });
    }
    let in_run = run_dir.join(COPY);
    if place == Place::Run && layout::remove_all(&in_run).is_ok() && fs::create_dir(&in_run).is_ok() {
        let contents = read_copy(run_dir, &in_run);
        if !matches!(&contents, Err(StoreError::File(_))) {
            return contents;
        }
    }
    let scratch = Scratch::make()?;
    read_copy(run_dir, &scratch.0)
}

fn read_copy(run_dir: &Path, copy: &Path) -> Result<Contents, StoreError> {
    copy_directory(&run_dir.join(layout::STORE), &copy.join(layout::STORE))?;
    match fs::copy(run_dir.join(layout::ROWS), copy.join(layout::ROWS)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    Store::read(copy)
}

fn copy_directory(from: &Path, to: &Path) -> io::Result<()> {
    layout::make_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy_directory(&from, &to)?;
        } else {
            // Not by fs::copy: the permissions of a read-only store would go along.
            io::copy(&mut fs::File::open(from)?, &mut fs::File::create(to)?)?;
        }
    }
    Ok(())
}

/// A directory for temporary files, removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn make() -> io::Result<Self> {
        // A random name of 128 bits is nobody else's.
        let path = std::env::temp_dir().join(format!("snakepit-cleanup-{}", RunId::random()));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is a few KiB among temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}
