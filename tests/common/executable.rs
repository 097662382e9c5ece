//! Programs that a test writes.

use std::{path::Path, process::Command};

/// Writes a program that can be executed at once, and the directories it is in. Another process does so: a descriptor of ours
/// would be held by whatever another test is just starting, and the kernel executes nothing that somebody may still write to.
pub(crate) fn write_executable(path: &Path, text: &str) {
    let mut shell = Command::new("/bin/sh");
    let lines = r#"mkdir -p "${1%/*}" && printf %s "$2" >"$1" && chmod 755 "$1""#;
    let status = shell
        .args(["-c", lines, "sh"])
        .arg(path)
        .arg(text)
        .status()
        .unwrap();
    assert!(status.success(), "cannot write {}", path.display());
}
