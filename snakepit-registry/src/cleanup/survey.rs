//! Which runs there are, and whose hosts live.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use snakepit_core::{RunId, process::ProcessIdentity};
use tokio::time::{Instant, sleep};

use crate::{
    host::{self, Life},
    layout::{self, Kind},
};

/// How long a lock is waited for whose holder is gone or going: the kernel frees it only after the memory of a dying
/// host, about a tenth of a second for each gigabyte.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// The pause between two looks at a lock.
const PAUSE: Duration = Duration::from_millis(5);

/// The directory of a run.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) app: String,
    pub(super) run_id: RunId,
    pub(super) path: PathBuf,
}

/// What there is in the directory of an application.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pub(super) runs: Vec<Found>,
    /// Directories that somebody was interrupted with: to be removed, once that is seen to be so.
    pub(super) leftovers: Vec<(Kind, RunId, PathBuf)>,
    /// Stores that were set aside before.
    pub(super) set_aside: usize,
}

/// Lists the directory of an application; one that does not exist is empty.
pub(super) fn survey(app: &str, app_dir: &Path) -> io::Result<Survey> {
    let mut survey = Survey::default();
    let entries = match fs::read_dir(app_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(survey),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let Some((kind, run_id)) = entry.file_name().to_str().and_then(Kind::parse) else {
            continue;
        };
        let path = entry.path();
        match kind {
            Kind::Run => survey.runs.push(Found {
                app: app.to_owned(),
                run_id,
                path,
            }),
            Kind::New | Kind::Gone => survey.leftovers.push((kind, run_id, path)),
            Kind::Unreadable => survey.set_aside += 1,
        }
    }
    Ok(survey)
}

/// The names of the applications in a state directory.
pub(super) fn apps(state_dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(state_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if crate::check_app(&name).is_ok() && entry.path().is_dir() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Removes what somebody was interrupted with; one that somebody is still busy with is left.
pub(super) fn remove_leftover(app_dir: &Path, leftover: &(Kind, RunId, PathBuf)) -> io::Result<()> {
    let (kind, run_id, path) = leftover;
    if *kind == Kind::Gone {
        return layout::remove_all(path);
    }
    // Its host locks it before it puts anything into it, and gives it up if it finds that we were faster.
    let opened = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path.join(layout::LOCK));
    let lock = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    if layout::try_lock(&lock)? && layout::leads_to(&path.join(layout::LOCK), &lock)? {
        layout::remove(app_dir, path, *run_id)?;
    }
    Ok(())
}

/// Whether the host of a run lives, and who it is.
#[derive(Debug)]
pub(super) enum Look {
    Alive(Option<ProcessIdentity>),
    Dead(Option<ProcessIdentity>),
    /// It was removed meanwhile.
    Vanished,
}

/// Looks whether the host of a run lives.
pub(super) async fn look(run: &Found, deadline: Instant) -> io::Result<Look> {
    let host = host::read(&run.path.join(layout::HOST));
    let life = host.as_ref().map_or(Life::Unknown, host::life);
    let lock = match File::open(run.path.join(layout::LOCK)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if !run.path.exists() {
                return Ok(Look::Vanished);
            }
            None
        }
        lock => Some(lock?),
    };
    let patience = deadline.min(Instant::now() + LOCK_PATIENCE);
    loop {
        // A lock that was deleted says nothing.
        let free = lock.as_ref().map_or(Ok(true), layout::is_unlocked)?;
        return Ok(match (life, free) {
            // A host with a free lock has closed this registry and left rows in it; it may have others for the same run.
            (Life::Alive, _) | (Life::Unknown, false) => Look::Alive(host),
            (Life::Unknown | Life::Gone | Life::Dying, true) => Look::Dead(host),
            (Life::Gone | Life::Dying, false) if Instant::now() < patience => {
                sleep(PAUSE).await;
                continue;
            }
            // A fork of it holds the lock on, or its memory is huge: neither writes to the store.
            (Life::Gone | Life::Dying, false) => Look::Dead(host),
        });
    }
}

/// The right to clean up after a dead run, which one has at a time.
#[derive(Debug)]
pub(super) struct Claim {
    /// The directory itself is locked: that needs no right to write, and goes along when it is renamed.
    _directory: File,
    /// The host's own lock, unless a fork of it has it.
    _lock: Option<File>,
}

/// Claims a dead run, waiting for another cleanup to be through with it. `None` when it is gone by then.
pub(super) async fn claim(run: &Found, deadline: Instant) -> io::Result<Option<Claim>> {
    loop {
        let directory = match File::open(&run.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            directory => directory?,
        };
        if layout::try_lock(&directory)? {
            if !layout::leads_to(&run.path, &directory)? {
                return Ok(None);
            }
            let lock = File::open(run.path.join(layout::LOCK)).ok();
            let lock = lock.filter(|lock| layout::try_lock(lock).unwrap_or(false));
            return Ok(Some(Claim {
                _directory: directory,
                _lock: lock,
            }));
        }
        if Instant::now() >= deadline {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "another cleanup is still busy with it",
            ));
        }
        sleep(PAUSE).await;
    }
}
