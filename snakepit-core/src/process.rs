//! What an operating system process is to us: identity, exit outcome, tree, signals.
//!
//! `unsafe` in this crate lives in [`sys`] alone.

mod exit;
mod identity;

pub use exit::{EndReport, EndStep, ExitOutcome};
pub use identity::{PidfsHandle, ProcessIdentity};
