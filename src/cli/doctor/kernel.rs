//! What the kernel offers for telling processes apart and for ending them.

use std::{fs, io, process::Command};

use rustix::{
    fs::{MemfdFlags, memfd_create},
    process::{PidfdFlags, child_subreaper, getpid, pidfd_open, set_child_subreaper},
};
use snakepit::PythonEnv;

use super::Finding;

const SECTION: &str = "Kernel";

/// File system type of pidfds since Linux 6.9, `PID_FS_MAGIC` in `linux/magic.h`.
const PIDFS: u64 = 0x5049_4446;

/// `ioctl(pidfd, PIDFD_GET_INFO, ...)`, asked by Python: nothing in this program calls it without a wrapper that
/// the compiler can check. The number is `_IOWR(0xFF, 11, 64 bytes)`, the first version of `struct pidfd_info`.
const GET_INFO: &str = "import os, fcntl; fcntl.ioctl(os.pidfd_open(os.getpid()), 0xC040FF0B, bytearray(64))";

/// Looks at the kernel.
pub(super) fn look(environment: Option<&PythonEnv>, findings: &mut Vec<Finding>) {
    let release = read("/proc/sys/kernel/osrelease");
    findings.push(match &release {
        Ok(release) => Finding::good(SECTION, "kernel", format!("Linux {release}")),
        Err(error) => Finding::missing(
            SECTION,
            "/proc",
            format!("cannot be read: {error}"),
            "mount it (mount -t proc proc /proc)",
        ),
    });
    findings.push(pidfd());
    findings.push(pidfs(release.as_deref().unwrap_or_default()));
    findings.push(get_info(environment));
    findings.push(subreaper());
    findings.push(memfd());
    findings.push(children_file());
}

fn read(path: &str) -> io::Result<String> {
    fs::read_to_string(path).map(|text| text.trim().to_owned())
}

fn pidfd() -> Finding {
    match pidfd_open(getpid(), PidfdFlags::empty()) {
        Ok(_) => Finding::good(
            SECTION,
            "pidfd",
            "exits are awaited and signals sent without a race",
        ),
        Err(error) => Finding::missing(
            SECTION,
            "pidfd",
            error.to_string(),
            "Linux 5.10 or newer is needed; in a container, allow pidfd_open in its seccomp profile",
        ),
    }
}

fn pidfs(release: &str) -> Finding {
    const NAME: &str = "pidfs handles";
    let kind = pidfd_open(getpid(), PidfdFlags::empty()).and_then(rustix::fs::fstatfs);
    let is_pidfs = kind.is_ok_and(|found| found.f_type as u64 == PIDFS);
    if is_pidfs && version(release) >= (6, 14) {
        Finding::good(
            SECTION,
            NAME,
            "a process is known for a whole boot, whatever its pid",
        )
    } else {
        Finding::weak(
            SECTION,
            NAME,
            "none: a process is known by pid and start time",
            "nothing has to be done; Linux 6.14 has them",
        )
    }
}

/// Major and minor number of a release.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let mut next = || numbers.next().and_then(Result::ok).unwrap_or(0);
    (next(), next())
}

fn get_info(environment: Option<&PythonEnv>) -> Finding {
    const NAME: &str = "PIDFD_GET_INFO";
    let Some(environment) = environment else {
        return Finding::note(SECTION, NAME, "not looked at: there is no Python to ask with");
    };
    let answer = Command::new(environment.interpreter().path())
        .args(["-I", "-S", "-c", GET_INFO])
        .output();
    if answer.is_ok_and(|answer| answer.status.success()) {
        Finding::good(
            SECTION,
            NAME,
            "exit codes of others' children can be read (from Linux 6.15 on)",
        )
    } else {
        Finding::weak(
            SECTION,
            NAME,
            "not there: exit codes of forked workers come from their template",
            "nothing has to be done; Linux 6.15 has it",
        )
    }
}

fn subreaper() -> Finding {
    let before = child_subreaper();
    // Turned on and back: this process has children only while it waits for them.
    let tried = set_child_subreaper(Some(getpid())).and_then(|()| set_child_subreaper(before.ok().flatten()));
    match tried {
        Ok(()) => Finding::good(
            SECTION,
            "subreaper",
            "a worker can catch what its children leave behind",
        ),
        Err(error) => Finding::weak(
            SECTION,
            "subreaper",
            error.to_string(),
            "allow prctl(PR_SET_CHILD_SUBREAPER) in the container's seccomp profile",
        ),
    }
}

fn memfd() -> Finding {
    const NAME: &str = "memfd";
    let policy = read("/proc/sys/vm/memfd_noexec").unwrap_or_else(|_| "absent".to_owned());
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    if let Err(error) = memfd_create("snakepit-doctor", flags | MemfdFlags::NOEXEC_SEAL)
        .or_else(|_| memfd_create("snakepit-doctor", flags))
    {
        return Finding::weak(
            SECTION,
            NAME,
            format!("cannot be made: {error}"),
            "large values travel inside the messages; allow memfd_create in the container's seccomp profile",
        );
    }
    match memfd_create("snakepit-doctor", flags | MemfdFlags::EXEC) {
        Ok(_) => Finding::good(
            SECTION,
            NAME,
            format!("shared memory; also executable (vm.memfd_noexec: {policy})"),
        ),
        // EINVAL: a kernel before 6.3 does not know the flag, and lets every memfd be executed.
        Err(rustix::io::Errno::INVAL) => Finding::good(SECTION, NAME, "shared memory; also executable"),
        Err(error) => Finding::note(
            SECTION,
            NAME,
            format!(
                "shared memory; not executable ({error}, vm.memfd_noexec: {policy}): a helper runs from a file"
            ),
        ),
    }
}

fn children_file() -> Finding {
    const NAME: &str = "children file";
    let path = format!("/proc/self/task/{}/children", getpid().as_raw_nonzero());
    match fs::read(path) {
        Ok(_) => Finding::good(SECTION, NAME, "process trees are walked directly"),
        Err(error) => Finding::weak(
            SECTION,
            NAME,
            format!("{error}: process trees are found by reading all of /proc"),
            "a kernel with CONFIG_PROC_CHILDREN has it",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn releases_compare_as_numbers() {
        assert!(version("6.9.1") < version("6.14.0-rc1"));
        assert_eq!(version("6.18.44-fc-v657"), (6, 18));
        assert_eq!(version(""), (0, 0));
    }
}
