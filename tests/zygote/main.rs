//! Workers that are forked from a template, on real Python: what is theirs, what is shared, and what each survives.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../common/mod.rs"]
mod common;

mod cgroups;
mod nested;
mod support;
mod templates;
mod workers;
