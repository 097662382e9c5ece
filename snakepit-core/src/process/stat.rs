//! The state of a process as `/proc/PID/stat` tells it.

use std::{
    fs::File,
    io::{self, Read},
};

/// Room for the text of a `stat` file: 52 fields of at most 20 digits, and a name.
const LONGEST: usize = 2048;

/// The fields of proc_pid_stat(5) that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The pid in the PID namespace of the `/proc` it was read from.
    pub pid: u32,
    /// The state letter, as in `b'Z'` for a zombie.
    pub state: u8,
    /// The parent's pid.
    pub ppid: u32,
    /// The process group.
    pub pgrp: u32,
    /// The session.
    pub session: u32,
    /// Threads, the first one included while it is unreaped.
    pub threads: u32,
    /// Start time in clock ticks since boot.
    pub start_ticks: u64,
}

impl Stat {
    /// Reads the state of the process that has this pid now.
    ///
    /// # Errors
    /// `ENOENT` or `ESRCH` when there is none.
    pub fn read(pid: u32) -> io::Result<Self> {
        let mut file = File::open(format!("/proc/{pid}/stat"))?;
        let mut text = [0; LONGEST];
        // The kernel gives all of it to one read that has the room.
        let len = file.read(&mut text)?;
        Self::parse(&text[..len])
    }

    /// Parses the text of a `stat` file. The name in it may contain anything, so the fields are counted from
    /// its last closing bracket.
    ///
    /// # Errors
    /// `InvalidData` when it is no such text.
    pub fn parse(text: &[u8]) -> io::Result<Self> {
        Self::parse_fields(text).ok_or_else(|| {
            let text = String::from_utf8_lossy(text);
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("not the text of a stat file: `{}`", text.trim_end()),
            )
        })
    }

    fn parse_fields(text: &[u8]) -> Option<Self> {
        let open = text.iter().position(|&byte| byte == b'(')?;
        let close = text.iter().rposition(|&byte| byte == b')')?;
        let pid = std::str::from_utf8(&text[..open]).ok()?.trim().parse().ok()?;
        let mut rest = std::str::from_utf8(&text[close + 1..])
            .ok()?
            .split_ascii_whitespace();
        // Fields are numbered from 1 in the man page; the state is field 3.
        let state = *rest.next()?.as_bytes().first()?;
        let ppid = rest.next()?.parse().ok()?;
        // A process without a group or session in our namespace shows 0, kernel threads may show -1.
        let mut id = || Some(rest.next()?.parse::<i64>().ok()?.try_into().unwrap_or(0));
        let pgrp = id()?;
        let session = id()?;
        let threads = rest.nth(20 - 7)?.parse().ok()?;
        let start_ticks = rest.nth(22 - 21)?.parse().ok()?;
        Some(Self {
            pid,
            state,
            ppid,
            pgrp,
            session,
            threads,
            start_ticks,
        })
    }

    /// Whether it runs nothing any more: a zombie, or being removed. A first thread that ended while others go
    /// on shows as a zombie too, and is not dead.
    pub fn is_dead(&self) -> bool {
        match self.state {
            b'X' | b'x' => true,
            b'Z' => self.threads <= 1,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAIL: &str = "S 7 42 41 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 3 0 987654 1 2 3";

    #[test]
    fn reads_the_fields_after_any_name() {
        for name in ["python3", "a) S 1 (b", "tab\tand space", ""] {
            let stat = Stat::parse(format!("99 ({name}) {TAIL}\n").as_bytes()).unwrap();
            let expected = Stat {
                pid: 99,
                state: b'S',
                ppid: 7,
                pgrp: 42,
                session: 41,
                threads: 3,
                start_ticks: 987_654,
            };
            assert_eq!(stat, expected, "{name}");
        }
    }

    #[test]
    fn refuses_what_is_no_stat_text() {
        for text in ["", "99", "99 (x", "99 (x) S 1 2", "x (y) S 7 42 41"] {
            let error = Stat::parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{text}");
        }
    }

    #[test]
    fn a_zombie_with_living_threads_is_not_dead() {
        let with = |state: &str, threads: &str| {
            let tail = TAIL
                .replacen('S', state, 1)
                .replace(" 20 0 3 ", &format!(" 20 0 {threads} "));
            Stat::parse(format!("99 (x) {tail}").as_bytes())
                .unwrap()
                .is_dead()
        };
        assert!(with("Z", "1") && with("X", "0"));
        assert!(!with("Z", "2") && !with("T", "1") && !with("D", "1"));
    }

    #[test]
    fn reads_ourselves() {
        let stat = Stat::read(std::process::id()).unwrap();
        assert_eq!(stat.pid, std::process::id());
        assert!(!stat.is_dead());
    }
}
