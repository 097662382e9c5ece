//! Restarts a pool when its Python files change.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use snakepit_core::{
    pool::{Phase, Pool, RestartError, Restarted},
    rpc::error_chain,
};
use tokio::{sync::watch, task::JoinHandle};

/// How often the files are looked at. They are polled, since that sees the files of containers' mounts and of network file systems,
/// too; a scan of 1,000 files takes 3 ms of CPU.
const LOOK: Duration = Duration::from_millis(500);

/// Restarts a pool while this lives, whenever Python files change: see [`Pool::reload_on_change`](crate::Pool::reload_on_change).
#[derive(Debug)]
#[must_use = "files are watched only for as long as this lives"]
pub struct Reloading {
    task: JoinHandle<()>,
    last: watch::Receiver<Option<Reload>>,
}

/// How a reload went.
type Reload = Result<Restarted, RestartError>;

impl Reloading {
    /// What the files are like now counts as loaded.
    pub(crate) async fn start(pool: Pool, paths: Vec<PathBuf>) -> Self {
        let seen = look(&paths).await.unwrap_or_default();
        let (told, last) = watch::channel(None);
        Self {
            task: tokio::spawn(watch(pool, paths, seen, told)),
            last,
        }
    }

    /// How the next reload went, once it is over; of several since the last time the latest one. `None` when there will be none:
    /// the pool has been shut down.
    ///
    /// # Cancel safety
    /// Safe; nothing is lost.
    pub async fn next(&mut self) -> Option<Result<Restarted, RestartError>> {
        self.last.changed().await.ok()?;
        self.last.borrow_and_update().clone()
    }
}

impl Drop for Reloading {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn watch(pool: Pool, paths: Vec<PathBuf>, mut seen: Files, told: watch::Sender<Option<Reload>>) {
    let mut loaded = seen.clone();
    loop {
        tokio::time::sleep(LOOK).await;
        if pool.status().await.phase == Phase::Stopped {
            return;
        }
        let Some(now) = look(&paths).await else { return };
        // Whoever saves several files, or one in several steps, is done when nothing changes any more.
        let settled = now == seen && !now.may_look_the_same(SystemTime::now());
        seen = now;
        if !settled || seen == loaded {
            continue;
        }
        let changed = seen.first_changed_since(&loaded).map(Path::display);
        tracing::info!(
            pool = pool.name(),
            file = changed.map(tracing::field::display),
            "Python files have changed"
        );
        loaded = seen.clone();
        let restarted = pool.restart().await;
        match &restarted {
            Ok(done) => tracing::info!(pool = pool.name(), slots = done.slots, took = ?done.took, "reloaded"),
            Err(error) => {
                tracing::warn!(pool = pool.name(), error = %error_chain(error), "not reloaded, tried again after the next change");
            }
        }
        told.send_replace(Some(restarted));
    }
}

/// `None` when the runtime is being shut down.
async fn look(paths: &[PathBuf]) -> Option<Files> {
    let paths = paths.to_vec();
    tokio::task::spawn_blocking(move || Files::find(&paths))
        .await
        .ok()
}

/// Python files, and what tells that one has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Files(BTreeMap<PathBuf, (SystemTime, u64)>);

impl Files {
    fn find(paths: &[PathBuf]) -> Self {
        let mut files = Self::default();
        for path in paths {
            files.add(path);
        }
        files
    }

    /// What cannot be read is not there: it may be between being removed and being written.
    fn add(&mut self, path: &Path) {
        let Ok(metadata) = fs::metadata(path) else { return };
        if !metadata.is_dir() {
            let changed = metadata.modified().unwrap_or(UNIX_EPOCH);
            self.0.insert(path.to_owned(), (changed, metadata.len()));
            return;
        }
        // A virtual environment has thousands of files, and nobody edits them.
        if path.join("pyvenv.cfg").exists() {
            return;
        }
        let Ok(entries) = fs::read_dir(path) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let hidden = name.as_encoded_bytes().starts_with(b".") || name == "__pycache__";
            // Links to directories are not followed: they may lead in a circle.
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let is_python = Path::new(&name)
                .extension()
                .is_some_and(|extension| extension == "py");
            if !hidden && (is_dir || is_python) {
                self.add(&entry.path());
            }
        }
    }

    /// Whether a file was changed in this very second. Python takes its compiled form for current by the second and the size:
    /// one that was loaded now and changed once more within the second might go unnoticed by Python.
    fn may_look_the_same(&self, now: SystemTime) -> bool {
        let second = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let now = second(now);
        self.0.values().any(|(changed, _)| second(*changed) == now)
    }

    /// A file that is new, changed or gone.
    fn first_changed_since<'a>(&'a self, before: &'a Self) -> Option<&'a Path> {
        let changed = |(path, file): &(&PathBuf, &_)| before.0.get(*path) != Some(*file);
        let gone = |(path, _): &(&PathBuf, &_)| !self.0.contains_key(*path);
        let file = self.0.iter().find(changed).or_else(|| before.0.iter().find(gone));
        file.map(|(path, _)| path.as_path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(files: &Files) -> Vec<&str> {
        files
            .0
            .keys()
            .map(|path| path.file_name().unwrap().to_str().unwrap())
            .collect()
    }

    #[test]
    fn python_files_are_found_and_what_nobody_edits_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for path in [
            "a.py",
            "deep/er/b.py",
            "notes.txt",
            "__pycache__/c.py",
            ".git/d.py",
            "venv/lib/e.py",
        ] {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), "").unwrap();
        }
        fs::write(root.join("venv/pyvenv.cfg"), "").unwrap();
        std::os::unix::fs::symlink(root, root.join("deep/circle")).unwrap();
        std::os::unix::fs::symlink(root.join("notes.txt"), root.join("linked.py")).unwrap();
        let files = Files::find(&[root.to_owned(), root.join("missing"), root.join("notes.txt")]);
        assert_eq!(
            names(&files),
            ["a.py", "b.py", "linked.py", "notes.txt"],
            "{files:?}"
        );
    }

    #[test]
    fn a_file_that_is_new_longer_or_gone_is_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let (root, file) = (dir.path().to_owned(), dir.path().join("a.py"));
        let look = || Files::find(std::slice::from_ref(&root));
        let before = look();
        fs::write(&file, "1").unwrap();
        let written = look();
        assert_eq!(written.first_changed_since(&before), Some(&*file));
        assert_eq!(look(), written);
        fs::write(&file, "12").unwrap();
        assert_eq!(look().first_changed_since(&written), Some(&*file));
        fs::remove_file(&file).unwrap();
        assert_eq!(look().first_changed_since(&written), Some(&*file));
    }

    #[test]
    fn a_file_that_was_changed_in_this_second_is_waited_for() {
        let second = |seconds: u64, millis: u64| UNIX_EPOCH + Duration::from_millis(seconds * 1000 + millis);
        let files = Files([("a.py".into(), (second(10, 900), 1))].into());
        assert!(files.may_look_the_same(second(10, 950)));
        assert!(!files.may_look_the_same(second(11, 0)));
        assert!(
            !files.may_look_the_same(second(9, 0)),
            "a clock that was set back waits for nothing"
        );
    }
}
