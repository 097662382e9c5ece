//! Creating the process.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process_group},
};

use super::owned::{OwnedChild, Reaper};
use crate::{
    launch::{
        ChannelForm, LaunchError, LaunchSpec, ProcessIo, check_cwd, prepare::environment_changes,
        resolve_program,
    },
    process::{Pidfd, ProcessIdentity},
};

/// A process that was just created, and the host's ends of its descriptors. Dropping it leaves no process.
#[derive(Debug)]
pub(super) struct Spawned {
    pub(super) child: OwnedChild,
    pub(super) io: ProcessIo,
}

/// Creates the process, or leaves nothing behind.
///
/// Blocks until the program has been executed.
pub(super) fn spawn(
    spec: &LaunchSpec,
    spawn: impl FnOnce(&mut Command) -> io::Result<Child>,
) -> Result<Spawned, LaunchError> {
    if let Some(path) = &spec.cwd {
        // The system has one error for a missing program and a missing directory, so this one is asked first.
        check_cwd(path).map_err(|source| LaunchError::Cwd {
            path: path.clone(),
            source,
        })?;
    }
    let (child, channel) = create(spec, spawn)?;
    let mut child = Fresh(Some(child));
    let pidfd = Pidfd::open(child.id()).map_err(os("open a pidfd of the new process"))?;
    let identity = identify(&pidfd)?;
    let mut child = child.take();
    let io = ProcessIo {
        channel,
        stdout: child.stdout.take().map(OwnedFd::from),
        stderr: child.stderr.take().map(OwnedFd::from),
    };
    Ok(Spawned {
        child: OwnedChild::new(Reaper::Us(child), Arc::new(pidfd), identity, spec),
        io,
    })
}

/// Who the new process is, which must lead a group of its own.
pub(super) fn identify(pidfd: &Pidfd) -> Result<ProcessIdentity, LaunchError> {
    let identity = ProcessIdentity::of(pidfd).map_err(os("read the identity of the new process"))?;
    if identity.pgid != identity.pid {
        let error = io::Error::other("it does not lead a process group");
        return Err(os("start the process in a group of its own")(error));
    }
    Ok(identity)
}

/// Starts the program. The `Command` holds the child's end of the channel: it goes when this returns, and then
/// the child alone keeps it open.
fn create(
    spec: &LaunchSpec,
    spawn: impl FnOnce(&mut Command) -> io::Result<Child>,
) -> Result<(Child, Option<UnixStream>), LaunchError> {
    let exec = |source| LaunchError::Exec {
        program: spec.program.clone(),
        source,
    };
    // With a path there is no look-up left to do for the standard library, which would leave posix_spawn(3)
    // for fork(2) if the spec sets `PATH`.
    let program = resolve_program(&spec.program).map_err(exec)?;
    let mut command = Command::new(program);
    command.args(&spec.args);
    for (name, value) in environment_changes(spec).map_err(os("set the environment"))? {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
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
    match spawn(&mut command) {
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

fn os(step: &'static str) -> impl FnOnce(io::Error) -> LaunchError {
    move |source| LaunchError::Os { step, source }
}

/// A child nothing is known of but its pid. Dropping it kills and reaps it.
struct Fresh(Option<Child>);

impl Fresh {
    fn id(&self) -> u32 {
        self.0.as_ref().map_or(0, Child::id)
    }

    fn take(&mut self) -> Child {
        self.0.take().expect("it is taken once")
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // It is not reaped, so that its number is its own, as that of a process and as that of a group. A kill can
            // fail only if it leads no group, or somebody else reaped it; and then there is nothing to wait for.
            let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
