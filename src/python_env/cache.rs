//! Where things are kept between runs: a directory that only its owner can write to.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use super::{
    PythonEnvError,
    step::{Observer, Step},
    surroundings::Surroundings,
};

/// The cache directory. Workers execute what lies in it, hence the checks.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    root: PathBuf,
}

/// A lock on a file, held until it is dropped.
pub(super) type Lock = File;

impl Cache {
    /// The first directory that serves: a given one; else `$XDG_CACHE_HOME/snakepit`, `~/.cache/snakepit`,
    /// `snakepit-UID` among the temporary files.
    pub(super) fn locate(surroundings: &Surroundings) -> Result<Self, PythonEnvError> {
        let uid = rustix::process::geteuid().as_raw();
        let choices = match &surroundings.cache_dir {
            // Whoever names a directory does not expect another one.
            Some(dir) => vec![dir.clone()],
            None => [
                surroundings
                    .xdg_cache_home
                    .as_ref()
                    .map(|dir| dir.join("snakepit")),
                surroundings.home.as_ref().map(|dir| dir.join(".cache/snakepit")),
                Some(surroundings.temp.join(format!("snakepit-{uid}"))),
            ]
            .into_iter()
            .flatten()
            .collect(),
        };
        let mut tried = Vec::new();
        for dir in choices {
            match open(&dir, uid) {
                Ok(()) => return Ok(Self { root: dir }),
                Err(why) => tried.push(format!("{}: {why}", dir.display())),
            }
        }
        Err(PythonEnvError::NoCacheDir { tried })
    }

    /// A directory below it, made if need be.
    pub(super) fn dir(&self, name: &str) -> Result<PathBuf, PythonEnvError> {
        let dir = self.root.join(name);
        make(&dir).map_err(PythonEnvError::file("make the directory", &dir))?;
        Ok(dir)
    }
}

fn make(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Makes the directory and checks that nobody else could have put something into it.
fn open(dir: &Path, uid: u32) -> Result<(), String> {
    make(dir).map_err(|error| error.to_string())?;
    // Not followed: in a shared directory a link could be somebody else's.
    let found = fs::symlink_metadata(dir).map_err(|error| error.to_string())?;
    if !found.is_dir() {
        return Err("is not a directory".to_owned());
    }
    if found.uid() != uid {
        return Err(format!("belongs to user {}, not to us ({uid})", found.uid()));
    }
    if found.mode() & 0o022 != 0 {
        return Err(format!(
            "can be written by others (mode {:03o})",
            found.mode() & 0o777
        ));
    }
    // Also tells a file system that is mounted read-only.
    rustix::fs::access(dir, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
        .map_err(|error| error.to_string())?;
    if is_noexec(dir) {
        return Err(
            "is on a file system that is mounted noexec, and native modules are loaded from it".to_owned(),
        );
    }
    Ok(())
}

/// Whether the file system that a path is on lets nobody load a library from it. What cannot be asked is left to the
/// load.
pub(super) fn is_noexec(path: &Path) -> bool {
    rustix::fs::statvfs(path).is_ok_and(|found| found.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC))
}

/// Waits for the lock file at `path`, alone.
pub(super) fn lock_alone(path: &Path, made: &Path, observer: &Observer) -> Result<Lock, PythonEnvError> {
    loop {
        let file = open_lock(path)?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            observer.tell(Step::WaitForOther(made.to_path_buf()));
        }
        // Locking again what try_lock has locked changes nothing.
        file.lock().map_err(PythonEnvError::file("lock", path))?;
        if is_still(&file, path) {
            return Ok(file);
        }
    }
}

/// Waits for the lock file at `path`, together with others who share it.
pub(super) fn lock_shared(path: &Path) -> Result<Lock, PythonEnvError> {
    loop {
        let file = open_lock(path)?;
        file.lock_shared().map_err(PythonEnvError::file("lock", path))?;
        if is_still(&file, path) {
            return Ok(file);
        }
    }
}

/// The lock, if nobody holds it; `None` also when it cannot be told.
pub(super) fn try_lock_alone(path: &Path) -> Option<Lock> {
    let file = open_lock(path).ok()?;
    file.try_lock().ok()?;
    is_still(&file, path).then_some(file)
}

fn open_lock(path: &Path) -> Result<File, PythonEnvError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(PythonEnvError::file("open the lock", path))
}

/// Whether the file we locked is the one that others will find: whoever prunes removes lock files too.
fn is_still(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(found)) => (ours.dev(), ours.ino()) == (found.dev(), found.ino()),
        _ => false,
    }
}

/// Writes a file so that a reader sees all of it or nothing.
pub(super) fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    // Not the pid: containers that share the cache have the same ones.
    let (run, next) = (
        snakepit_core::RunId::current(),
        NEXT.fetch_add(1, Ordering::Relaxed),
    );
    let temporary = path.with_extension(format!("new-{run}-{next}"));
    let written = File::create(&temporary).and_then(|mut file| file.write_all(content));
    let renamed = written.and_then(|()| fs::rename(&temporary, path));
    if renamed.is_err() {
        // The first error is the one that matters.
        let _ = fs::remove_file(&temporary);
    }
    renamed
}

/// A short name for a key: 32 hex digits of its BLAKE3 hash.
pub(super) fn name_of(parts: &[&[u8]]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        // The length keeps ("ab", "c") apart from ("a", "bc").
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().to_hex().as_str()[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn surroundings(xdg: &Path, temp: &Path) -> Surroundings {
        Surroundings {
            xdg_cache_home: Some(xdg.to_path_buf()),
            temp: temp.to_path_buf(),
            ..Surroundings::default()
        }
    }

    #[test]
    fn the_directory_is_made_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::locate(&surroundings(&dir.path().join("x"), dir.path())).unwrap();
        assert_eq!(cache.root, dir.path().join("x/snakepit"));
        assert_eq!(fs::metadata(&cache.root).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let open_to_all = dir.path().join("x/snakepit");
        fs::create_dir_all(&open_to_all).unwrap();
        fs::set_permissions(&open_to_all, fs::Permissions::from_mode(0o777)).unwrap();
        let cache = Cache::locate(&surroundings(&dir.path().join("x"), dir.path())).unwrap();
        assert!(cache.root.starts_with(dir.path()) && cache.root != open_to_all);
    }

    #[test]
    fn a_link_or_a_file_in_its_place_is_refused_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let uid = rustix::process::geteuid().as_raw();
        std::os::unix::fs::symlink(dir.path(), dir.path().join(format!("snakepit-{uid}"))).unwrap();
        fs::write(dir.path().join("x"), "").unwrap();
        let error = Cache::locate(&surroundings(&dir.path().join("x"), dir.path()))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("not a directory") && error.contains("XDG_CACHE_HOME"),
            "{error}"
        );
    }

    #[test]
    fn a_mount_from_which_nothing_is_executed_is_told_from_others() {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        for point in ["/proc", "/sys", "/"] {
            // The last one on a directory is the one that is seen.
            let options = mounts.lines().rev().find_map(|mount| {
                let mut fields = mount.split(' ').skip(1);
                (fields.next() == Some(point)).then(|| fields.nth(1))?
            });
            if let Some(options) = options {
                let expected = options.split(',').any(|option| option == "noexec");
                assert_eq!(is_noexec(Path::new(point)), expected, "{point} {options}");
            }
        }
        assert!(!is_noexec(Path::new("/nowhere")));
    }

    #[test]
    fn a_lock_file_that_was_removed_meanwhile_is_not_taken_for_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let shared = lock_shared(&path).unwrap();
        assert!(try_lock_alone(&path).is_none());
        fs::remove_file(&path).unwrap();
        assert!(!is_still(&shared, &path));
        assert!(try_lock_alone(&path).is_some());
    }
}
