//! Programs as such: run, talk to, end. No pool, no worker protocol.
//!
//! The surface of Erlang's [erlexec](https://github.com/saleyn/erlexec), as a Rust API: an [`Exec`] runs
//! [`Command`]s below a guardian, and whatever becomes of the host, of the program, or of what the program started,
//! nothing is left in the end.
//!
//! | erlexec | here |
//! |---|---|
//! | `run` | [`Exec::run`] |
//! | `run` with `sync`, `stdout`, `stderr` | [`Exec::run_with_output`] |
//! | `stop`, `stop_and_wait` | [`Running::stop`]: resolves when the tree is empty |
//! | `kill` | [`Running::signal`], [`signal_group`](Running::signal_group), [`signal_tree`](Running::signal_tree) |
//! | `send`, `send(eof)` | [`Running::send`], [`Running::close_stdin`] |
//! | `which_children` | [`Exec::which_children`] |
//! | `manage` | [`Exec::manage`], by [`ProcessIdentity`] and not by pid |
//! | `monitor` | [`Exec::monitor`]; [`Running::exited`] for one |
//! | `link` | the [`Running`] itself: dropping it ends the process |
//! | `env` (with `false`, `clear`), `cd`, `executable` | [`Command::env`], [`env_remove`](Command::env_remove), [`env_clear`](Command::env_clear), [`cwd`](Command::cwd), [`argv0`](Command::argv0) |
//! | `stdin`, `stdout`, `stderr` | [`Command::stdin`] and so on, with a [`Route`] |
//! | `kill` command, `kill_timeout` | [`Command::stop_command`], [`Command::grace`] |
//! | `success_exit_code` | [`Command::success_codes`] |
//! | `user`, `group`, `nice` | [`Command::user`], [`group`](Command::group), [`limits`](Command::limits) |
//! | `pty` | none: a terminal is out of scope |
//!
//! An argument is an argument: there is no shell unless the program is one.
//!
//! ```
//! use snakepit_backend_exec::exec::{Command, Exec, Route};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let exec = Exec::default();
//! let output = exec.run_with_output(Command::new("echo").arg("$HOME")).await?;
//! assert_eq!(output.stdout, b"$HOME\n");
//!
//! let mut cat = exec.run(Command::new("cat").stdin(Route::Pipe).stdout(Route::Pipe)).await?;
//! cat.send(b"hello").await?;
//! cat.close_stdin();
//! assert!(cat.exited().await.is_success());
//! # Ok(())
//! # }
//! ```

mod command;
mod error;
mod managed;
mod monitor;
mod output;
mod route;
mod running;
mod stop;
mod user;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};

use snakepit_core::process::{ContainmentLevel, ProcessIdentity};

pub use self::{
    command::Command,
    error::{ManageError, OutputError, RunError},
    managed::Managed,
    monitor::{Exit, Monitor},
    output::Output,
    route::{FileMode, Route},
    running::Running,
    user::{Group, User},
};
use self::{managed::ManagedProcess, monitor::Exits, running::Shared};
use crate::{
    containment::{ContainmentError, ContainmentReport},
    engine::{Engine, Shutdown},
    launcher::ExecLauncher,
    settings::ExecSettings,
};

/// Runs programs below a guardian; see the [module's documentation](self).
///
/// A clone is another handle on the same one. The guardian starts with the first program, or with
/// [`ready`](Self::ready), and leaves when the last handle and the last program are gone.
#[derive(Clone, Debug)]
pub struct Exec {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) engine: Arc<Engine>,
    /// Where stop commands run: outside of the PID namespaces, so that they can name the process they stop.
    outside: OnceLock<Arc<Engine>>,
    running: Mutex<Vec<Weak<Shared>>>,
    managed: Mutex<Vec<Weak<ManagedProcess>>>,
    pub(crate) exits: Exits,
}

/// One of the programs that run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Child {
    /// Who it is.
    pub identity: ProcessIdentity,
    /// Its program; `None` for one that is only managed.
    pub program: Option<PathBuf>,
}

impl Default for Exec {
    fn default() -> Self {
        Self::new(ExecSettings::default())
    }
}

impl Exec {
    /// One with a guardian of its own. Nothing is started yet. [`ExecLauncher::exec`] shares a launcher's.
    pub fn new(settings: ExecSettings) -> Self {
        ExecLauncher::new(settings).exec()
    }

    pub(crate) fn over(engine: Arc<Engine>) -> Self {
        Self {
            inner: Arc::new(Inner {
                engine,
                outside: OnceLock::new(),
                running: Mutex::default(),
                managed: Mutex::default(),
                exits: Exits::new(),
            }),
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
        self.inner.engine.ready().await
    }

    /// Runs a program. It has been executed when this returns.
    ///
    /// # Errors
    /// [`RunError::Launch`] with [`LaunchError::Exec`](snakepit_core::launch::LaunchError::Exec) where the program
    /// cannot be executed, and with its other variants for settings; [`RunError`]'s own for users, groups and files.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time enabled.
    ///
    /// # Cancel safety
    /// Dropping the future leaves no process.
    pub async fn run(&self, command: Command) -> Result<Running, RunError> {
        let running = running::run(&self.inner, command).await?;
        let mut all = lock(&self.inner.running);
        all.retain(|one| one.strong_count() > 0);
        all.push(Arc::downgrade(running.shared()));
        drop(all);
        running.watch();
        Ok(running)
    }

    /// Runs a program to its end and collects what it writes, both standard output and standard error. What it has
    /// started and left behind ends too, with the command's grace.
    ///
    /// # Errors
    /// [`OutputError::Unsuccessful`], with the output, when it ends other than with one of its success codes.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time enabled.
    ///
    /// # Cancel safety
    /// Dropping the future leaves no process.
    pub async fn run_with_output(&self, command: Command) -> Result<Output, OutputError> {
        let codes = command.codes().to_vec();
        let command = command.stdout(Route::Pipe).stderr_unless_routed(Route::Pipe);
        output::collect(self.run(command).await?, &codes).await
    }

    /// Adopts a process that somebody else started: it is ended when the host dies, as those that were started here.
    ///
    /// # Errors
    /// [`ManageError::Gone`] when exactly this process does not run any more.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn manage(&self, identity: &ProcessIdentity) -> Result<Managed, ManageError> {
        let process = ManagedProcess::adopt(&self.inner, identity).await?;
        let mut all = lock(&self.inner.managed);
        all.retain(|one| one.strong_count() > 0);
        all.push(Arc::downgrade(&process));
        drop(all);
        Ok(Managed::new(process))
    }

    /// The programs that run now, the managed processes among them, oldest first of each kind.
    pub fn which_children(&self) -> Vec<Child> {
        let running = lock(&self.inner.running);
        let running = running
            .iter()
            .filter_map(Weak::upgrade)
            .filter_map(|one| one.child());
        let mut children: Vec<Child> = running.collect();
        let managed = lock(&self.inner.managed);
        children.extend(
            managed
                .iter()
                .filter_map(Weak::upgrade)
                .filter_map(|one| one.child()),
        );
        children
    }

    /// Tells of every end from now on.
    pub fn monitor(&self) -> Monitor {
        self.inner.exits.monitor()
    }

    /// Ends every program, with this grace for each, and returns when the guardian has left. Managed processes are
    /// released.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time enabled.
    ///
    /// # Cancel safety
    /// Ends that were asked for go on when the future is dropped.
    pub async fn shutdown(&self, grace: Duration) -> Shutdown {
        for one in lock(&self.inner.managed).drain(..) {
            if let Some(one) = one.upgrade() {
                one.release();
            }
        }
        if let Some(outside) = self.inner.outside.get() {
            outside.shutdown(Duration::ZERO).await;
        }
        self.inner.engine.shutdown(grace).await
    }
}

impl Inner {
    /// Where a process has the pid that the host knows it by.
    pub(crate) fn outside(&self) -> &Arc<Engine> {
        match self.engine.report() {
            Some(report) if report.level != ContainmentLevel::Namespace => &self.engine,
            _ => self.outside.get_or_init(|| {
                let settings = self.engine.settings().clone();
                Arc::new(Engine::new(
                    settings
                        .with_containment(ContainmentLevel::Subreaper)
                        .with_shared_namespace(false),
                ))
            }),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each use leaves what it guards whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
