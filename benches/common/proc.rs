//! What /proc(5) says of processes.

use std::fs;

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
