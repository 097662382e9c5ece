//! What a caller streams to a call.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in its helpers"
)]

#[path = "../common/mod.rs"]
mod common;
mod endings;
mod errors;
mod flow;
mod forms;
mod support;
