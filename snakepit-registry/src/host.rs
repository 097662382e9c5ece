//! Who the host of a run is, and whether it still lives.
//!
//! The file `host` in a run's directory, version 1, is text: a line `snakepit-host 1`, then lines of a word and its value:
//!
//! ```text
//! snakepit-host 1
//! run 5d0f7e1c0d3b4a5f9e8d7c6b5a493827
//! app my-service
//! host 4711.8934321.4026531836.2f1b6a3e-5f0c-4d0e-9a51-6f5d3c2b1a00
//! handle 254.0102030405060708
//! program /usr/bin/my-service
//! ```
//!
//! `host` is pid, start time in clock ticks, inode of the PID namespace and boot id, as `SNAKEPIT_HOST` has it;
//! `handle` the type and the bytes of the pidfs handle, where there is one. Words that are not known are ignored: a
//! version is only for what must not be ignored.

use std::{fs, io, path::Path};

use snakepit_core::{
    RunId,
    process::{IdentifyError, PidfsHandle, ProcessIdentity, boot_id},
};

/// The first line.
const MAGIC: &str = "snakepit-host 1";
/// `PF_EXITING` of `linux/sched.h`, in field 9 of proc_pid_stat(5): a thread that has begun to end runs none of its program any
/// more.
const PF_EXITING: u64 = 0x4;

/// Whether a host lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// It does.
    Alive,
    /// It runs nothing any more; the kernel is tearing it down, which takes a while with gigabytes resident. Its lock is
    /// freed at the end of that.
    Dying,
    /// It is gone for certain.
    Gone,
    /// It was recorded in another PID namespace, or so that we cannot tell.
    Unknown,
}

/// The text of the file for this process.
pub(crate) fn describe_ourselves(run_id: RunId, app: &str) -> io::Result<String> {
    let own = ProcessIdentity::of_pid(std::process::id())?;
    let mut text = format!(
        "{MAGIC}\nrun {run_id}\napp {app}\nhost {}.{}.{}.{}\n",
        own.pid, own.start_ticks, own.pid_namespace, own.boot_id
    );
    if let Some(handle) = &own.handle {
        text.push_str(&format!("handle {}\n", encode_handle(handle)));
    }
    // For people; a line break in it must not look like another line.
    if let Ok(program) = std::env::current_exe() {
        let program = program.to_string_lossy().replace(char::is_control, "?");
        text.push_str(&format!("program {program}\n"));
    }
    Ok(text)
}

/// Reads the file; `None` when it is missing, broken or of another version.
pub(crate) fn read(path: &Path) -> Option<ProcessIdentity> {
    parse(&fs::read_to_string(path).ok()?)
}

fn parse(text: &str) -> Option<ProcessIdentity> {
    let mut lines = text.lines();
    if lines.next() != Some(MAGIC) {
        return None;
    }
    let value = |wanted: &str| {
        lines
            .clone()
            .find_map(|line| line.split_once(' ').filter(|(word, _)| *word == wanted))
            .map(|(_, value)| value)
    };
    let mut identity = parse_host(value("host")?)?;
    identity.handle = value("handle").and_then(decode_handle);
    Some(identity)
}

/// Reads the form of `SNAKEPIT_HOST`.
pub(crate) fn parse_host(text: &str) -> Option<ProcessIdentity> {
    let mut parts = text.splitn(4, '.');
    let pid = parts.next()?.parse().ok()?;
    let start_ticks = parts.next()?.parse().ok()?;
    let pid_namespace = parts.next()?.parse().ok()?;
    let boot_id = parts.next().filter(|id| !id.is_empty())?.to_owned();
    Some(ProcessIdentity {
        pid,
        // Nobody asks for the group of a host.
        pgid: 0,
        start_ticks,
        handle: None,
        boot_id,
        pid_namespace,
    })
}

/// The form of a pidfs handle in text.
pub(crate) fn encode_handle(handle: &PidfsHandle) -> String {
    let bytes: String = handle.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}.{bytes}", handle.handle_type)
}

/// Reads the form of [`encode_handle`]; `None` when it is not that.
pub(crate) fn decode_handle(text: &str) -> Option<PidfsHandle> {
    let (handle_type, digits) = text.split_once('.')?;
    let bytes = digits.as_bytes().chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
        u8::from_str_radix(pair, 16).ok()
    });
    Some(PidfsHandle {
        handle_type: handle_type.parse().ok()?,
        bytes: bytes.collect::<Option<_>>()?,
    })
}

/// Whether what was recorded belongs to an earlier boot, of which nothing can live.
pub(crate) fn is_of_another_boot(identity: &ProcessIdentity) -> bool {
    boot_id().is_ok_and(|ours| ours != identity.boot_id)
}

/// Whether a host lives.
pub(crate) fn life(host: &ProcessIdentity) -> Life {
    match host.open() {
        Ok(None) => Life::Gone,
        Ok(Some(pidfd)) => match runs_nothing(host.pid) {
            // What was read concerns this host only if its number was its own all the time.
            _ if pidfd.has_exited() => Life::Gone,
            Ok(true) => Life::Dying,
            Ok(false) | Err(_) => Life::Alive,
        },
        Err(IdentifyError::Namespace { .. }) | Err(_) => Life::Unknown,
    }
}

/// Whether every thread of a process has begun to end.
fn runs_nothing(pid: u32) -> io::Result<bool> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = match fs::read(task?.path().join("stat")) {
            Ok(stat) => stat,
            // A thread that is gone runs nothing.
            Err(_) => continue,
        };
        if thread_flags(&stat).is_none_or(|flags| flags & PF_EXITING == 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn thread_flags(stat: &[u8]) -> Option<u64> {
    // The name may contain anything, so that fields are counted from its end: the next one is field 3.
    let close = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(&stat[close + 1..]).ok()?;
    rest.split_ascii_whitespace().nth(9 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_are_alive_by_our_own_description() {
        let text = describe_ourselves(RunId::random(), "app").unwrap();
        let host = parse(&text).unwrap();
        let own = ProcessIdentity::of_pid(std::process::id()).unwrap();
        assert_eq!(host, ProcessIdentity { pgid: 0, ..own });
        assert_eq!(life(&host), Life::Alive);
        assert!(!is_of_another_boot(&host));
        let spelled = snakepit_core::launch::host_identity().unwrap();
        assert_eq!(
            parse_host(spelled).unwrap(),
            ProcessIdentity { handle: None, ..host }
        );
    }

    #[test]
    fn who_cannot_be_told_is_neither_alive_nor_gone() {
        let text = describe_ourselves(RunId::random(), "app").unwrap();
        let mut host = parse(&text).unwrap();
        host.pid_namespace += 1;
        assert_eq!(life(&host), Life::Unknown);
        host.boot_id = "another".to_owned();
        assert_eq!(life(&host), Life::Gone);
        assert!(is_of_another_boot(&host));
    }

    #[test]
    fn the_file_reads_back_also_with_words_that_are_new() {
        let known = "host 7.8.9.boot-id\nhandle 254.0102ff\n";
        let host = parse(&format!("{MAGIC}\ncolour blue\n{known}")).unwrap();
        assert_eq!((host.pid, host.start_ticks, host.pid_namespace), (7, 8, 9));
        assert_eq!(host.boot_id, "boot-id");
        assert_eq!(host.handle.unwrap().bytes, [1, 2, 255]);
        for broken in ["", "snakepit-host 2\nhost 7.8.9.b", "snakepit-host 1\nhost 7.8.9"] {
            assert_eq!(parse(broken), None, "{broken}");
        }
        assert_eq!(decode_handle("254.012"), None);
    }
}
