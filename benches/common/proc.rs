//! What /proc(5) says of processes.

use std::{collections::BTreeMap, fs};

use super::Result;

/// A field of smaps_rollup in KiB: `Rss` is resident, `Pss` private memory and the process's share of what it shares.
pub(crate) fn rollup_kib(pid: u32, field: &str) -> Result<f64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let mut lines = rollup.lines().filter_map(|line| line.split_once(':'));
    let value = lines.find(|(name, _)| *name == field);
    let number = value.and_then(|(_, value)| value.split_whitespace().next());
    let number = number.ok_or_else(|| format!("smaps_rollup has no {field}"))?;
    Ok(number.parse()?)
}

/// CPU seconds a process has used so far, user and system, all its threads. `pid` may be `self`.
pub(crate) fn cpu_seconds(pid: &str) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The command name, in parentheses, may itself contain spaces and parentheses.
    let (_, fields) = stat.rsplit_once(')').ok_or("stat names its command")?;
    // Fields 14 and 15 of proc_pid_stat(5); the state after the name is field 3.
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.map(str::parse::<u64>).sum::<Result<_, _>>()?;
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// The first value of a `key : value` line, as in /proc/cpuinfo.
pub(crate) fn field(file: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(name, _)| name.trim() == key)?;
    Some(value.trim().to_owned())
}

/// All processes below one, as they are now. Processes that end meanwhile may be among them or not.
pub(crate) fn descendants(of: u32) -> Result<Vec<u32>> {
    let mut children = BTreeMap::<u32, Vec<u32>>::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if let Some(parent) = parent(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let (mut found, mut next) = (Vec::new(), 0);
    found.extend(children.remove(&of).unwrap_or_default());
    while let Some(pid) = found.get(next) {
        found.extend(children.remove(pid).unwrap_or_default());
        next += 1;
    }
    Ok(found)
}

/// The parent of a process; `None` when it is gone.
pub(crate) fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name, which may contain anything: the state, the parent.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(1)?.parse().ok()
}
