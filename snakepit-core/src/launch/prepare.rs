//! What every backend does with a spec before it creates the process.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use rustix::{
    fs::{Access, access},
    io::Errno,
};
use snakepit_proto::env;

use super::LaunchSpec;
use crate::process::ProcessIdentity;

/// The search path of execvp(3) where `PATH` is not set.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// The variables by which numeric libraries are told how many threads to start, each by its own; the first is the one that the
/// others fall back on.
pub const NUMERIC_THREADS: [&str; 5] = [
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
];

/// The whole environment of a worker: the host's variables less `env_remove`, plus `env`, plus the ones by which
/// run, host, worker and channel are told (the names are in [`env`](super::env)).
///
/// # Errors
/// `InvalidInput` for a name that cannot be one, or a value with a NUL byte.
pub fn environment(spec: &LaunchSpec) -> io::Result<BTreeMap<OsString, OsString>> {
    let mut all: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
    for (name, value) in environment_changes(spec)? {
        match value {
            Some(value) => all.insert(name, value),
            None => all.remove(&name),
        };
    }
    Ok(all)
}

/// What distinguishes the [`environment`] of a worker from the host's, to be applied in order: a variable and its value, or
/// none for one to remove.
///
/// # Errors
/// As [`environment`].
pub(super) fn environment_changes(spec: &LaunchSpec) -> io::Result<Vec<(OsString, Option<OsString>)>> {
    let mut changes: Vec<_> = spec.env_remove.iter().map(|name| (name.clone(), None)).collect();
    for (name, value) in &spec.env {
        check_variable(name, value)?;
        changes.push((name.clone(), Some(value.clone())));
    }
    let mut set = |name: &str, value: String| changes.push((name.into(), Some(value.into())));
    set(env::RUN_ID, spec.run_id.to_string());
    set(env::WORKER_ID, spec.worker_id.0.to_string());
    set(env::CHANNEL, spec.channel.to_string());
    set(env::HOST, host_identity()?.to_owned());
    // A host inside a worker of another host: its workers carry both runs, so that either can find them.
    let own = (
        std::env::var(env::RUN_ID).ok(),
        std::env::var(env::OUTER_RUN_IDS).ok(),
    );
    if let Some(outer) = outer_run_ids(own.0, own.1) {
        set(env::OUTER_RUN_IDS, outer);
    }
    Ok(changes)
}

/// Who this process is, in the form of [`env::HOST`](super::env::HOST).
///
/// # Errors
/// What reading `/proc` answers.
pub fn host_identity() -> io::Result<&'static str> {
    // By pid: a fork of the host that starts workers of its own is another host.
    static IDENTITY: OnceLock<(u32, String)> = OnceLock::new();
    let read = || {
        ProcessIdentity::of_pid(std::process::id()).map(|own| {
            format!(
                "{}.{}.{}.{}",
                own.pid, own.start_ticks, own.pid_namespace, own.boot_id
            )
        })
    };
    match IDENTITY.get() {
        Some((pid, identity)) if *pid == std::process::id() => Ok(identity),
        // Inherited over a fork: read anew each time, and leaked, as a child that goes on to start workers is rare.
        Some(_) => Ok(Box::leak(read()?.into_boxed_str())),
        None => {
            let identity = read()?;
            Ok(&IDENTITY.get_or_init(|| (std::process::id(), identity)).1)
        }
    }
}

/// The runs outside ours: those outside the host, then the one the host is a worker of.
fn outer_run_ids(host_run_id: Option<String>, host_outer: Option<String>) -> Option<String> {
    let host = host_run_id?;
    Some(match host_outer.filter(|list| !list.is_empty()) {
        Some(list) => format!("{list}:{host}"),
        None => host,
    })
}

fn check_variable(name: &OsStr, value: &OsStr) -> io::Result<()> {
    let invalid = |message: String| Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    if name.is_empty() || name.as_bytes().contains(&b'=') || name.as_bytes().contains(&0) {
        return invalid(format!("`{}` is not the name of a variable", name.display()));
    }
    if value.as_bytes().contains(&0) {
        return invalid(format!("the value of `{}` has a NUL byte", name.display()));
    }
    Ok(())
}

/// Whether a directory can be a working directory. Asked before a process is created, since execve(2) has one error
/// for a missing program and a missing directory.
///
/// # Errors
/// What is wrong with it.
pub fn check_cwd(path: &Path) -> io::Result<()> {
    if !std::fs::metadata(path)?.is_dir() {
        return Err(Errno::NOTDIR.into());
    }
    Ok(access(path, Access::EXEC_OK)?)
}

/// The path of a program, looked up as execvp(3) does it.
///
/// # Errors
/// `NotFound`, or `PermissionDenied` when what was found may not be executed.
pub fn resolve_program(program: &Path) -> io::Result<PathBuf> {
    if program.as_os_str().is_empty() {
        return Err(Errno::NOENT.into());
    }
    if program.as_os_str().as_bytes().contains(&b'/') {
        return std::path::absolute(program);
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let mut refused = Errno::NOENT;
    for dir in std::env::split_paths(&path) {
        let candidate = std::path::absolute(dir.join(program))?;
        if !candidate.is_file() {
            continue;
        }
        match access(&candidate, Access::EXEC_OK) {
            Ok(()) => return Ok(candidate),
            Err(error) => refused = error,
        }
    }
    Err(refused.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Stat;

    #[test]
    fn outer_runs_are_listed_from_the_outside() {
        let outer = |host: Option<&str>, list: Option<&str>| {
            outer_run_ids(host.map(str::to_owned), list.map(str::to_owned))
        };
        assert_eq!(outer(None, None), None);
        assert_eq!(outer(None, Some("a")), None);
        assert_eq!(outer(Some("b"), None).unwrap(), "b");
        assert_eq!(outer(Some("b"), Some("")).unwrap(), "b");
        assert_eq!(outer(Some("c"), Some("a:b")).unwrap(), "a:b:c");
    }

    #[test]
    fn programs_are_found_as_execvp_finds_them() {
        assert!(resolve_program(Path::new("sh")).unwrap().is_absolute());
        assert!(resolve_program(Path::new("./x")).unwrap().is_absolute());
        for missing in ["", "no-such-program-anywhere"] {
            let error = resolve_program(Path::new(missing)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
        }
    }

    #[test]
    fn the_host_is_named_so_that_its_life_can_be_checked() {
        let text = host_identity().unwrap();
        let own = Stat::read(std::process::id()).unwrap();
        assert!(
            text.starts_with(&format!("{}.{}.", std::process::id(), own.start_ticks)),
            "{text}"
        );
        assert_eq!(text.splitn(4, '.').count(), 4);
    }

    #[test]
    fn names_and_values_that_cannot_be_are_refused() {
        for (name, value) in [("", "x"), ("a=b", "x"), ("a\0", "x"), ("a", "x\0")] {
            assert!(check_variable(OsStr::new(name), OsStr::new(value)).is_err());
        }
    }
}
