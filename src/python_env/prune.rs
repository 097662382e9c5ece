//! Removes worker packages that are no longer used, such as those of earlier builds.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::cache;

/// How many to keep beside the newest: a debug and a release build of two branches.
const KEPT: usize = 4;

/// Removes all but the [`KEPT`] last used packages. One in use is locked, and stays. What cannot be removed now
/// stays for the next time.
pub(super) fn prune(packages: &Path, just_laid: &Path) {
    let mut locks: Vec<(SystemTime, PathBuf)> = fs::read_dir(packages)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "lock"))
        .filter(|path| path.with_extension("") != just_laid)
        .filter_map(|path| Some((fs::metadata(&path).ok()?.modified().ok()?, path)))
        .collect();
    locks.sort_unstable_by(|a, b| b.cmp(a));
    for (_, lock) in locks.into_iter().skip(KEPT) {
        let Some(_alone) = cache::try_lock_alone(&lock) else {
            continue;
        };
        let dir = lock.with_extension("");
        let removed = remove(&unfinished(packages, &dir)).and_then(|()| remove(&dir));
        // The lock file goes last and while we hold it: whoever waits for it finds that it is no longer the one.
        if let Err(error) = removed.and_then(|()| fs::remove_file(&lock)) {
            tracing::debug!(lock = %lock.display(), %error, "an old worker package was not removed");
        }
    }
}

/// Where a package is made before it is renamed into place. Its lock covers both.
pub(super) fn unfinished(packages: &Path, dir: &Path) -> PathBuf {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    packages.join(format!(".new-{name}"))
}

fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, time::Duration};

    use super::*;

    #[test]
    fn the_oldest_go_and_those_in_use_stay() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        for age in 0..8_u64 {
            fs::create_dir(dir.path().join(format!("p{age}"))).unwrap();
            let lock = File::create(dir.path().join(format!("p{age}.lock"))).unwrap();
            lock.set_modified(now - Duration::from_secs(age)).unwrap();
        }
        fs::create_dir(dir.path().join(".new-p6")).unwrap();
        let in_use = cache::lock_shared(&dir.path().join("p7.lock")).unwrap();
        prune(dir.path(), &dir.path().join("p0"));
        let exists = |name: &str| dir.path().join(name).exists();
        let left: Vec<_> = (0..8).filter(|age| exists(&format!("p{age}"))).collect();
        assert_eq!(left, [0, 1, 2, 3, 4, 7]);
        assert!(!exists("p5.lock") && !exists(".new-p6") && exists("p7.lock"));
        drop(in_use);
    }
}
