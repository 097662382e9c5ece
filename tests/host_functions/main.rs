//! Python code calls functions of the host.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../common/mod.rs"]
mod common;

mod endings;
mod errors;
mod forms;
mod support;
mod values;
