//! What `/proc` tells of processes: proc_pid_stat(5) and proc_tid_children(5).

use std::os::fd::{AsFd, OwnedFd};

use crate::{
    sys::{self, Pid},
    text::Text,
};

/// What is known of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) state: u8,
    pub(crate) parent: Pid,
    pub(crate) group: Pid,
    pub(crate) threads: u32,
}

impl Stat {
    /// `None` when there is no such process.
    pub(crate) fn of(pid: Pid) -> Option<Self> {
        let path = Text::format(format_args!("/proc/{pid}/stat"))?;
        let file = sys::open(None, path.as_c_str(), 0).ok()?;
        // What is needed is within the first 20 fields.
        let mut buffer = [0; 512];
        let len = sys::read(&file, &mut buffer).ok()?;
        Self::parse(&buffer[..len])
    }

    fn parse(text: &[u8]) -> Option<Self> {
        // The name, in parentheses, may hold anything, parentheses too.
        let end = text.iter().rposition(|byte| *byte == b')')?;
        let mut fields = text[end + 1..].split(|byte| *byte == b' ').skip(1);
        let number = |field: Option<&[u8]>| str::from_utf8(field?).ok()?.parse::<Pid>().ok();
        Some(Self {
            state: *fields.next()?.first()?,
            parent: number(fields.next())?,
            group: number(fields.next())?,
            threads: number(fields.nth(14))?.try_into().ok()?,
        })
    }

    /// Whether it is past its end.
    pub(crate) fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }
}

/// Opens the list of the children that a thread has.
pub(crate) fn open_children(pid: Pid, thread: Pid) -> std::io::Result<OwnedFd> {
    let path = Text::format(format_args!("/proc/{pid}/task/{thread}/children"));
    let path = path.ok_or(std::io::ErrorKind::InvalidFilename)?;
    sys::open(None, path.as_c_str(), 0)
}

/// Visits the children of a process that has so many threads, as far as they can be seen at once.
pub(crate) fn children(pid: Pid, threads: u32, visit: &mut dyn FnMut(Pid)) {
    if threads <= 1 {
        return children_of_thread(pid, pid, visit);
    }
    let Some(path) = Text::format(format_args!("/proc/{pid}/task")) else {
        return;
    };
    let Ok(dir) = sys::open(None, path.as_c_str(), 0) else {
        return;
    };
    let mut buffer = [0; 1024];
    while let Ok(len @ 1..) = sys::entries(&dir, &mut buffer) {
        entries(&buffer[..len], &mut |_, name| {
            if let Some(thread) = str::from_utf8(name).ok().and_then(|name| name.parse().ok()) {
                children_of_thread(pid, thread, visit);
            }
        });
    }
}

fn children_of_thread(pid: Pid, thread: Pid, visit: &mut dyn FnMut(Pid)) {
    if let Ok(file) = open_children(pid, thread) {
        each_number(file, visit);
    }
}

fn each_number(file: impl AsFd, visit: &mut dyn FnMut(Pid)) {
    let mut numbers = Numbers::default();
    let mut buffer = [0; 1024];
    while let Ok(len @ 1..) = sys::read(&file, &mut buffer) {
        buffer[..len]
            .iter()
            .filter_map(|byte| numbers.next(*byte))
            .for_each(&mut *visit);
    }
}

/// How many processes the OOM killer has killed, from an open `memory.events` of a cgroup that was not read before.
pub(crate) fn oom_kills(events: impl AsFd) -> u32 {
    let mut buffer = [0; 512];
    let len = sys::read(events, &mut buffer).unwrap_or(0);
    let mut lines = buffer[..len].split(|byte| *byte == b'\n');
    let count = lines.find_map(|line| line.strip_prefix(b"oom_kill "));
    let count = count.and_then(|count| str::from_utf8(count).ok());
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// Numbers, each followed by a blank, which may come in pieces.
#[derive(Default)]
struct Numbers {
    current: Option<Pid>,
}

impl Numbers {
    fn next(&mut self, byte: u8) -> Option<Pid> {
        if byte.is_ascii_digit() {
            let digit = Pid::from(byte - b'0');
            self.current = self
                .current
                .unwrap_or(0)
                .checked_mul(10)
                .and_then(|ten| ten.checked_add(digit));
            None
        } else {
            self.current.take()
        }
    }
}

/// Visits what getdents64(2) wrote: types of files, and names.
pub(crate) fn entries(mut entries: &[u8], visit: &mut dyn FnMut(u8, &[u8])) {
    /// Inode and offset, eight bytes each, then the length of the entry and a byte for the type.
    const LEN: usize = 16;
    const TYPE: usize = 18;
    const NAME: usize = 19;
    while let Some(bytes) = entries.get(LEN..LEN + 2) {
        let len = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
        let Some(entry) = entries.get(..len).filter(|entry| entry.len() > NAME) else {
            return;
        };
        let name = &entry[NAME..];
        visit(
            entry[TYPE],
            name.split(|byte| *byte == 0).next().unwrap_or_default(),
        );
        entries = &entries[len..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_whatever_the_name_is() {
        let line = b"77 (a) (b) Z 4 5 6 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 99 1 2 3\n";
        let stat = Stat::parse(line).unwrap();
        let expected = Stat {
            state: b'Z',
            parent: 4,
            group: 5,
            threads: 3,
        };
        assert_eq!(stat, expected);
        assert!(stat.is_dead());
        for len in 0..line.len() - 30 {
            // Cut short, it is never taken for something else.
            assert_ne!(Stat::parse(&line[..len]).map(|stat| stat.threads), Some(99));
        }
        assert_eq!(Stat::parse(b""), None);
        assert_eq!(Stat::parse(b"1 (a"), None);
        assert_eq!(Stat::parse(b"1 (a) S x 5 6"), None);
    }

    #[test]
    fn oom_kills_are_read_from_the_line_of_that_name() {
        for (text, expected) in [
            ("low 0\nhigh 0\nmax 17\noom 3\noom_kill 2\noom_group_kill 1\n", 2),
            ("low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n", 0),
            ("", 0),
        ] {
            let mut file = tempfile::tempfile().unwrap();
            std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
            std::io::Seek::rewind(&mut file).unwrap();
            assert_eq!(oom_kills(&file), expected, "{text}");
        }
    }

    #[test]
    fn own_stat_names_our_parent() {
        let pid = std::process::id().try_into().unwrap();
        let stat = Stat::of(pid).unwrap();
        assert_eq!(stat.parent, std::os::unix::process::parent_id().cast_signed());
        assert!(!stat.is_dead() && stat.threads >= 1);
        assert_eq!(Stat::of(0), None);
    }

    #[test]
    fn numbers_come_in_pieces() {
        let mut numbers = Numbers::default();
        let text = b"12 3  99999999999 456 7";
        let found: Vec<_> = text.iter().filter_map(|byte| numbers.next(*byte)).collect();
        assert_eq!(found[..2], [12, 3]);
        assert_eq!(found.last(), Some(&456));
    }

    #[test]
    fn children_of_every_thread_are_seen() {
        let start = || {
            let mut command = std::process::Command::new("cat");
            command.stdin(std::process::Stdio::piped()).spawn().unwrap()
        };
        let (sender, receiver) = std::sync::mpsc::channel();
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            sender.send(start()).unwrap();
            // The children of a thread that has ended belong to another one.
            let _ = wait.recv();
        });
        let mut ours = [start(), receiver.recv().unwrap()];
        let own = std::process::id().cast_signed();
        let mut seen = Vec::new();
        children(own, 2, &mut |pid| seen.push(pid));
        drop(done);
        thread.join().unwrap();
        for child in &mut ours {
            drop(child.stdin.take());
            child.wait().unwrap();
            assert!(seen.contains(&child.id().cast_signed()), "{seen:?}");
        }
    }

    #[test]
    fn names_of_a_torn_list_are_not_invented() {
        let mut list = vec![0; 16];
        list.extend_from_slice(&24_u16.to_ne_bytes());
        list.push(4);
        list.extend_from_slice(b"12\0\0\0");
        for (len, expected) in [
            (24, vec![b"12".to_vec()]),
            (23, vec![]),
            (17, vec![]),
            (0, vec![]),
        ] {
            let mut found = Vec::new();
            entries(&list[..len], &mut |kind, name| {
                assert_eq!(kind, 4);
                found.push(name.to_vec());
            });
            assert_eq!(found, expected, "{len} bytes");
        }
    }
}
