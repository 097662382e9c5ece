//! The seam to backends: how a [`LaunchSpec`] becomes a process.
//!
//! A backend implements [`Launcher`] and [`LaunchedProcess`]. The order in which a worker comes to life is
//! the same for all of them:
//!
//! 1. the ledger row is reserved and flushed;
//! 2. [`Launcher::launch`] creates the process, held at a gate;
//! 3. its identity is recorded and flushed;
//! 4. the gate opens ([`LaunchedProcess::open_gate`], then the preamble on an inherited channel);
//! 5. the handshake is answered and the adapters are imported: the worker is ready.
//!
//! No live worker ever lacks a row, and a failure at any step undoes all earlier ones.

use std::{
    ffi::OsString,
    fmt, io,
    net::SocketAddr,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
pub use child::ChildProcess;
pub use limits::{LaunchLimits, ResourceLimit};
pub use output::{StderrTail, drain};
pub use prepare::{NUMERIC_THREADS, check_cwd, environment, host_identity, resolve_program};
/// The variables by which a launcher tells a process its run, its worker and its channel.
pub use snakepit_proto::env;

use crate::{
    id::{RunId, WorkerId},
    process::{Containment, EndReport, ExitOutcome, ProcessIdentity},
};

mod child;
mod limits;
mod output;
mod prepare;

/// How host and worker reach each other.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChannelForm {
    /// A socketpair whose one end is the worker's standard input. Nobody else can connect, and the host's
    /// death is end-of-file.
    Inherited,
    /// The worker listens on this Unix socket path.
    Unix(PathBuf),
    /// The worker listens on this address.
    Tcp(SocketAddr),
}

impl fmt::Display for ChannelForm {
    /// The value of `SNAKEPIT_CHANNEL` that tells a worker its form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inherited => write!(f, "fd:0"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

/// What to start, and as which worker. Its environment is what [`environment`] makes of it.
#[derive(Clone, Debug)]
pub struct LaunchSpec {
    /// The run that starts it.
    pub run_id: RunId,
    /// The worker it will be.
    pub worker_id: WorkerId,
    /// The program; a name without a slash is looked up in the host's `PATH`.
    pub program: PathBuf,
    /// Arguments after the program's name, passed as they are: there is no shell.
    pub args: Vec<OsString>,
    /// Variables to set.
    pub env: Vec<(OsString, OsString)>,
    /// Variables not to pass on.
    pub env_remove: Vec<OsString>,
    /// Working directory; `None` is the host's.
    pub cwd: Option<PathBuf>,
    /// How host and worker reach each other.
    pub channel: ChannelForm,
    /// Settings only some backends can honour.
    pub limits: LaunchLimits,
}

/// The descriptors of a process that are the host's to use. Each is `None` where the launcher has none.
#[derive(Debug, Default)]
pub struct ProcessIo {
    /// The host's end of an inherited channel.
    pub channel: Option<UnixStream>,
    /// The read end of its standard output.
    pub stdout: Option<OwnedFd>,
    /// The read end of its standard error.
    pub stderr: Option<OwnedFd>,
}

/// A backend: starts processes.
///
/// The contract, in prose: `launch` either returns a process or leaves nothing behind; dropping its future
/// at any await point leaves nothing behind either. The process is held at its gate, or the launcher's
/// documentation says that it has none. A setting that cannot be honoured is an error, never ignored.
///
/// What the program finds: exactly the [`environment`] and the arguments of its spec, the directory asked for or the
/// host's, a process group that is not the host's, no signal blocked and none ignored that the host does not ignore
/// (SIGPIPE, which Rust programs ignore, never). Standard input is its end of an inherited channel, and `/dev/null` with
/// the other forms; standard output and error are pipes; there is no further descriptor but those that the host opened
/// without close-on-exec, and fewer are better.
///
/// The module `conformance`, behind the feature of that name, tries a launcher against all of this. Where the processes
/// are direct children, [`ChildProcess`] keeps most of it.
#[async_trait]
pub trait Launcher: Send + Sync + fmt::Debug {
    /// The name by which users choose this backend, as in `port`.
    fn name(&self) -> &str;

    /// Whether a launched process is held before it executes its program. It costs next to nothing until its gate opens then,
    /// and any number of them may be held at a time, so that they are recorded together. The default says no.
    fn holds(&self) -> bool {
        false
    }

    /// A launcher like this one that begins anew with what this one has prepared from files, as a process that others are
    /// forked from. `None`, the default, is one that prepares nothing.
    fn renewed(&self) -> Option<Arc<dyn Launcher>> {
        None
    }

    /// Ends what it keeps running for further launches; what it has launched is not touched. A launch afterwards starts it
    /// again. By default there is nothing.
    ///
    /// # Cancel safety
    /// The ending goes on when the future is dropped.
    async fn close(&self) {}

    /// Creates the process, held at its gate.
    ///
    /// # Errors
    /// When the process could not be created; nothing of it is left then.
    ///
    /// # Cancel safety
    /// Dropping the future leaves no process behind.
    async fn launch(&self, spec: &LaunchSpec) -> Result<Arc<dyn LaunchedProcess>, LaunchError>;
}

/// A process that a [`Launcher`] started: it is ours to signal and to end.
///
/// Dropping the last handle of a process that was not ended kills it, at once and without grace, as a last
/// defence; [`end`](Self::end) is the way out.
#[async_trait]
pub trait LaunchedProcess: Send + Sync + fmt::Debug {
    /// Who it is; what the ledger records.
    fn identity(&self) -> &ProcessIdentity;

    /// What keeps it, and what it starts, from getting away; what the ledger records beside the identity. The
    /// default is nothing.
    fn containment(&self) -> Containment {
        Containment::default()
    }

    /// Hands out its descriptors, once; later calls return an empty set.
    fn take_io(&self) -> ProcessIo;

    /// Lets the process go on from where it is held. A launcher whose gate is the preamble does nothing here.
    ///
    /// # Errors
    /// [`LaunchError::Exec`] when the program cannot be executed, which a launcher that holds it at a gate learns here.
    /// When the process cannot be let go; in any case it must be ended then.
    async fn open_gate(&self) -> Result<(), LaunchError>;

    /// Waits until the process itself (not its tree) has ended. Repeated and concurrent waits agree.
    ///
    /// # Cancel safety
    /// Safe; nothing is lost.
    async fn exited(&self) -> ExitOutcome;

    /// How the process ended, if it has; does not wait.
    fn try_exited(&self) -> Option<ExitOutcome>;

    /// Sends a signal to the process itself; `Ok` when it has already ended.
    ///
    /// # Errors
    /// What pidfd_send_signal(2) answers.
    fn signal(&self, signal: i32) -> io::Result<()>;

    /// Ends the process and everything it started: SIGTERM and SIGCONT, up to `grace` for the tree to become
    /// empty, then SIGKILL, then confirmation. Repeated and concurrent calls agree; a shorter grace wins.
    ///
    /// # Cancel safety
    /// The ending goes on when the future is dropped.
    async fn end(&self, grace: Duration) -> EndReport;
}

/// Why a process could not be launched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The program could not be executed.
    #[error("cannot execute {}", program.display())]
    Exec {
        /// The program as given.
        program: PathBuf,
        /// What execve(2) or the look-up in `PATH` answered.
        #[source]
        source: io::Error,
    },
    /// The working directory is not usable.
    #[error("cannot use {} as working directory", path.display())]
    Cwd {
        /// The directory as given.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The backend cannot honour a setting.
    #[error("the {launcher} backend cannot set {setting}; leave it unset or choose a backend that can")]
    Unsupported {
        /// The backend.
        launcher: String,
        /// The setting, as named in [`LaunchLimits`].
        setting: &'static str,
    },
    /// The backend could honour a setting, and what it runs on or under does not let it.
    #[error("cannot set {setting}: {reason}")]
    Unavailable {
        /// The setting, as named in [`LaunchLimits`]; or `affinity`.
        setting: &'static str,
        /// What stands in the way.
        reason: String,
        /// What the system answered, where it was asked.
        #[source]
        source: Option<io::Error>,
    },
    /// The backend cannot start anything here, as it is set up, and asking again changes nothing about it.
    #[error("the {launcher} backend cannot start workers as it is set up")]
    Backend {
        /// The backend.
        launcher: String,
        /// What stands in the way.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The operating system refused a step.
    #[error("cannot {step}")]
    Os {
        /// What was tried, as in `create the channel`.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl LaunchError {
    /// Whether trying again without a change cannot help. What the operating system refused counts as passing: it may have
    /// been short of something.
    pub const fn is_definite(&self) -> bool {
        match self {
            Self::Exec { .. }
            | Self::Cwd { .. }
            | Self::Unsupported { .. }
            | Self::Unavailable { .. }
            | Self::Backend { .. } => true,
            Self::Os { .. } => false,
        }
    }
}
