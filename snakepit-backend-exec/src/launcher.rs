//! The launcher.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use rustix::pipe::{PipeFlags, pipe_with};
use snakepit_core::launch::{
    ChannelForm, LaunchError, LaunchSpec, LaunchedProcess, Launcher, ProcessIo, check_cwd, environment,
    resolve_program,
};

use crate::{
    containment::{ContainmentError, ContainmentReport},
    engine::{Engine, Shutdown},
    exec::Exec,
    process::ExecProcess,
    request::{Program, Standard, os},
    settings::ExecSettings,
};

/// The name users choose this backend by.
pub(crate) const NAME: &str = "exec";

/// Starts workers below a guardian; see the [crate's documentation](crate) for what that promises.
///
/// The guardian starts with the first launch, or with [`ready`](Self::ready), and again after it died. A clone is
/// another handle on the same launcher; when the last one and the last process are dropped, the guardian leaves.
///
/// Programs without a slash are looked up in the host's `PATH`, relative ones start from the host's working
/// directory, also when the spec names another `cwd` or `PATH`. Standard output and error of a process are
/// pipes that the host has to drain: a worker that fills one waits.
#[derive(Clone, Debug)]
pub struct ExecLauncher {
    pub(crate) engine: Arc<Engine>,
}

impl Default for ExecLauncher {
    fn default() -> Self {
        Self::new(ExecSettings::default())
    }
}

impl ExecLauncher {
    /// A launcher. Nothing is started yet.
    pub fn new(settings: ExecSettings) -> Self {
        Self {
            engine: Arc::new(Engine::new(settings)),
        }
    }

    /// Starts the guardian, if it does not run, and says how it contains processes.
    ///
    /// # Errors
    /// When the level that was asked for is not available, or none is.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time enabled.
    ///
    /// # Cancel safety
    /// Dropping the future leaves no guardian.
    pub async fn ready(&self) -> Result<ContainmentReport, ContainmentError> {
        self.engine.ready().await
    }

    /// How processes are contained; `None` before the first guardian was started.
    pub fn containment(&self) -> Option<ContainmentReport> {
        self.engine.report()
    }

    /// The process id of the guardian; `None` while there is none.
    pub fn guardian_pid(&self) -> Option<u32> {
        self.engine.alive_guardian().map(|lease| lease.pidfd().pid())
    }

    /// Ends every process, with this grace for each, and returns when the guardian has left: it does so when
    /// nothing is left of the last tree, and at once then. A later launch starts another guardian.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time enabled.
    ///
    /// # Cancel safety
    /// Ends that were asked for go on when the future is dropped.
    pub async fn shutdown(&self, grace: Duration) -> Shutdown {
        self.engine.shutdown(grace).await
    }

    /// The other face of the same guardian: programs as such, without a pool.
    pub fn exec(&self) -> Exec {
        Exec::over(Arc::clone(&self.engine))
    }
}

#[async_trait]
impl Launcher for ExecLauncher {
    fn name(&self) -> &str {
        NAME
    }

    fn holds(&self) -> bool {
        true
    }

    /// # Errors
    /// [`LaunchError::Cwd`] and [`LaunchError::Exec`] for what they name, [`LaunchError::Unavailable`] for a limit that
    /// cannot be had here, [`LaunchError::Backend`] around a [`ContainmentError`] where no process can be contained as asked
    /// for, [`LaunchError::Os`] for everything else.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time enabled.
    async fn launch(&self, spec: &LaunchSpec) -> Result<Arc<dyn LaunchedProcess>, LaunchError> {
        let path = find(spec).await?;
        let (program, standard, io) = prepare(spec, path)?;
        let proc = self.engine.spawn(program, standard).await?;
        Ok(Arc::new(ExecProcess::new(proc, io)))
    }
}

fn prepare(spec: &LaunchSpec, path: PathBuf) -> Result<(Program, Standard, ProcessIo), LaunchError> {
    let mut argv = vec![path.clone().into_os_string()];
    argv.extend(spec.args.iter().cloned());
    let program = Program {
        name: spec.program.clone(),
        path,
        argv,
        environment: environment(spec).map_err(os("set the environment"))?,
        cwd: spec.cwd.clone(),
        limits: spec.limits.clone(),
        run_id: spec.run_id,
        worker_id: spec.worker_id,
    };
    let (stdin, channel) = if spec.channel == ChannelForm::Inherited {
        let (ours, theirs) = UnixStream::pair().map_err(os("create the channel"))?;
        (OwnedFd::from(theirs), Some(ours))
    } else {
        (null().map_err(os("open /dev/null"))?, None)
    };
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|error| os("create a pipe")(error.into()));
    let (stdout, stdout_theirs) = pipe()?;
    let (stderr, stderr_theirs) = pipe()?;
    let io = ProcessIo {
        channel,
        stdout: Some(stdout),
        stderr: Some(stderr),
    };
    let standard = [stdin, stdout_theirs, stderr_theirs].map(Arc::new);
    Ok((program, standard, io))
}

/// The path of the program, and a look at the working directory. What is wrong with a path is told when it is executed:
/// only a name in `PATH` and a directory are worth the wait for disks, in a thread that may wait.
async fn find(spec: &LaunchSpec) -> Result<PathBuf, LaunchError> {
    let is_path = spec.program.as_os_str().as_encoded_bytes().contains(&b'/');
    if is_path && spec.cwd.is_none() {
        return look_up(&spec.program, None);
    }
    let (program, cwd) = (spec.program.clone(), spec.cwd.clone());
    let looked = tokio::task::spawn_blocking(move || look_up(&program, cwd.as_deref())).await;
    looked.map_err(|error| os("run the thread that looks the program up")(error.into()))?
}

fn look_up(program: &Path, cwd: Option<&Path>) -> Result<PathBuf, LaunchError> {
    if let Some(path) = cwd {
        check_cwd(path).map_err(|source| LaunchError::Cwd {
            path: path.to_owned(),
            source,
        })?;
    }
    resolve_program(program).map_err(|source| LaunchError::Exec {
        program: program.to_owned(),
        source,
    })
}

pub(crate) fn null() -> io::Result<OwnedFd> {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    Ok(file.into())
}
