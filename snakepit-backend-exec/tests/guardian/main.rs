//! The guardian, by its protocol: the real program, real processes, and a host of the tests' own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod client;
mod deaths;
mod endings;
mod gate;
mod nonsense;
mod spare;
#[allow(dead_code, reason = "a part of it is spoken by these tests")]
#[path = "../../src/wire.rs"]
mod wire;
mod yard;
