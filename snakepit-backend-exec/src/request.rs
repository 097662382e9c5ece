//! What to start, in the form that both faces of the backend bring it into.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::File,
    io::{self, Write},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::PathBuf,
    sync::Arc,
};

use rustix::fs::{MemfdFlags, memfd_create};
use snakepit_core::{
    RunId, WorkerId,
    launch::{LaunchError, LaunchLimits},
};

use crate::wire::Spec;

/// A program to start.
pub(crate) struct Program {
    /// As whoever launches it named it.
    pub(crate) name: PathBuf,
    /// As it was found.
    pub(crate) path: PathBuf,
    /// Its own name first.
    pub(crate) argv: Vec<OsString>,
    pub(crate) environment: BTreeMap<OsString, OsString>,
    pub(crate) cwd: Option<PathBuf>,
    pub(crate) limits: LaunchLimits,
    pub(crate) run_id: RunId,
    pub(crate) worker_id: WorkerId,
}

/// The descriptors 0, 1 and 2 of a process.
pub(crate) type Standard = [Arc<OwnedFd>; 3];

impl Program {
    /// Checks what no kernel would accept, and writes the rest where the guardian reads it.
    pub(crate) fn to_memory_file(&self) -> Result<OwnedFd, LaunchError> {
        if self.argv.iter().any(|arg| arg.as_bytes().contains(&0)) {
            return Err(LaunchError::Exec {
                program: self.name.clone(),
                source: io::Error::new(io::ErrorKind::InvalidInput, "an argument has a NUL byte"),
            });
        }
        let write = || -> io::Result<OwnedFd> {
            let mut file = File::from(memfd_create("snakepit-spec", MemfdFlags::CLOEXEC)?);
            file.write_all(&self.spec().encode())?;
            Ok(file.into())
        };
        write().map_err(os("write down what to execute"))
    }

    fn spec(&self) -> Spec {
        let limits = &self.limits;
        let variable =
            |(name, value): (&OsString, &OsString)| [name.as_bytes(), b"=", value.as_bytes()].concat();
        Spec {
            program: bytes(self.path.as_os_str()),
            argv: self.argv.iter().map(|arg| bytes(arg)).collect(),
            environment: self.environment.iter().map(variable).collect(),
            cwd: self
                .cwd
                .as_deref()
                .map(|path| bytes(path.as_os_str()))
                .unwrap_or_default(),
            uid: limits.uid,
            gid: limits.gid,
            // Another user is not to have the groups of this one.
            groups: limits.groups.clone().or_else(|| limits.uid.map(|_| Vec::new())),
            nice: limits.nice,
            oom_score_adj: limits.oom_score_adj,
            rlimits: limits
                .rlimits
                .iter()
                .map(|limit| (limit.resource, limit.soft, limit.hard))
                .collect(),
        }
    }
}

fn bytes(text: &std::ffi::OsStr) -> Vec<u8> {
    text.as_bytes().to_vec()
}

/// The error of a step in the host.
pub(crate) fn os(step: &'static str) -> impl FnOnce(io::Error) -> LaunchError {
    move |source| LaunchError::Os { step, source }
}
