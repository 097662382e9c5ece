//! Limits that a large pool runs into.

use std::{fs, thread};

use rustix::process::{Resource, getrlimit};

use super::Finding;
use crate::cli::output::{bytes, grouped};

const SECTION: &str = "Limits";

/// Descriptors that a worker takes in the host: channel, control, standard output and error, pidfd, and some slack.
const DESCRIPTORS_PER_WORKER: u64 = 8;
/// Fewer than this serve about a hundred workers.
const ENOUGH_DESCRIPTORS: u64 = 1024;
/// A hundred workers with their threads fit.
const ENOUGH_PROCESSES: u64 = 1000;
/// An interpreter with NumPy takes about 30 MiB.
const ENOUGH_MEMORY: u64 = 256 << 20;

/// Looks at limits of this process and the machine.
pub(super) fn look(findings: &mut Vec<Finding>) {
    findings.push(descriptors());
    findings.push(processes());
    findings.push(pids());
    findings.push(memory());
    findings.push(cpus());
}

fn descriptors() -> Finding {
    const NAME: &str = "open files";
    let limit = getrlimit(Resource::Nofile);
    let soft = limit.current.unwrap_or(u64::MAX);
    let hard = limit.maximum.map_or("unlimited".to_owned(), grouped);
    let workers = grouped(soft / DESCRIPTORS_PER_WORKER);
    let found = if limit.current.is_none() {
        "unlimited".to_owned()
    } else {
        format!(
            "{} (at most {hard}): enough for about {workers} workers",
            grouped(soft)
        )
    };
    if soft < ENOUGH_DESCRIPTORS {
        Finding::weak(SECTION, NAME, found, format!("ulimit -n {ENOUGH_DESCRIPTORS}"))
    } else {
        Finding::good(SECTION, NAME, found)
    }
}

fn processes() -> Finding {
    const NAME: &str = "processes";
    match getrlimit(Resource::Nproc).current {
        None => Finding::good(SECTION, NAME, "unlimited"),
        Some(limit) if limit < ENOUGH_PROCESSES => Finding::weak(
            SECTION,
            NAME,
            format!("{} of this user, threads included", grouped(limit)),
            format!("ulimit -u {ENOUGH_PROCESSES}"),
        ),
        Some(limit) => Finding::good(
            SECTION,
            NAME,
            format!("{} of this user, threads included", grouped(limit)),
        ),
    }
}

fn pids() -> Finding {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let max = number("/proc/sys/kernel/pid_max");
    let threads = number("/proc/sys/kernel/threads-max");
    match (max, threads) {
        (Some(max), Some(threads)) => Finding::note(
            SECTION,
            "pids",
            format!("{} pids, {} threads", grouped(max), grouped(threads)),
        ),
        _ => Finding::note(SECTION, "pids", "unknown"),
    }
}

fn memory() -> Finding {
    const NAME: &str = "memory";
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
        kib.checked_mul(1024)
    };
    let (Some(available), Some(total)) = (field("MemAvailable:"), field("MemTotal:")) else {
        return Finding::note(SECTION, NAME, "unknown");
    };
    let found = format!("{} available of {}", bytes(available), bytes(total));
    if available < ENOUGH_MEMORY {
        Finding::weak(SECTION, NAME, found, "start few workers, or free some")
    } else {
        Finding::good(SECTION, NAME, found)
    }
}

/// What the standard library counts takes affinity and quota into account, the list of processors neither.
fn cpus() -> Finding {
    const NAME: &str = "processors";
    let Ok(usable) = thread::available_parallelism() else {
        return Finding::note(SECTION, NAME, "unknown");
    };
    let listed = fs::read_to_string("/proc/cpuinfo")
        .unwrap_or_default()
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    if listed > usable.get() {
        Finding::note(
            SECTION,
            NAME,
            format!("{usable} of {listed} usable (affinity or a cgroup quota)"),
        )
    } else {
        Finding::good(SECTION, NAME, usable.to_string())
    }
}
