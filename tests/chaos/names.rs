//! The processes of a guardian, by the names they have.

use std::fs;

use snakepit::core::process::Member;

pub(crate) const GUARDIAN: &str = "snakepit-guard";
pub(crate) const KEEPER: &str = "snakepit-keeper";
/// Not a worker yet, or waiting at its gate.
pub(crate) const MADE_AHEAD: &str = "snakepit-worker";

pub(crate) fn has_name(member: &Member, name: &str) -> bool {
    let path = format!("/proc/{}/comm", member.stat.pid);
    fs::read_to_string(path).is_ok_and(|found| found.trim_end() == name)
}
