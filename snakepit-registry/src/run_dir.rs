//! The directory of our own run, from its making to its removal.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use snakepit_core::RunId;
use tokio::time::Instant;

use crate::{
    host,
    layout::{self, Kind},
};

/// The pause before looking again whether somebody else is through.
const PAUSE: Duration = Duration::from_millis(2);

/// The directory of a run of which we are the host: nobody else has its lock.
#[derive(Debug)]
pub(crate) struct RunDir {
    app_dir: PathBuf,
    run_id: RunId,
    /// Where it is now.
    path: PathBuf,
    /// Held open for its lock. flock(2) locks the open file, not the process as fcntl(2) does: nothing else that opens and closes the
    /// file here can lose it, the kernel frees it whatever we die of, and it is seen from every PID namespace. A fork of ours
    /// shares it, which is why the host's identity stands beside it.
    _lock: File,
}

impl RunDir {
    /// Makes the directory under a name that says so, locked; or takes up the one that an earlier registry of this run
    /// left because it had rows. Waits up to `bound` for that one to be closed.
    pub(crate) fn make(app_dir: &Path, app: &str, run_id: RunId, bound: Duration) -> io::Result<Self> {
        let by = Instant::now() + bound;
        let home = Kind::Run.path(app_dir, run_id);
        let new = Kind::New.path(app_dir, run_id);
        loop {
            let is_new = !home.exists();
            let path = if is_new { &new } else { &home };
            if let Some(lock) = Self::lock(path, is_new)? {
                let dir = Self {
                    app_dir: app_dir.to_owned(),
                    run_id,
                    path: path.clone(),
                    _lock: lock,
                };
                if is_new && let Err(error) = describe(path, app, run_id) {
                    // Nothing refers to it. What cannot be removed is left to the next cleanup.
                    let _ = dir.remove();
                    return Err(error);
                }
                return Ok(dir);
            }
            if Instant::now() >= by {
                return Err(io::Error::new(
                    io::ErrorKind::WouldBlock,
                    "another registry of this very run has it open",
                ));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Locks the directory; `None` when it has to be tried again. A cleanup takes a directory away only while it holds the same
    /// lock: so whoever finds that the path still leads to what he has locked keeps it.
    fn lock(path: &Path, make: bool) -> io::Result<Option<File>> {
        if make {
            layout::make_dir(path)?;
        }
        let file = path.join(layout::LOCK);
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(make)
            .truncate(false)
            .mode(0o600)
            .open(&file);
        let lock = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        Ok((layout::try_lock(&lock)? && layout::leads_to(&file, &lock)?).then_some(lock))
    }

    /// Whether it has not got its lasting name yet: nothing in it is needed.
    pub(crate) fn is_new(&self) -> bool {
        self.path != Kind::Run.path(&self.app_dir, self.run_id)
    }

    /// Where it is now.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its lasting name: it is complete.
    pub(crate) fn settle(&mut self) -> io::Result<()> {
        if self.is_new() {
            let home = Kind::Run.path(&self.app_dir, self.run_id);
            fs::rename(&self.path, &home)?;
            self.path = home;
            File::open(&self.app_dir)?.sync_all()?;
        }
        Ok(())
    }

    /// Removes it; the lock goes last.
    pub(crate) fn remove(self) -> io::Result<()> {
        layout::remove(&self.app_dir, &self.path, self.run_id)
    }
}

fn describe(path: &Path, app: &str, run_id: RunId) -> io::Result<()> {
    fs::write(path.join(layout::HOST), host::describe_ourselves(run_id, app)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_complete_when_it_gets_its_name_and_one_registry_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunId::random();
        let make = || RunDir::make(dir.path(), "app", run, Duration::from_millis(20));
        let mut made = make().unwrap();
        assert_eq!(made.path(), Kind::New.path(dir.path(), run));
        assert!(make().is_err());
        made.settle().unwrap();
        let path = Kind::Run.path(dir.path(), run);
        assert_eq!(made.path(), path);
        assert!(host::read(&path.join(layout::HOST)).is_some());
        let refused = make().unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        drop(made);
        // Rows were left: it is taken up again.
        let again = make().unwrap();
        assert_eq!(again.path(), path);
        again.remove().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
