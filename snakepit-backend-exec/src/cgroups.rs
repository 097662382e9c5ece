//! The cgroups of a run's processes, and their limits.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
};
use snakepit_core::{
    RunId,
    launch::{LaunchError, LaunchLimits},
    process::cgroup::Cgroup,
};

use crate::{containment::GuardianError, request::os};

/// Microseconds in which a share of CPU time is given out: the kernel's default of `cpu.max`.
const CPU_PERIOD: f64 = 100_000.0;
/// The smallest quota that the kernel takes.
const CPU_QUOTA_MIN: f64 = 1_000.0;
/// How long a directory may be busy with the end of processes that have been killed.
const REMOVE_BOUND: Duration = Duration::from_millis(500);

/// The cgroup below which each process of one guardian has its own. Removed when dropped, if it is empty.
#[derive(Debug)]
pub(crate) struct RunCgroup {
    parent: Cgroup,
    cgroup: Cgroup,
}

/// One process's cgroup.
#[derive(Debug)]
pub(crate) struct WorkerCgroup {
    pub(crate) cgroup: Cgroup,
    pub(crate) directory: OwnedFd,
}

impl RunCgroup {
    /// Makes one below `parent`, or below the one this process is in.
    pub(crate) fn create(parent: Option<PathBuf>, run_id: RunId) -> Result<Self, GuardianError> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let parent = match parent {
            Some(path) => Cgroup::at(path),
            None => Cgroup::own()
                .and_then(|own| own.ok_or_else(|| io::Error::other("cgroup version 2 is not mounted")))
                .map_err(|source| GuardianError::Os {
                    step: "find the cgroup of this process",
                    source,
                })?,
        };
        let failed = |source| GuardianError::Cgroup {
            parent: parent.path().to_owned(),
            source,
        };
        // A host that ended without cleaning up had another run id, but a host that forked has the same one.
        let cgroup = loop {
            let name = format!(
                "snakepit-{run_id}-{}-{}",
                std::process::id(),
                NEXT.fetch_add(1, Ordering::Relaxed)
            );
            let cgroup = parent.child(&name);
            match cgroup.create() {
                Ok(()) => break cgroup,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed(error)),
            }
        };
        let made = Self {
            cgroup,
            parent: parent.clone(),
        };
        if made.cgroup.exists() {
            Ok(made)
        } else {
            Err(failed(io::Error::other("it is no cgroup of version 2")))
        }
    }

    pub(crate) fn directory(&self) -> io::Result<OwnedFd> {
        open_directory(&self.cgroup)
    }

    /// Makes the cgroup of one process, with its limits.
    pub(crate) fn worker(&self, id: u64, limits: &LaunchLimits) -> Result<WorkerCgroup, LaunchError> {
        let files = files(limits);
        for (setting, file, _) in &files {
            let controller = file.split('.').next().unwrap_or(file);
            for cgroup in [&self.parent, &self.cgroup] {
                enable(cgroup, controller).map_err(|(reason, source)| LaunchError::Unavailable {
                    setting,
                    reason,
                    source,
                })?;
            }
        }
        let cgroup = self.cgroup.child(&id.to_string());
        cgroup.create().map_err(os("create a cgroup"))?;
        let made = || {
            for (setting, file, value) in &files {
                let path = cgroup.path().join(file);
                fs::write(&path, value).map_err(|source| LaunchError::Unavailable {
                    setting,
                    reason: format!("writing {value} to {} failed", path.display()),
                    source: Some(source),
                })?;
            }
            open_directory(&cgroup).map_err(os("open a cgroup"))
        };
        match made() {
            Ok(directory) => Ok(WorkerCgroup { cgroup, directory }),
            Err(error) => {
                remove(&cgroup);
                Err(error)
            }
        }
    }
}

impl Drop for RunCgroup {
    fn drop(&mut self) {
        remove(&self.cgroup);
    }
}

/// Removes an empty cgroup.
pub(crate) fn remove(cgroup: &Cgroup) {
    if let Err(error) = cgroup.remove(REMOVE_BOUND) {
        tracing::warn!(path = %cgroup.path().display(), %error, "a cgroup is left");
    }
}

fn open_directory(cgroup: &Cgroup) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(open(cgroup.path(), flags, Mode::empty())?)
}

/// The files that limits are written to: (setting, file, value).
fn files(limits: &LaunchLimits) -> Vec<(&'static str, &'static str, String)> {
    let mut files = Vec::new();
    if let Some(bytes) = limits.memory_bytes {
        files.push(("memory_bytes", "memory.max", bytes.to_string()));
    }
    if let Some(pids) = limits.pids {
        files.push(("pids", "pids.max", pids.to_string()));
    }
    if let Some(cores) = limits.cpu_cores {
        let quota = (cores * CPU_PERIOD).max(CPU_QUOTA_MIN);
        files.push(("cpu_cores", "cpu.max", format!("{quota:.0} {CPU_PERIOD:.0}")));
    }
    files
}

/// Hands a controller on to the cgroups below this one.
fn enable(cgroup: &Cgroup, controller: &str) -> Result<(), (String, Option<io::Error>)> {
    let list = |file: &str| {
        let path = cgroup.path().join(file);
        fs::read_to_string(&path).map_err(|error| (format!("{} cannot be read", path.display()), Some(error)))
    };
    let has = |list: &str| list.split_whitespace().any(|name| name == controller);
    let available = list("cgroup.controllers")?;
    if !has(&available) {
        let what = match available.trim() {
            "" => "none".to_owned(),
            names => names.to_owned(),
        };
        return Err((
            format!(
                "the {controller} controller of cgroup version 2 is not available in {} (there: {what})",
                cgroup.path().display()
            ),
            None,
        ));
    }
    if has(&list("cgroup.subtree_control")?) {
        return Ok(());
    }
    let inhabited = || {
        format!(
            "{} has processes itself, so that its {controller} controller cannot be handed on; \
             set a cgroup parent that has none",
            cgroup.path().display()
        )
    };
    // The kernel would hand on those controllers that also know threads, and let no process into the cgroups below from
    // then on. It does not mind where it is the root, which has no type.
    if cgroup.path().join("cgroup.type").exists() && !list("cgroup.procs")?.trim().is_empty() {
        return Err((inhabited(), None));
    }
    let control = cgroup.path().join("cgroup.subtree_control");
    fs::write(control, format!("+{controller}")).map_err(|error| {
        let reason = match Errno::from_io_error(&error) {
            Some(Errno::BUSY) => inhabited(),
            _ => format!(
                "the {controller} controller of {} cannot be handed on",
                cgroup.path().display()
            ),
        };
        (reason, Some(error))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pretend(dir: &std::path::Path, controllers: &str) -> RunCgroup {
        let parent = Cgroup::at(dir);
        let cgroup = parent.child("run");
        fs::create_dir(cgroup.path()).unwrap();
        for cgroup in [&parent, &cgroup] {
            fs::write(cgroup.path().join("cgroup.controllers"), controllers).unwrap();
            fs::write(cgroup.path().join("cgroup.subtree_control"), "").unwrap();
        }
        RunCgroup { parent, cgroup }
    }

    #[test]
    fn limits_are_written_in_the_kernels_units() {
        let limits = LaunchLimits::default()
            .with_memory_bytes(1 << 20)
            .with_pids(7)
            .with_cpu_cores(1.5);
        let files = files(&limits);
        let values: Vec<_> = files
            .iter()
            .map(|(_, file, value)| (*file, value.as_str()))
            .collect();
        assert_eq!(
            values,
            [
                ("memory.max", "1048576"),
                ("pids.max", "7"),
                ("cpu.max", "150000 100000")
            ]
        );
        let tiny = LaunchLimits::default().with_cpu_cores(0.0);
        assert_eq!(super::files(&tiny)[0].2, "1000 100000");
    }

    #[test]
    fn controllers_are_handed_on_level_by_level_before_a_limit_is_set() {
        let dir = tempfile::tempdir().unwrap();
        let run = pretend(dir.path(), "cpu memory pids\n");
        let made = run.worker(7, &LaunchLimits::default().with_pids(3)).unwrap();
        assert!(made.cgroup.path().ends_with("run/7"));
        let read = |path: &str| fs::read_to_string(dir.path().join(path)).unwrap();
        assert_eq!(read("cgroup.subtree_control"), "+pids");
        assert_eq!(read("run/cgroup.subtree_control"), "+pids");
        assert_eq!(read("run/7/pids.max"), "3");
    }

    #[test]
    fn nothing_is_handed_on_by_a_cgroup_with_processes_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let run = pretend(dir.path(), "cpu memory pids\n");
        let write = |file: &str, text: &str| fs::write(dir.path().join(file), text).unwrap();
        write("cgroup.type", "domain\n");
        write("cgroup.procs", "");
        let limits = LaunchLimits::default().with_pids(3);
        run.worker(7, &limits).unwrap();
        write("cgroup.subtree_control", "");
        write("cgroup.procs", "4711\n");
        let error = run.worker(8, &limits).unwrap_err();
        let LaunchError::Unavailable { setting, reason, .. } = &error else {
            panic!("{error:?}");
        };
        assert_eq!(*setting, "pids");
        assert!(reason.contains("has processes itself"), "{reason}");
        let handed_on = fs::read_to_string(dir.path().join("cgroup.subtree_control")).unwrap();
        assert_eq!(handed_on, "");
    }

    #[test]
    fn a_controller_that_is_missing_is_named_with_the_place() {
        let dir = tempfile::tempdir().unwrap();
        let run = pretend(dir.path(), "cpu\n");
        let error = run
            .worker(7, &LaunchLimits::default().with_memory_bytes(1))
            .unwrap_err();
        let LaunchError::Unavailable { setting, reason, .. } = &error else {
            panic!("{error:?}");
        };
        assert_eq!(*setting, "memory_bytes");
        assert!(
            reason.contains("memory controller") && reason.contains("(there: cpu)"),
            "{reason}"
        );
        assert!(!dir.path().join("run/7").exists());
    }
}
