//! Creating the process.

use std::{
    ffi::OsStr,
    io,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use command_group::{CommandGroup, GroupChild};
use rustix::{
    fs::{Access, access},
    io::Errno,
};
use snakepit_core::{
    launch::{ChannelForm, LaunchError, LaunchSpec, ProcessIo, env},
    process::{Pidfd, ProcessIdentity},
};

use crate::owned::OwnedChild;

/// The search path of execvp(3) where `PATH` is not set.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// A process that was just created, and the host's ends of its descriptors. Dropping it leaves no process.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) child: OwnedChild,
    pub(crate) io: ProcessIo,
}

/// Creates the process, or leaves nothing behind.
///
/// Blocks until the program has been executed.
pub(crate) fn spawn(spec: &LaunchSpec) -> Result<Spawned, LaunchError> {
    if let Some(path) = &spec.cwd {
        // The system has one error for a missing program and a missing directory, so this one is asked first.
        check_cwd(path).map_err(|source| LaunchError::Cwd {
            path: path.clone(),
            source,
        })?;
    }
    let (child, channel) = create(spec)?;
    let mut child = Fresh(Some(child));
    let pidfd = Pidfd::open(child.id()).map_err(os("open a pidfd of the new process"))?;
    let identity = ProcessIdentity::of(&pidfd).map_err(os("read the identity of the new process"))?;
    let mut child = child.take();
    let io = ProcessIo {
        channel,
        stdout: child.stdout.take().map(OwnedFd::from),
        stderr: child.stderr.take().map(OwnedFd::from),
    };
    Ok(Spawned {
        child: OwnedChild::new(child, Arc::new(pidfd), identity, spec),
        io,
    })
}

/// Starts the program. The `Command` holds the child's end of the channel: it goes when this returns, and then
/// the child alone keeps it open.
fn create(spec: &LaunchSpec) -> Result<(GroupChild, Option<UnixStream>), LaunchError> {
    let exec = |source| LaunchError::Exec {
        program: spec.program.clone(),
        source,
    };
    // With a path there is no look-up left to do for the standard library, which would leave posix_spawn(3)
    // for fork(2) if the spec sets `PATH`.
    let program = resolve(&spec.program).map_err(exec)?;
    let mut command = Command::new(program);
    command.args(&spec.args);
    set_env(&mut command, spec)?;
    if let Some(cwd) = &spec.cwd {
        command.current_dir(cwd);
    }
    let channel = if spec.channel == ChannelForm::Inherited {
        let (ours, theirs) = UnixStream::pair().map_err(os("create the channel"))?;
        command.stdin(OwnedFd::from(theirs));
        Some(ours)
    } else {
        command.stdin(Stdio::null());
        None
    };
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    match command.group_spawn() {
        Ok(child) => Ok((child, channel)),
        Err(source) => Err(match source.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE) => LaunchError::Os {
                step: "create the process",
                source,
            },
            _ => exec(source),
        }),
    }
}

/// Sets what the worker sees: the host's variables are inherited, the spec's changes come on top, ours last.
fn set_env(command: &mut Command, spec: &LaunchSpec) -> Result<(), LaunchError> {
    for name in &spec.env_remove {
        command.env_remove(name);
    }
    for (name, value) in &spec.env {
        check_variable(name).map_err(os("set the environment"))?;
        command.env(name, value);
    }
    command.env(env::RUN_ID, spec.run_id.to_string());
    command.env(env::WORKER_ID, spec.worker_id.0.to_string());
    command.env(env::CHANNEL, spec.channel.to_string());
    // A host inside a worker of another host: its workers carry both runs, so that either can find them.
    if let Some(outer) = outer_run_ids(
        std::env::var(env::RUN_ID).ok(),
        std::env::var(env::OUTER_RUN_IDS).ok(),
    ) {
        command.env(env::OUTER_RUN_IDS, outer);
    }
    Ok(())
}

/// The runs outside ours: those outside the host, then the one the host is a worker of.
fn outer_run_ids(host_run_id: Option<String>, host_outer: Option<String>) -> Option<String> {
    let host = host_run_id?;
    Some(match host_outer.filter(|list| !list.is_empty()) {
        Some(list) => format!("{list}:{host}"),
        None => host,
    })
}

fn check_variable(name: &OsStr) -> io::Result<()> {
    if name.is_empty() || name.as_bytes().contains(&b'=') || name.as_bytes().contains(&0) {
        let message = format!("`{}` is not the name of a variable", name.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    Ok(())
}

fn check_cwd(path: &Path) -> io::Result<()> {
    if !std::fs::metadata(path)?.is_dir() {
        return Err(Errno::NOTDIR.into());
    }
    Ok(access(path, Access::EXEC_OK)?)
}

/// The path of a program, looked up as execvp(3) does it.
fn resolve(program: &Path) -> io::Result<PathBuf> {
    if program.as_os_str().is_empty() {
        return Err(Errno::NOENT.into());
    }
    if program.as_os_str().as_bytes().contains(&b'/') {
        return std::path::absolute(program);
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let mut refused = Errno::NOENT;
    for dir in std::env::split_paths(&path) {
        let candidate = std::path::absolute(dir.join(program))?;
        if !candidate.is_file() {
            continue;
        }
        match access(&candidate, Access::EXEC_OK) {
            Ok(()) => return Ok(candidate),
            Err(error) => refused = error,
        }
    }
    Err(refused.into())
}

fn os(step: &'static str) -> impl FnOnce(io::Error) -> LaunchError {
    move |source| LaunchError::Os { step, source }
}

/// A child nothing is known of but its pid. Dropping it kills and reaps it.
struct Fresh(Option<GroupChild>);

impl Fresh {
    fn id(&self) -> u32 {
        self.0.as_ref().map_or(0, GroupChild::id)
    }

    fn take(&mut self) -> std::process::Child {
        self.0.take().expect("it is taken once").into_inner()
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // It is not reaped, so that the group's number is its own. A kill can fail only if somebody else
            // reaped it, and then there is nothing to wait for.
            let _ = child.kill();
            let _ = child.inner().wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outer_runs_are_listed_from_the_outside() {
        let outer = |host: Option<&str>, list: Option<&str>| {
            outer_run_ids(host.map(str::to_owned), list.map(str::to_owned))
        };
        assert_eq!(outer(None, None), None);
        assert_eq!(outer(None, Some("a")), None);
        assert_eq!(outer(Some("b"), None).unwrap(), "b");
        assert_eq!(outer(Some("b"), Some("")).unwrap(), "b");
        assert_eq!(outer(Some("c"), Some("a:b")).unwrap(), "a:b:c");
    }

    #[test]
    fn programs_are_found_as_execvp_finds_them() {
        assert!(resolve(Path::new("sh")).unwrap().is_absolute());
        assert!(resolve(Path::new("./x")).unwrap().is_absolute());
        for missing in ["", "no-such-program-anywhere"] {
            let error = resolve(Path::new(missing)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
        }
    }
}
