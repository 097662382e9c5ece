//! Whether a backend keeps the contract of [`launch`](crate::launch), and what it promises beyond it.
//!
//! A backend's test is a program of its own (`harness = false` in `Cargo.toml`), because what becomes of workers whose
//! host is killed takes a host that can be killed: the suite runs the program anew for that.
//!
//! ```no_run
//! use std::{process::ExitCode, sync::Arc};
//! use snakepit_core::{conformance::{self, Candidate}, launch::Launcher};
//! # use snakepit_core::launch::{LaunchError, LaunchSpec, LaunchedProcess};
//! # #[derive(Debug)]
//! # struct MyLauncher;
//! # #[async_trait::async_trait]
//! # impl Launcher for MyLauncher {
//! #     fn name(&self) -> &str { "mine" }
//! #     async fn launch(&self, _: &LaunchSpec) -> Result<Arc<dyn LaunchedProcess>, LaunchError> { unimplemented!() }
//! # }
//!
//! fn main() -> ExitCode {
//!     conformance::main(&[Candidate::new("mine", async || Ok(Arc::new(MyLauncher) as Arc<dyn Launcher>))])
//! }
//! ```
//!
//! - [`main`] runs everything for some [`Candidate`]s and prints it; an argument picks the cases whose sentence has it.
//! - [`Suite`] is one run of the cases on one candidate, [`Report`] what came of it, case by case.
//! - A case of the **contract** must pass. A **promise** is measured: kept, or not. Of the settings in
//!   [`LaunchLimits`](crate::launch::LaunchLimits) each may be refused, but a backend that accepts one and does not
//!   apply it has failed.
//!
//! The fixtures are scripts for `/bin/sh` in a temporary directory, and need the programs that every Linux system has.
//! They are known by the directory in their arguments, in whatever PID namespace they are, and are ended by pidfd when
//! their case is over, also when it has failed.

mod contract;
mod deaths;
mod evidence;
mod ground;
mod host;
mod limits;
mod marks;
mod promises;
mod report;
mod suite;

pub use host::{Candidate, Hosted, StartHosted, StartingHosted, become_host};
pub use report::{Case, CaseKind, Outcome, Report, Verdict};
pub use suite::{Suite, main};
