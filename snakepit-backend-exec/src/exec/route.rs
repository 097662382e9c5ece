//! Where standard streams come from and go to.

use std::{
    fs::OpenOptions,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::pipe::{PipeFlags, pipe_with};
use snakepit_core::launch::LaunchError;

use super::error::RunError;
use crate::{
    launcher::null,
    request::{Standard, os},
};

/// Where a standard stream comes from or goes to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Route {
    /// The null device.
    Null,
    /// The host's own.
    Inherit,
    /// A pipe whose other end the host has.
    Pipe,
    /// A file: read as standard input, written as standard output or error.
    File(PathBuf, FileMode),
    /// This descriptor.
    Fd(Arc<OwnedFd>),
    /// Where standard output goes; for standard error only.
    Stdout,
}

/// How a file is opened that is written; of no meaning for one that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileMode {
    /// Emptied first; created with these permissions where it does not exist, less the host's umask.
    Truncate(u32),
    /// Written to at its end; created with these permissions where it does not exist, less the host's umask.
    Append(u32),
}

/// The host's ends of pipes.
#[derive(Debug, Default)]
pub(super) struct Ends {
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
}

/// Opens what the three streams are routed to. Blocks on disks.
pub(super) fn open(routes: &[Option<Route>; 3]) -> Result<(Standard, Ends), RunError> {
    let [stdin, stdout, stderr] = routes
        .each_ref()
        .map(|route| route.as_ref().unwrap_or(&Route::Null));
    let mut ends = Ends::default();
    let own_in = match stdin {
        Route::Pipe => {
            let (theirs, ours) = pipe()?;
            ends.stdin = Some(ours);
            Arc::new(theirs)
        }
        Route::Inherit => inherit(io::stdin())?,
        Route::File(path, _) => file(OpenOptions::new().read(true), path)?,
        Route::Stdout => return Err(RunError::Route("standard input")),
        other => simple(other)?,
    };
    let own_out = match stdout {
        Route::Inherit => inherit(io::stdout())?,
        Route::Stdout => return Err(RunError::Route("standard output")),
        other => output(other, &mut ends.stdout)?,
    };
    let own_err = match stderr {
        Route::Inherit => inherit(io::stderr())?,
        Route::Stdout => Arc::clone(&own_out),
        other => output(other, &mut ends.stderr)?,
    };
    Ok(([own_in, own_out, own_err], ends))
}

fn output(route: &Route, end: &mut Option<OwnedFd>) -> Result<Arc<OwnedFd>, RunError> {
    match route {
        Route::Pipe => {
            let (ours, theirs) = pipe()?;
            *end = Some(ours);
            Ok(Arc::new(theirs))
        }
        Route::File(path, FileMode::Truncate(mode)) => {
            let mut options = OpenOptions::new();
            file(options.write(true).create(true).truncate(true).mode(*mode), path)
        }
        Route::File(path, FileMode::Append(mode)) => {
            let mut options = OpenOptions::new();
            file(options.append(true).create(true).mode(*mode), path)
        }
        other => simple(other),
    }
}

/// What is the same in both directions.
fn simple(route: &Route) -> Result<Arc<OwnedFd>, RunError> {
    match route {
        Route::Fd(fd) => Ok(Arc::clone(fd)),
        _ => Ok(Arc::new(null().map_err(os("open /dev/null"))?)),
    }
}

fn inherit(stream: impl AsFd) -> Result<Arc<OwnedFd>, RunError> {
    let copy = stream.as_fd().try_clone_to_owned();
    Ok(Arc::new(copy.map_err(os("copy a standard stream"))?))
}

fn file(options: &OpenOptions, path: &Path) -> Result<Arc<OwnedFd>, RunError> {
    let opened = options.open(path).map_err(|source| RunError::File {
        path: path.to_owned(),
        source,
    })?;
    Ok(Arc::new(opened.into()))
}

/// (read end, write end)
fn pipe() -> Result<(OwnedFd, OwnedFd), LaunchError> {
    pipe_with(PipeFlags::CLOEXEC).map_err(|error| os("create a pipe")(error.into()))
}
