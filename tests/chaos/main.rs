//! The chaos suite: what is left when a host, its guardian, its workers or a cleanup are killed at any instant.
//!
//! Each round runs a real host program with real Python workers in processes of its own, kills something, and counts
//! what is left; `docs/chaos.md` tells what is done, how the long forms are run and how a failure is read. Whoever
//! adds a backend or a containment level adds it to [`contender`], and nowhere else.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../common/mod.rs"]
mod common;

mod at_each_step;
mod contender;
mod cycles;
mod host;
mod matrix;
mod names;
mod neighbours;
mod orders;
mod programs;
mod round;
mod settings;
mod steps;
mod storm;
mod trees;
mod witness;

#[test]
#[ignore = "run by the rounds of this suite, as the host that gets killed"]
fn host() {
    host::main();
}

#[test]
#[ignore = "run by the rounds of this suite, as the one who counts what is left"]
fn witness() {
    witness::main();
}
