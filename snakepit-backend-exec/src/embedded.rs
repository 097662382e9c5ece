//! The guardian's program, which this crate carries.
//!
//! The build compiles it and it is part of the library: there is nothing to install and no path to configure. It is
//! executed from memory, from a file without a name that nobody can change any more. Where the system executes
//! nothing from memory (`vm.memfd_noexec`, a security module, no `/proc`), a file that only its user can read takes its
//! place for the moment of the start.

use std::{
    collections::hash_map::RandomState,
    env,
    ffi::OsString,
    fs::{self, File, OpenOptions},
    hash::{BuildHasher, Hasher},
    io::{self, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{fs::OpenOptionsExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::Duration,
};

use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    io::Errno,
};

/// The program, an executable of this platform.
static GUARDIAN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/snakepit-guardian"));

/// What it is called in lists of processes.
const NAME: &str = "snakepit-guardian";

/// How often a file is tried that another thread's new process holds open for writing until it has executed its own
/// program, and how long it is left alone in between.
const BUSY_TRIES: u32 = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(2);

/// Starts the guardian. `prepare` sets its descriptors, arguments and environment, once for each way that is tried;
/// it must set no hook to run before the program, which would make the start a fork of the whole host.
///
/// # Errors
/// What the start answers. Where executing from memory is refused, the last of what executing a file answered.
pub(crate) fn spawn(mut prepare: impl FnMut(&mut Command) -> io::Result<()>) -> io::Result<Child> {
    let mut start = |program: &Path| {
        let mut command = Command::new(program);
        command.arg0(NAME);
        prepare(&mut command)?;
        command.spawn()
    };
    let refused = match in_memory() {
        // The descriptor has the same number in the new process until the program is executed.
        Ok(program) => match start(Path::new(&format!("/proc/self/fd/{}", program.as_raw_fd()))) {
            Err(error) if is_refusal(&error) => error,
            answer => return answer,
        },
        Err(error) => error,
    };
    tracing::debug!(%refused, "no program is executed from memory here; the guardian is started from a file");
    from_file(places(), &mut start).unwrap_or(Err(refused))
}

/// The kernel's answers where this place is not one to execute from.
fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound
    )
}

/// The program in a sealed memory file.
fn in_memory() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = match memfd_create(NAME, flags | MemfdFlags::EXEC) {
        // Before Linux 6.3 every memory file could be executed.
        Err(Errno::INVAL) => memfd_create(NAME, flags),
        file => file,
    };
    let mut file = File::from(file?);
    file.write_all(GUARDIAN)?;
    fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    Ok(file.into())
}

/// Directories that a file may be executed from, likeliest first.
fn places() -> Vec<PathBuf> {
    let set = |name| {
        env::var_os(name)
            .filter(|value: &OsString| !value.is_empty())
            .map(PathBuf::from)
    };
    let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    let places = [
        set("XDG_RUNTIME_DIR"),
        cache,
        Some(env::temp_dir()),
        Some("/var/tmp".into()),
    ];
    places
        .into_iter()
        .flatten()
        .filter(|place| place.is_absolute())
        .collect()
}

/// Starts it from a file in the first of these places that allows it. `None` when there is no place.
fn from_file(
    places: Vec<PathBuf>,
    start: &mut impl FnMut(&Path) -> io::Result<Child>,
) -> Option<io::Result<Child>> {
    let mut last = None;
    for place in places {
        let answer = Named::write(&place).and_then(|file| file.start(start));
        match answer {
            Err(error) => last = Some(Err(error)),
            started => return Some(started),
        }
    }
    last
}

/// The program in a file that is removed when this is dropped.
struct Named(PathBuf);

impl Named {
    fn write(place: &Path) -> io::Result<Self> {
        // Not to be guessed; and should it exist all the same, it is not written to.
        let random = RandomState::new().build_hasher().finish();
        let path = place.join(format!(".{NAME}-{}-{random:016x}", std::process::id()));
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o700)
            .open(&path)?;
        let named = Self(path);
        file.write_all(GUARDIAN)?;
        Ok(named)
    }

    fn start(&self, start: &mut impl FnMut(&Path) -> io::Result<Child>) -> io::Result<Child> {
        for _ in 0..BUSY_TRIES {
            match start(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => thread::sleep(BUSY_PAUSE),
                answer => return answer,
            }
        }
        Err(io::ErrorKind::ExecutableFileBusy.into())
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        // The process that executes it keeps it; a name that stays takes room and does no harm.
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Output, Stdio};

    use super::*;

    fn version(command: &mut Command) -> io::Result<()> {
        command.arg("--version").stdout(Stdio::piped());
        Ok(())
    }

    fn assert_version(child: io::Result<Child>) {
        let Output { status, stdout, .. } = child.unwrap().wait_with_output().unwrap();
        let stdout = String::from_utf8(stdout).unwrap();
        assert!(
            status.success() && stdout.starts_with("snakepit-guardian "),
            "{status}: {stdout}"
        );
    }

    #[test]
    fn it_is_executed_from_memory() {
        let program = in_memory().unwrap();
        assert!(rustix::io::write(&program, b"x").is_err(), "it can be changed");
        assert_version(spawn(version));
    }

    #[test]
    fn it_is_executed_from_the_first_place_that_allows_it_and_leaves_no_file() {
        let place = tempfile::tempdir().unwrap();
        let places = vec!["/proc".into(), "/nowhere".into(), place.path().to_path_buf()];
        let mut start = |path: &Path| {
            let mut command = Command::new(path);
            version(&mut command)?;
            command.spawn()
        };
        assert_version(from_file(places, &mut start).unwrap());
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
        let refused = from_file(vec!["/nowhere".into()], &mut start).unwrap();
        assert!(is_refusal(&refused.unwrap_err()));
        assert!(from_file(Vec::new(), &mut start).is_none());
    }

    #[test]
    fn it_is_small() {
        assert!(
            (1..1_000_000).contains(&GUARDIAN.len()),
            "{} bytes",
            GUARDIAN.len()
        );
    }
}
