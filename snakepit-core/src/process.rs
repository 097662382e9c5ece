//! What an operating system process is to us: identity, exit outcome, tree, signals.
//!
//! - [`ProcessIdentity`] says who a process is, for longer than its pid does, and finds it again.
//! - [`Pidfd`] is a hold on one process: signals, waiting for its end.
//! - [`ProcessGroup`], [`descendants`] and [`sweep`](sweep::sweep) say what belongs to it.
//! - [`Containment`] says what keeps a process from getting away, and [`cgroup`] is one such thing.
//! - [`Tree`] ends all of that, and confirms that nothing is left.
//!
//! `unsafe` in this module lives in its file `sys.rs` alone.

pub mod cgroup;
mod containment;
mod ending;
mod exit;
mod group;
mod identity;
mod pidfd;
mod proc_dir;
mod stat;
pub mod sweep;
mod sys;
#[cfg(test)]
mod testing;
mod tree;

pub use containment::{Containment, ContainmentLevel};
pub use ending::{Tree, TreeEnd};
pub use exit::{EndReport, EndStep, ExitOutcome};
pub use group::ProcessGroup;
pub use identity::{IdentifyError, PidfsHandle, ProcessIdentity, boot_id, pid_namespace};
pub use pidfd::Pidfd;
pub use stat::Stat;
pub use tree::{Member, descendants, ourselves_and_ancestors};
