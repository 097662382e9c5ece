//! Processes that can be told from all others, whatever they do to their environment, group and parentage.

use std::{
    fs, io,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::{
    RunId,
    process::{Pidfd, Stat},
};

/// Members of a [family](Marks::family), by the name of their script, and who they are.
pub(super) const FAMILY: [(&str, &str); 5] = [
    ("child", "its child in the same group"),
    ("stopped", "a stopped child"),
    ("session", "a child in a session of its own"),
    ("daemon", "its daemon"),
    ("scrubbed", "its daemon with a cleared environment"),
];

/// A directory with scripts. Everything that runs one of them has its path among its arguments, which another PID
/// namespace does not hide. What is left of them is killed when this is dropped.
#[derive(Debug)]
pub(super) struct Marks {
    dir: PathBuf,
}

/// A living process that runs one of the scripts.
#[derive(Debug)]
pub(super) struct Marked {
    /// The name of the script.
    pub(super) role: String,
    pub(super) pidfd: Pidfd,
}

impl Marks {
    pub(super) fn new() -> io::Result<Self> {
        let name = format!("snakepit-conformance-{}", RunId::random());
        let dir = std::path::absolute(std::env::temp_dir())?.join(name);
        fs::create_dir(&dir)?;
        let marks = Self { dir };
        let access = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
        // For fixtures that run as another user.
        access(&marks.dir, 0o755)?;
        mknodat(CWD, marks.path("nobody-writes"), FileType::Fifo, Mode::RUSR, 0)?;
        access(&marks.path("nobody-writes"), 0o666)?;
        let family = marks.family();
        for (role, _) in FAMILY {
            let stop = if role == "stopped" { "kill -STOP $$\n" } else { "" };
            marks.write(role, &format!("{STUBBORN}\n{stop}{}", marks.stay()))?;
        }
        marks.write("family", &family)?;
        marks.write("worker", &format!("{STUBBORN}\n{family}{}", marks.stay()))?;
        Ok(marks)
    }

    /// The path of a file in the directory.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(super) fn write(&self, name: &str, text: &str) -> io::Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, text)?;
        Ok(path)
    }

    /// A path as one word of a shell.
    pub(super) fn word(&self, name: &str) -> String {
        let path = self.path(name);
        format!("'{}'", path.to_string_lossy().replace('\'', r"'\''"))
    }

    /// Lines of a shell that do not end by themselves, without a child process: opening a FIFO waits for its writer. A
    /// trap runs when its signal has come, and without the directory nobody stays.
    pub(super) fn stay(&self) -> String {
        let fifo = self.word("nobody-writes");
        format!("while [ -p {fifo} ]; do read line < {fifo}; done 2>/dev/null\n")
    }

    /// Lines of a shell that start one process of each kind and go on.
    fn family(&self) -> String {
        let [child, stopped, session, daemon, scrubbed] = FAMILY.map(|(role, _)| self.word(role));
        format!(
            "/bin/sh {child} &\n\
             /bin/sh {stopped} &\n\
             setsid /bin/sh {session} &\n\
             (setsid /bin/sh {daemon} &)\n\
             (setsid env -i /bin/sh {scrubbed} &)\n"
        )
    }

    /// All that live.
    pub(super) fn living(&self) -> io::Result<Vec<Marked>> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let pid = entry?.file_name().to_str().and_then(|name| name.parse().ok());
            let Some((pid, role)) = pid.and_then(|pid| Some((pid, self.role_of(pid)?))) else {
                continue;
            };
            // Ended meanwhile, or the number is a thread's now.
            let Ok(pidfd) = Pidfd::open(pid) else {
                continue;
            };
            // Asked again now that it is held: before, the number might have changed hands.
            if self.role_of(pid).as_ref() == Some(&role) && !pidfd.has_exited() {
                found.push(Marked { role, pidfd });
            }
        }
        Ok(found)
    }

    fn role_of(&self, pid: u32) -> Option<String> {
        Some(self.named_by(pid)?.1)
    }

    /// Whether a process runs its script, and no program that is about to execute the shell that does, with another session or
    /// environment.
    fn has_begun(&self, pid: u32) -> bool {
        self.named_by(pid).is_some_and(|(at, _)| at == 1)
    }

    /// The script among the arguments of a process, and the number of that argument.
    fn named_by(&self, pid: u32) -> Option<(usize, String)> {
        // A process that has ended, or is another user's behind hidepid, has no arguments to show.
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let mut prefix = self.dir.as_os_str().as_bytes().to_vec();
        prefix.push(b'/');
        let mut arguments = arguments.split(|byte| *byte == 0).enumerate();
        let (at, role) =
            arguments.find_map(|(at, argument)| Some((at, argument.strip_prefix(prefix.as_slice())?)))?;
        Some((at, String::from_utf8_lossy(role).into_owned()))
    }

    /// The family, once each member is there and has come to where it stays.
    pub(super) fn whole_family(&self) -> io::Result<Option<Vec<Marked>>> {
        let living = self.living()?;
        let is_whole = FAMILY.iter().all(|(role, _)| {
            let mut members = living.iter().filter(|found| found.role == *role);
            let settled = members.next().is_some_and(|member| {
                let pid = member.pidfd.pid();
                if !self.has_begun(pid) {
                    return false;
                }
                // A stopped process has set its traps before.
                let is_stopped = || Stat::read(pid).is_ok_and(|stat| stat.state == b'T');
                if *role == "stopped" {
                    is_stopped()
                } else {
                    ignores_sigterm(pid)
                }
            });
            settled && members.next().is_none()
        });
        // Subshells on the way to a daemon still look like the shell they came from.
        let on_the_way = living
            .iter()
            .filter(|found| matches!(found.role.as_str(), "worker" | "family"));
        let settled = is_whole && on_the_way.count() <= 1;
        let is_member = |found: &Marked| FAMILY.iter().any(|(role, _)| found.role == *role);
        Ok(settled.then(|| living.into_iter().filter(is_member).collect()))
    }
}

/// The first line of scripts that only SIGKILL ends.
pub(super) const STUBBORN: &str = "trap '' TERM HUP INT";

/// Whether a script has come to the trap that ignores SIGTERM.
pub(super) fn ignores_sigterm(pid: u32) -> bool {
    has_sigterm(pid, "SigIgn")
}

/// Whether a script stays that answers SIGTERM.
pub(super) fn awaits_sigterm(pid: u32) -> bool {
    has_sigterm(pid, "SigCgt") && Stat::read(pid).is_ok_and(|stat| stays(&stat))
}

/// Whether a script has come to where it [stays](Marks::stay). A signal that comes right before is noted by the shell, which
/// then waits for the FIFO and never looks at the note.
pub(super) fn stays(stat: &Stat) -> bool {
    stat.state == b'S'
}

fn has_sigterm(pid: u32, set: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    signals(&status, set).is_some_and(|signals| signals & (1 << (libc::SIGTERM - 1)) != 0)
}

/// A set of signals in the text of proc_pid_status(5); bit 0 is signal 1.
pub(super) fn signals(status: &str, name: &str) -> Option<u64> {
    let mut lines = status.lines().filter_map(|line| line.split_once(':'));
    let (_, mask) = lines.find(|(key, _)| *key == name)?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

impl Drop for Marks {
    fn drop(&mut self) {
        // One that is being forked while we look is found by the next look.
        for _ in 0..100 {
            let left = self.living().unwrap_or_default();
            for member in &left {
                // It may end by itself meanwhile.
                let _ = member.pidfd.signal(libc::SIGKILL);
            }
            for member in &left {
                member.pidfd.wait_blocking(Duration::from_millis(100));
            }
            if left.is_empty() {
                break;
            }
        }
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            tracing::warn!(dir = %self.dir.display(), %error, "cannot remove a directory of the conformance suite");
        }
    }
}
