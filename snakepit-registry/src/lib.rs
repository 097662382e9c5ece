//! Durable record of what a Snakepit host has started, and the cleanup after hosts that died.
//!
//! - [`Registry`] is a [`Ledger`](snakepit_core::ledger::Ledger) that outlives the host: one store for each run, in a
//!   directory that is locked as long as the host lives.
//! - [`cleanup`] ends what dead hosts have left: exactly that, and nothing else.
//! - [`Settings`] says where records are and what happens when the disk does not play along.
//!
//! It does not end what a living host has started (one that is stopped lives), does not tell hosts of each other, and finds
//! nothing that has replaced its environment and was never recorded, unless it is in a cgroup of the run. What became another
//! user's process is ended by a cleanup that root runs, and by no other. What was recorded in another PID namespace is not
//! identified: of that, only what is seen by environment or cgroup is ended. After a reboot nothing is looked for.
//!
//! ```
//! use snakepit_registry::{Registry, Settings, cleanup::{self, CleanupOptions}};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let state = tempfile::tempdir()?;
//! let settings = Settings::new().with_app("billing").with_state_dir(state.path());
//! let report = cleanup::run(&CleanupOptions::at_start(&settings)).await?;
//! assert!(report.is_clean());
//!
//! let registry = Registry::join(&settings).await?;
//! // Pools record what they start in it: `GrpcWorkerSpec::new(events, launcher, registry.clone(), ...)`.
//! registry.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Files
//!
//! In the state directory of the user, unless the settings name another one:
//!
//! ```text
//! STATE/APP/RUN_ID/             one run; there while its host lives, or while something of it may be left
//!     lock                      locked by flock(2) as long as the host lives
//!     host                      who the host is: `snakepit-host 1`, then lines of a word and its value
//!     rows                      how many rows the store has, at least
//!     store/                    sled 0.34; the key `version` has the version, `worker/ID` a row as JSON
//! STATE/APP/.new-RUN_ID/        a run being made
//! STATE/APP/.gone-RUN_ID/       a run being removed
//! STATE/APP/.unreadable-RUN_ID/ a run whose store could not be read, kept to be looked at
//! ```
//!
//! A store of another version is refused with both versions named; fields that are not known are ignored.

pub mod cleanup;
mod host;
mod layout;
mod registry;
mod row;
mod run_dir;
mod settings;
mod store;
#[cfg(test)]
mod testing;
mod writer;

pub use layout::DirError;
pub use registry::{OpenError, Registry};
pub use settings::{AppNameError, Policy, Settings, check_app, default_state_dir};
pub use store::StoreError;
