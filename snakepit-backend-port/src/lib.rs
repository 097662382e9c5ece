//! Workers as direct children of the host, in the style of Erlang ports.
//!
//! [`PortLauncher`] starts a program in a process group of its own. Its standard input is one end of a
//! socketpair, the channel; standard output and error are pipes. There is no helper process and nothing to
//! install, and starting costs what posix_spawn(3) costs, however large the host is.
//!
//! # What it promises
//!
//! - *Ending a worker ends its tree.* [`end`](snakepit_core::launch::LaunchedProcess::end) returns when nothing
//!   is left of the worker, its group, its descendants, and whatever daemon they left behind: members that
//!   ignore SIGTERM, that are stopped, that went to sessions of their own. It says which step that took, and
//!   names what no signal could end.
//! - *Only what was started is signalled.* Signals go through pidfds and through the group's leader, never to
//!   a number that may have a new owner.
//! - *Nothing leaks.* A launch that fails or is dropped leaves no process; dropping the last handle of a process
//!   kills it; a worker inherits descriptors 0, 1 and 2 and no other one of ours.
//! - *Every exit is known* within about a millisecond, with its exact code or signal.
//!
//! # What it does not promise
//!
//! A direct child learns of its host's death by end-of-file on its channel; the Snakepit runtime also watches the
//! process that started it. So **when the host is killed**,
//!
//! | the worker | what is left |
//! |---|---|
//! | runs the Snakepit runtime | nothing: the runtime ends its descendants and itself, also while Python computes |
//! | is another program on an inherited channel that ends at end-of-file | what it started and did not end |
//! | is a program that does not read its standard input | that program, and what it started |
//!
//! On a Unix path another program than the Snakepit runtime has no such end-of-file: it is left, with what it started.
//! And what a worker started is left when the worker is killed at the same instant as the host, or was stopped (SIGSTOP)
//! then. What is left is found by a cleanup, by a ledger that outlives the host and by its environment. With a guardian, as
//! snakepit-backend-exec has one, it is not left in the first place.
//!
//! A host that panics, or shuts its runtime down, kills its workers' groups and descendants and does not stay to look for
//! daemons: those of a program that does not adopt its orphans, as the Snakepit runtime does, are left.
//!
//! While the host lives, a process is not found when it left the worker's group, was orphaned *and* cleared its
//! environment, nor when it changed to a user that we may not look into (or made itself undumpable, prctl(2)). What a worker handed to a daemon
//! of the system (`at`, `systemd-run`, a container engine) is not part of its tree.
//!
//! Descriptors that the host itself opened without close-on-exec pass to its workers, as to any child. The standard
//! library and tokio open none like that.
//!
//! There is **no gate** for a foreign program: it runs from the moment it is created. The Snakepit runtime waits
//! for the preamble on its channel and imports nothing before.
//!
//! A host that ignores SIGTERM hands that on to its workers, as to any child; they are killed after their grace then.
//!
//! Limits ([`LaunchLimits`](snakepit_core::launch::LaunchLimits)) are refused: setting a user or a niceness
//! needs a hook between fork and exec, which costs a copy of the host's page tables for every start.
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//! use snakepit_backend_port::PortLauncher;
//! use snakepit_core::{RunId, WorkerId};
//! use snakepit_core::launch::{ChannelForm, LaunchLimits, LaunchSpec, Launcher};
//! use snakepit_core::process::ExitOutcome;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let spec = LaunchSpec {
//!     run_id: RunId::current(),
//!     worker_id: WorkerId::next(),
//!     program: "cat".into(),
//!     args: Vec::new(),
//!     env: Vec::new(),
//!     env_remove: Vec::new(),
//!     cwd: None,
//!     channel: ChannelForm::Inherited,
//!     limits: LaunchLimits::default(),
//! };
//! let process = PortLauncher::new().launch(&spec).await?;
//! // The host's end of the channel: dropping it is end-of-file for the worker.
//! drop(process.take_io());
//! assert_eq!(process.exited().await, ExitOutcome::Exited(0));
//! let report = process.end(Duration::from_secs(5)).await;
//! assert!(report.remaining.is_empty());
//! # Ok(())
//! # }
//! ```

mod launcher;

pub use launcher::PortLauncher;
