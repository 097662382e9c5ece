//! Namespaces, tried with unshare(1) in a process of its own.

use std::{fs, io, process::Command};

use super::Finding;

const SECTION: &str = "Containment";

/// Tries user and PID namespaces.
pub(super) fn look(findings: &mut Vec<Finding>) {
    findings.push(finding(
        "user namespace",
        &["--user", "--map-root-user"],
        "a user without privileges can make the other kinds",
    ));
    let privileged = rustix::process::geteuid().is_root();
    let pid: &[&str] = if privileged {
        &["--pid", "--fork", "--mount-proc"]
    } else {
        &["--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    };
    findings.push(finding(
        "PID namespace",
        pid,
        "a worker's whole tree can be ended by the kernel",
    ));
}

fn finding(name: &'static str, options: &[&str], use_of_it: &str) -> Finding {
    let tried = Command::new("unshare")
        .args(options)
        .args(["--", "true"])
        .output();
    match tried {
        Ok(answer) if answer.status.success() => Finding::good(SECTION, name, use_of_it),
        Ok(answer) => {
            let said = String::from_utf8_lossy(&answer.stderr).trim().to_owned();
            Finding::weak(SECTION, name, said, remedy())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Finding::note(
            SECTION,
            name,
            "not tried: there is no unshare (Debian: apt install util-linux)",
        ),
        Err(error) => Finding::note(SECTION, name, format!("not tried: {error}")),
    }
}

/// Who forbids it: each has a switch of its own.
pub(super) fn remedy() -> String {
    let is = |path: &str, value: &str| fs::read_to_string(path).is_ok_and(|text| text.trim() == value);
    let switches = [
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        (
            "/proc/sys/kernel/unprivileged_userns_clone",
            "0",
            "kernel.unprivileged_userns_clone=1",
        ),
        (
            "/proc/sys/user/max_user_namespaces",
            "0",
            "user.max_user_namespaces=10000",
        ),
    ];
    let switch = switches.iter().find(|(path, value, _)| is(path, value));
    match switch {
        Some((_, _, setting)) => format!("sysctl -w {setting}"),
        None => "in a container, allow unshare and mount in its seccomp profile and keep /proc unmasked"
            .to_owned(),
    }
}
