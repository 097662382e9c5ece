//! Names below the state directory, and making them safely.
//!
//! ```text
//! STATE/APP/RUN_ID/             one run; there while its host lives, or while something of it may be left
//! STATE/APP/.new-RUN_ID/        a run being made
//! STATE/APP/.gone-RUN_ID/       a run being removed
//! STATE/APP/.unreadable-RUN_ID/ a run whose store could not be read, kept to be looked at
//! ```
//!
//! and in the directory of a run:
//!
//! ```text
//! lock    locked by flock(2) as long as the host lives
//! host    who the host is; see the module `host`
//! rows    how many rows the store has; see the module `store`
//! store/  the store
//! ```

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use rustix::fs::FlockOperation;
use snakepit_core::RunId;

/// The lock of a run.
pub(crate) const LOCK: &str = "lock";
/// The host's identity.
pub(crate) const HOST: &str = "host";
/// The number of rows.
pub(crate) const ROWS: &str = "rows";
/// The store's directory.
pub(crate) const STORE: &str = "store";

/// How often a directory is removed that somebody else is busy with as well.
const REMOVE_TRIES: u32 = 1000;

/// What the name of a directory in an application's directory says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Run,
    New,
    Gone,
    Unreadable,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Run, Self::New, Self::Gone, Self::Unreadable];

    const fn prefix(self) -> &'static str {
        match self {
            Self::Run => "",
            Self::New => ".new-",
            Self::Gone => ".gone-",
            Self::Unreadable => ".unreadable-",
        }
    }

    /// The directory of this kind for a run.
    pub(crate) fn path(self, app_dir: &Path, run_id: RunId) -> PathBuf {
        app_dir.join(format!("{}{run_id}", self.prefix()))
    }

    /// What a name says; `None` for names that are not ours.
    pub(crate) fn parse(name: &str) -> Option<(Self, RunId)> {
        Self::ALL.into_iter().find_map(|kind| {
            let id = name.strip_prefix(kind.prefix())?.parse().ok()?;
            Some((kind, id))
        })
    }
}

/// Why a directory is not one to keep records in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirError {
    /// It cannot be made or looked at.
    #[error("cannot use {}", path.display())]
    Os {
        /// The directory.
        path: PathBuf,
        /// What the system answers.
        #[source]
        source: io::Error,
    },
    /// Others could put into it what they like.
    #[error(
        "{} belongs to user {owner} and has mode {mode:o}: others could change what is recorded there; it must be user {user}'s \
         and writable by nobody else",
        path.display()
    )]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Its permissions.
        mode: u32,
        /// Who we are.
        user: u32,
    },
}

/// Makes the directory of an application, and those above it where they are missing, for this user alone.
pub(crate) fn make_app_dir(state_dir: &Path, app: &str) -> Result<PathBuf, DirError> {
    let app_dir = state_dir.join(app);
    let os = |path: &Path, source| DirError::Os {
        path: path.to_owned(),
        source,
    };
    let make = |path: &Path| fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    make(&app_dir).map_err(|error| os(&app_dir, error))?;
    let user = rustix::process::geteuid().as_raw();
    for (path, owners) in [(state_dir, &[user, 0][..]), (app_dir.as_path(), &[user])] {
        // In a directory like /tmp somebody else could have been first, with a link as well.
        for found in [fs::symlink_metadata(path), fs::metadata(path)] {
            let found = found.map_err(|error| os(path, error))?;
            let mode = found.mode() & 0o7777;
            let open_to_others = !found.is_symlink() && mode & 0o022 != 0 && mode & 0o1000 == 0;
            if !owners.contains(&found.uid()) || open_to_others {
                return Err(DirError::Unsafe {
                    path: path.to_owned(),
                    owner: found.uid(),
                    mode,
                    user,
                });
            }
        }
    }
    Ok(app_dir)
}

/// Makes a directory for this user alone; one that is there is as good.
pub(crate) fn make_dir(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Locks an open file or directory for its description alone, or says that somebody else has (`false`). Does not wait.
pub(crate) fn try_lock(file: &fs::File) -> io::Result<bool> {
    flock(file, FlockOperation::NonBlockingLockExclusive)
}

/// Whether nobody has locked the file. Those who ask at a time do not see each other.
pub(crate) fn is_unlocked(file: &fs::File) -> io::Result<bool> {
    let free = flock(file, FlockOperation::NonBlockingLockShared)?;
    if free {
        rustix::fs::flock(file, FlockOperation::Unlock)?;
    }
    Ok(free)
}

fn flock(file: &fs::File, operation: FlockOperation) -> io::Result<bool> {
    match rustix::fs::flock(file, operation) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether a path leads to this very file.
pub(crate) fn leads_to(path: &Path, file: &fs::File) -> io::Result<bool> {
    let own = file.metadata()?;
    match fs::metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (own.dev(), own.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes the directory of a run, so that whoever looks meanwhile sees it whole or being removed, never half. What
/// is left if this is interrupted is removed by the next cleanup.
pub(crate) fn remove(app_dir: &Path, directory: &Path, run_id: RunId) -> io::Result<()> {
    let gone = Kind::Gone.path(app_dir, run_id);
    let mut tries = 0..REMOVE_TRIES;
    loop {
        match fs::rename(directory, &gone) {
            // One that somebody else is removing, or left over.
            Err(error) if is_occupied(&error) && tries.next().is_some() => remove_all(&gone)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            renamed => {
                renamed?;
                return remove_all(&gone);
            }
        }
    }
}

/// Removes a directory with all that is in it, whoever else may be doing the same.
pub(crate) fn remove_all(directory: &Path) -> io::Result<()> {
    let mut tries = 0..REMOVE_TRIES;
    loop {
        match fs::remove_dir_all(directory) {
            // Said also when somebody else was faster with a file in it.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !directory.exists() => return Ok(()),
            // Or has just moved here what is to be removed next.
            Err(error)
                if (error.kind() == io::ErrorKind::NotFound || is_occupied(&error))
                    && tries.next().is_some() => {}
            removed => return removed,
        }
    }
}

/// rename(2) onto a directory that is not empty.
pub(crate) fn is_occupied(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn names_read_back() {
        let run = RunId::random();
        for kind in Kind::ALL {
            let path = kind.path(Path::new("/x"), run);
            let name = path.file_name().unwrap().to_str().unwrap();
            assert_eq!(Kind::parse(name), Some((kind, run)));
        }
        for name in ["", ".", "lost+found", ".new-", ".old-0123", "0123"] {
            assert_eq!(Kind::parse(name), None, "{name}");
        }
    }

    #[test]
    fn a_directory_that_others_can_change_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("deep/state");
        let made = make_app_dir(&state, "app").unwrap();
        assert_eq!(fs::metadata(&made).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(&state).unwrap().mode() & 0o777, 0o700);
        let link = dir.path().join("link");
        symlink(&state, &link).unwrap();
        make_app_dir(&link, "app").unwrap();
        fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
        let error = make_app_dir(&state, "app").unwrap_err().to_string();
        assert!(
            error.contains(state.to_str().unwrap()) && error.contains("777"),
            "{error}"
        );
        // As in /tmp, where nobody can take away what is another's.
        fs::set_permissions(&state, fs::Permissions::from_mode(0o1777)).unwrap();
        make_app_dir(&state, "app").unwrap();
        fs::set_permissions(&made, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(make_app_dir(&state, "app").is_err());
        let missing = make_app_dir(Path::new("/proc/none"), "app").unwrap_err();
        assert!(matches!(missing, DirError::Os { .. }), "{missing}");
    }

    #[test]
    fn a_lock_excludes_others_and_looking_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let open = || fs::File::open(dir.path()).unwrap();
        let (one, other) = (open(), open());
        assert!(is_unlocked(&one).unwrap() && try_lock(&one).unwrap());
        assert!(!is_unlocked(&other).unwrap() && !try_lock(&other).unwrap());
        drop(one);
        assert!(is_unlocked(&other).unwrap());
    }

    #[test]
    fn removing_goes_on_where_it_was_interrupted() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunId::random();
        let path = Kind::Run.path(dir.path(), run);
        for name in [path.join("store"), Kind::Gone.path(dir.path(), run).join("store")] {
            fs::create_dir_all(&name).unwrap();
            fs::write(name.join("db"), "x").unwrap();
        }
        remove(dir.path(), &path, run).unwrap();
        remove(dir.path(), &path, run).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
