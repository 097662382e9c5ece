//! Workers below a guardian process, in the style of erlexec.
//!
//! [`ExecLauncher`] starts programs through a *guardian*: a small single-threaded process that the crate carries inside
//! itself and starts with the first launch. The guardian forks a *keeper* for each worker, and the keeper the
//! worker, both one ahead; the worker waits at its gate, and the keeper exits when, and only when, nothing is left of the worker's tree. Starting a worker costs
//! the same however large the host is. [`exec::Exec`] is the other face of the same engine: programs as such, without a pool.
//!
//! # What it promises
//!
//! - *The host dies, however: nothing is left.* Guardian and keepers hold a pidfd of the host. When it ends, each keeper
//!   ends its tree, and the guardian leaves with the last of them.
//! - *Ending a worker ends its tree.* [`end`](snakepit_core::launch::LaunchedProcess::end) returns when the keeper has
//!   found that it has no child left (`ECHILD`, wait(2)), which is proof and not a search.
//! - *The guardian dies or hangs: noticed, and nothing is left.* Its death is seen at once, a silence of
//!   [`with_stuck_after`](ExecSettings::with_stuck_after) counts as death. Its processes end, the host confirms that, and
//!   the next launch starts another guardian.
//! - *The gate holds any program.* Nothing of it has been executed before
//!   [`open_gate`](snakepit_core::launch::LaunchedProcess::open_gate).
//! - *A worker inherits descriptors 0, 1 and 2 and no other*, has all signals at their defaults, and leads a session of
//!   its own.
//! - *Limits are honoured or refused with the reason*, all of [`LaunchLimits`](snakepit_core::launch::LaunchLimits).
//!
//! | level | what holds a tree | host and guardian are killed together | and the keepers too |
//! |---|---|---|---|
//! | namespace | a PID namespace each, whose first process is the keeper | all gone, by the kernel | all gone, by the kernel |
//! | namespace, shared | one PID namespace, and a subreaper each | all gone, by the kernel | all gone, by the kernel |
//! | cgroup | a cgroup and a subreaper each | all gone, by the keepers | the worker gone; what it started stays in its cgroup for the next start |
//! | subreaper | a subreaper each | all gone, by the keepers | the worker gone; what it started is for the next start |
//!
//! The strongest level that is available is taken, and the [`ContainmentReport`] says which and why not a stronger one. A
//! level that was [asked for](ExecSettings::with_containment) is had or is an error. Without privileges a namespace needs a
//! user namespace, in which the host's user and group are the only ones: other ids are refused then.
//!
//! # What it does not promise
//!
//! - A process in state D ends when its system call returns. Until then an end is reported
//!   [incomplete](snakepit_core::process::EndStep::Incomplete), with what remains.
//! - At the subreaper level, where the host is not root: a descendant that became another user (a setuid program) cannot be
//!   signalled, so that its tree does not end, and its end is reported incomplete. The kernel ends it at the other levels.
//! - What is left where the table says so is ended by a cleanup after the host, if its ledger outlives it: this crate keeps no
//!   record.
//! - What a worker hands to a daemon of the system (`at`, `systemd-run`, a container engine) is not part of its tree.
//! - At the namespace levels a worker has its own process ids, and a `/proc` that shows them. What it tells others of its
//!   pid means nothing to them.
//! - A process that was [adopted](exec::Exec::manage) is only itself: what it starts is not looked for.
//! - There are no terminals (pty).
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//! use snakepit_backend_exec::ExecLauncher;
//! use snakepit_core::{RunId, WorkerId};
//! use snakepit_core::launch::{ChannelForm, LaunchLimits, LaunchSpec, Launcher};
//! use snakepit_core::process::ExitOutcome;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let launcher = ExecLauncher::default();
//! println!("containment: {}", launcher.ready().await?);
//! let spec = LaunchSpec {
//!     run_id: RunId::current(),
//!     worker_id: WorkerId::next(),
//!     program: "cat".into(),
//!     args: Vec::new(),
//!     env: Vec::new(),
//!     env_remove: Vec::new(),
//!     cwd: None,
//!     channel: ChannelForm::Inherited,
//!     limits: LaunchLimits::default().with_nice(5),
//! };
//! let process = launcher.launch(&spec).await?;
//! process.open_gate().await?;
//! // The host's end of the channel: dropping it is end-of-file for the worker.
//! drop(process.take_io());
//! assert_eq!(process.exited().await, ExitOutcome::Exited(0));
//! assert!(process.end(Duration::from_secs(5)).await.is_complete());
//! assert!(launcher.shutdown(Duration::ZERO).await.remaining.is_empty());
//! # Ok(())
//! # }
//! ```

mod cgroups;
mod containment;
mod embedded;
mod engine;
pub mod exec;
mod guardian;
mod launcher;
mod link;
mod proc;
mod process;
mod request;
mod settings;
mod steps;
mod sys;
mod task;
#[allow(dead_code, reason = "each side speaks a part of it")]
mod wire;

pub use containment::{ContainmentError, ContainmentReport, GuardianError, LevelRefused};
pub use engine::Shutdown;
pub use launcher::ExecLauncher;
pub use process::ExecProcess;
pub use settings::ExecSettings;
