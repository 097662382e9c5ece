//! Memory of a process that is its own.

use std::fs;

/// Proportional set size in bytes: what it shares with others is counted by its share, as the interpreter's code is
/// among workers. `None` when the process is gone or not ours to look at.
pub(super) fn pss(pid: u32) -> Option<u64> {
    parse(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?)
}

fn parse(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rollup_is_read() {
        let rollup = "00400000-7ffe [rollup]\nRss:   9000 kB\nPss:    3900 kB\nPss_Dirty: 1 kB\n";
        assert_eq!(parse(rollup), Some(3900 * 1024));
        assert!(pss(std::process::id()).is_some());
        assert_eq!(parse(""), None);
    }
}
