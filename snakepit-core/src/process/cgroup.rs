//! Control groups, version 2: cgroups(7).
//!
//! A tree in a cgroup of its own is killed as a whole by one write, whatever its members did to their sessions,
//! parents and environments, and the directory is a record of it that outlives everybody.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use tokio::time::Instant;

use super::Pidfd;

/// How long a directory whose last process was just killed may be busy.
const REMOVE_PAUSE: Duration = Duration::from_millis(1);

/// Where cgroup v2 is mounted, which on hybrid systems is not `/sys/fs/cgroup`. `None` where it is not.
///
/// # Errors
/// What reading `/proc/self/mountinfo` answers.
pub fn mount_point() -> io::Result<Option<PathBuf>> {
    Ok(mount_in(&fs::read_to_string("/proc/self/mountinfo")?))
}

/// The mount of cgroup v2 whose root is the hierarchy's, from the text of proc_pid_mountinfo(5).
fn mount_in(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (kind.starts_with("cgroup2 ") && root == "/").then(|| PathBuf::from(unescape(point)))
    })
}

/// Blanks and backslashes in paths are written as octal numbers there.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// A cgroup, known by its directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// The cgroup this process is in; `None` where cgroup v2 is not mounted.
    ///
    /// # Errors
    /// What reading `/proc` answers.
    pub fn own() -> io::Result<Option<Self>> {
        Self::read("/proc/self/cgroup")
    }

    /// The cgroup a process is in; `None` where cgroup v2 is not mounted.
    ///
    /// # Errors
    /// What reading `/proc` answers: `NotFound` for a process that has been reaped.
    pub fn of(pid: u32) -> io::Result<Option<Self>> {
        Self::read(&format!("/proc/{pid}/cgroup"))
    }

    fn read(file: &str) -> io::Result<Option<Self>> {
        let Some(mount) = mount_point()? else {
            return Ok(None);
        };
        let text = fs::read_to_string(file)?;
        let own = text.lines().find_map(|line| line.strip_prefix("0::/"));
        Ok(own.map(|own| Self::at(mount.join(own))))
    }

    /// The cgroup with this directory, which need not exist.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One below it, which need not exist.
    pub fn child(&self, name: &str) -> Self {
        Self::at(self.path.join(name))
    }

    /// Makes its directory.
    ///
    /// # Errors
    /// What mkdir(2) answers: `PermissionDenied` where the cgroup above was not delegated to us.
    pub fn create(&self) -> io::Result<()> {
        fs::create_dir(&self.path)
    }

    /// Whether the directory exists and is one of cgroup v2.
    pub fn exists(&self) -> bool {
        self.path.join("cgroup.events").exists()
    }

    /// Whether the kernel kills it as a whole (`cgroup.kill`, Linux 5.14).
    pub fn can_kill(&self) -> bool {
        self.path.join("cgroup.kill").exists()
    }

    /// Whether a process is in it or below it; zombies do not count. A cgroup that is gone has none.
    ///
    /// # Errors
    /// What reading `cgroup.events` answers.
    pub fn is_populated(&self) -> io::Result<bool> {
        match fs::read_to_string(self.path.join("cgroup.events")) {
            Ok(text) => Ok(text.lines().any(|line| line == "populated 1")),
            Err(error) if is_gone(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The pids of its processes and of those in the cgroups below it, in our PID namespace; those outside of it
    /// read as 0 and are left out.
    ///
    /// # Errors
    /// What reading the directories answers.
    pub fn processes(&self) -> io::Result<Vec<u32>> {
        let mut pids = Vec::new();
        self.each(&mut |cgroup| {
            match fs::read_to_string(cgroup.path.join("cgroup.procs")) {
                Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok())),
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
            Ok(())
        })?;
        pids.retain(|pid| *pid != 0);
        Ok(pids)
    }

    /// Sends SIGKILL to everything in it and below it, and does not wait. Where the kernel cannot do so in one
    /// step, everything is killed one by one until nothing new shows up.
    ///
    /// # Errors
    /// What the kernel answers; a cgroup that is gone is no error.
    pub fn kill(&self) -> io::Result<()> {
        // Not `fs::write`, which would create the file, and be refused that with an error that says nothing.
        let file = fs::OpenOptions::new()
            .write(true)
            .open(self.path.join("cgroup.kill"));
        match file.and_then(|mut file| file.write_all(b"1")) {
            Ok(()) => Ok(()),
            Err(error) if is_gone(&error) && !self.exists() => Ok(()),
            // Before Linux 5.14, or a threaded cgroup.
            Err(error) if is_gone(&error) || error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                self.kill_each()
            }
            Err(error) => Err(error),
        }
    }

    fn kill_each(&self) -> io::Result<()> {
        loop {
            let mut signalled = 0;
            for pid in self.processes()? {
                // A pidfd, then a second look: only what is in the cgroup while it is held is killed.
                let Ok(pidfd) = Pidfd::open(pid) else { continue };
                if self.processes()?.contains(&pid) && !pidfd.has_exited() {
                    pidfd.signal(libc::SIGKILL)?;
                    signalled += 1;
                }
            }
            if signalled == 0 {
                return Ok(());
            }
        }
    }

    /// Blocks until nothing is in it any more, up to `timeout`; whether that came true.
    ///
    /// # Errors
    /// What reading `cgroup.events` answers.
    pub fn wait_empty(&self, timeout: Duration) -> io::Result<bool> {
        let begun = Instant::now();
        // A change of the file is signalled as POLLPRI.
        let events = match fs::File::open(self.path.join("cgroup.events")) {
            Ok(file) => file,
            Err(error) if is_gone(&error) => return Ok(true),
            Err(error) => return Err(error),
        };
        while self.is_populated()? {
            let Some(left) = timeout.checked_sub(begun.elapsed()) else {
                return Ok(false);
            };
            let left = Timespec::try_from(left).ok();
            match poll(&mut [PollFd::new(&events, PollFlags::PRI)], left.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// Removes its directory and those below it, waiting up to `timeout` for the last processes to be through with
    /// their end. One that is gone is no error.
    ///
    /// # Errors
    /// `EBUSY` when processes are left; what rmdir(2) answers.
    pub fn remove(&self, timeout: Duration) -> io::Result<()> {
        let begun = Instant::now();
        let mut all = Vec::new();
        self.each(&mut |cgroup| {
            all.push(cgroup.path.clone());
            Ok(())
        })?;
        // Deepest first.
        for path in all.iter().rev() {
            loop {
                match fs::remove_dir(path) {
                    Ok(()) => break,
                    Err(error) if is_gone(&error) => break,
                    Err(error) if error.raw_os_error() == Some(libc::EBUSY) && begun.elapsed() < timeout => {
                        std::thread::sleep(REMOVE_PAUSE);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// This one and all below it, those above first.
    fn each(&self, visit: &mut impl FnMut(&Self) -> io::Result<()>) -> io::Result<()> {
        visit(self)?;
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                Self::at(entry.path()).each(visit)?;
            }
        }
        Ok(())
    }
}

/// A cgroup that was removed while its files were open reads as `ENODEV`.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

#[cfg(test)]
mod tests {
    use super::{super::testing::Child, *};
    use crate::id::RunId;

    #[test]
    fn finds_the_mount_also_on_hybrid_systems() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                      40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                      41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw shared:3 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_in(hybrid), Some("/sys/fs/cgroup/uni fied".into()));
        // Part of the hierarchy, as a container runtime binds it.
        assert_eq!(
            mount_in("41 31 0:38 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
            None
        );
        assert_eq!(mount_in(""), None);
    }

    #[test]
    fn one_that_the_kernel_cannot_kill_as_a_whole_is_killed_process_by_process() {
        // As before Linux 5.14.
        let dir = std::env::temp_dir().join(format!("snakepit-test-{}", RunId::random()));
        fs::create_dir(&dir).unwrap();
        let child = Child::start("read line");
        fs::write(dir.join("cgroup.events"), "populated 1\n").unwrap();
        fs::write(dir.join("cgroup.procs"), format!("{}\n", child.pid())).unwrap();
        let cgroup = Cgroup::at(&dir);
        let killed = cgroup.kill();
        let can_kill = cgroup.can_kill();
        fs::remove_dir_all(&dir).unwrap();
        killed.unwrap();
        assert!(!can_kill, "the file was created");
        assert!(Pidfd::open(child.pid()).unwrap().has_exited());
    }

    /// A cgroup of our own below ours, where we may make one; the test says so where not.
    fn make() -> Option<Cgroup> {
        let own = Cgroup::own().unwrap();
        let cgroup = own?.child(&format!("snakepit-test-{}", RunId::random()));
        match cgroup.create() {
            Ok(()) => Some(cgroup),
            Err(error) => {
                eprintln!("SKIPPED: no cgroup can be made here: {error}");
                None
            }
        }
    }

    #[test]
    fn everything_in_it_is_found_and_killed() {
        let Some(cgroup) = make() else { return };
        assert!(cgroup.exists() && !cgroup.is_populated().unwrap());
        for one_by_one in [false, true] {
            let child = Child::start("exec 3<&0; (setsid sh -c 'read line <&3; :' &) ; read line");
            // What it started before it was moved stays outside and sees end-of-file with it.
            fs::write(cgroup.path().join("cgroup.procs"), child.pid().to_string()).unwrap();
            assert!(cgroup.is_populated().unwrap());
            assert!(cgroup.processes().unwrap().contains(&child.pid()));
            assert!(!cgroup.wait_empty(Duration::from_millis(5)).unwrap());
            let busy = cgroup.remove(Duration::ZERO).unwrap_err();
            assert_eq!(busy.raw_os_error(), Some(libc::EBUSY));
            if one_by_one {
                cgroup.kill_each().unwrap();
            } else {
                cgroup.kill().unwrap();
            }
            assert!(cgroup.wait_empty(Duration::from_secs(10)).unwrap());
        }
        cgroup.remove(Duration::from_secs(10)).unwrap();
        assert!(!cgroup.exists());
        // A second time is no error, by any way.
        cgroup.remove(Duration::ZERO).unwrap();
        cgroup.kill().unwrap();
        assert!(cgroup.processes().unwrap().is_empty());
        assert!(cgroup.wait_empty(Duration::ZERO).unwrap());
    }
}
