//! Supervision, workers and the pool of Snakepit.
//!
//! This crate knows what a supervised worker is and how to lend it to callers. It does not know how a process
//! is started (a [`Launcher`](launch::Launcher) does that) nor where started processes are recorded
//! (a [`Ledger`](ledger::Ledger) does). Most programs use the `snakepit` crate, which brings a launcher along.
//!
//! ```text
//! Supervisor (dynamic)
//! └── Starter (permanent)             one per slot
//!     ├── Worker (transient) ── process    via a Launcher
//!     └── Resource*                        e.g. metrics
//! ```
//!
//! - [`supervision`]: restart policies and intensity, [`Supervisor`](supervision::Supervisor) and
//!   [`Starter`](supervision::Starter) with their engines, resources of a slot.
//! - [`worker`]: one live process with its channel.
//! - [`pool`]: queue, dispatch, deadlines.
//! - [`rpc`]: the protocol seen from the host, and the codec of values.
//! - [`process`]: what an operating system process is to us.
//! - [`launch`], [`ledger`]: the seams to backends and to the registry.
//! - [`host`]: functions of the host that Python code can call.
//! - [`event`]: every state change as one typed stream.
//! - [`testing`]: fakes, to test a service without Python.
//!
//! # Features
//!
//! - `conformance` (off by default): the module `conformance`, a suite that tries any launcher against the contract.

mod arena;
mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod event;
pub mod host;
pub mod id;
pub mod launch;
pub mod ledger;
pub mod pool;
pub mod process;
pub mod rpc;
pub mod supervision;
pub mod testing;
pub mod worker;

pub use id::{RunId, SlotId, WorkerId};
