//! Lays the worker package into the cache, so that an interpreter can import it.
//!
//! The directory is named by the hash of all it holds, appears by one rename, and is never changed again. Whoever
//! uses it holds a shared lock; pruning needs the lock alone.

use std::{
    fs,
    io::Write as _,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    PythonEnvError,
    cache::{self, Cache, Lock},
    memo::Stamp,
    prune,
    step::{Observer, Step},
};

/// The Python files of the package, as the build script found them: path below `snakepit/`, content.
const SOURCES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/worker_sources.rs"));

/// What the native module is called inside the package: importable by every CPython from the minimum on.
const NATIVE: &str = "_native.abi3.so";

/// How often to begin again when the library changes or the directory vanishes in between. A build that goes on
/// beside us changes it once.
const ATTEMPTS: usize = 5;

/// A package in the cache.
#[derive(Clone, Debug)]
pub(super) struct Laid {
    /// What goes on `sys.path`.
    pub(super) dir: PathBuf,
    /// While it is held, nobody prunes the directory.
    _lease: Arc<Lock>,
}

/// Whether this build carries the package's Python files. One from a registry does not.
pub(super) fn has_sources() -> bool {
    SOURCES.iter().any(|(name, _)| *name == "__init__.py")
}

/// The package made of our Python files and this native library, laid now unless it already lies there.
pub(super) fn ensure(cache: &Cache, library: &Path, observer: &Observer) -> Result<Laid, PythonEnvError> {
    let packages = cache.dir("worker")?;
    for _ in 0..ATTEMPTS {
        let hash = library_hash(cache, library)?;
        let name = package_name(&hash);
        let dir = packages.join(&name);
        let lock = packages.join(format!("{name}.lock"));
        let lease = cache::lock_shared(&lock)?;
        if is_whole(&dir, library) {
            // Pruning goes by the time of the last use. That it is not told matters little.
            let _ = lease.set_modified(std::time::SystemTime::now());
            return Ok(Laid {
                dir,
                _lease: Arc::new(lease),
            });
        }
        drop(lease);
        let alone = cache::lock_alone(&lock, &dir, observer)?;
        if !is_whole(&dir, library) {
            observer.tell(Step::LayWorkerPackage);
            lay(&packages, &dir, library, &hash)?;
            prune::prune(&packages, &dir);
        }
        drop(alone);
    }
    Err(PythonEnvError::file("lay into the cache", library)(
        std::io::Error::other("it kept changing meanwhile"),
    ))
}

fn package_name(library_hash: &str) -> String {
    let mut parts = vec![library_hash.as_bytes()];
    for (name, content) in SOURCES {
        parts.push(name.as_bytes());
        parts.push(content);
    }
    cache::name_of(&parts)
}

/// The hash of the library's content. It is kept with the file's stamp, for hashing a debug build of tens of
/// megabytes at every start would be felt.
fn library_hash(cache: &Cache, library: &Path) -> Result<String, PythonEnvError> {
    let stamp = Stamp::of(library);
    let file = cache
        .dir("worker")?
        .join(cache::name_of(&[library.as_os_str().as_bytes()]) + ".stamp");
    let kept = fs::read(&file)
        .ok()
        .and_then(|text| serde_json::from_slice::<(Stamp, String)>(&text).ok());
    if let (Some(stamp), Some((kept, hash))) = (&stamp, kept)
        && *stamp == kept
    {
        return Ok(hash);
    }
    let content = fs::read(library).map_err(PythonEnvError::file("read", library))?;
    let hash = content_hash(&content);
    if let Some(stamp) = stamp
        && let Ok(text) = serde_json::to_vec(&(stamp, &hash))
        && let Err(error) = cache::write_whole(&file, &text)
    {
        tracing::debug!(file = %file.display(), %error, "the library's hash was not kept");
    }
    Ok(hash)
}

fn content_hash(content: &[u8]) -> String {
    blake3::hash(content).to_hex().to_string()
}

/// Whether all is there in full size. A crash of the machine may leave files short that were renamed into place.
fn is_whole(dir: &Path, library: &Path) -> bool {
    let package = dir.join("snakepit");
    let size = |path: &Path| fs::metadata(path).map(|found| found.len()).ok();
    let sources_whole = SOURCES
        .iter()
        .all(|(name, content)| size(&package.join(name)) == Some(content.len() as u64));
    sources_whole && size(library).is_some_and(|length| size(&package.join(NATIVE)) == Some(length))
}

/// Writes everything beside `dir` and renames it into place. Nothing is done, and that is no error, when the
/// library has changed since it was hashed: the caller looks again.
fn lay(packages: &Path, dir: &Path, library: &Path, hash: &str) -> Result<(), PythonEnvError> {
    let content = fs::read(library).map_err(PythonEnvError::file("read", library))?;
    if content_hash(&content) != hash {
        return Ok(());
    }
    let temporary = prune::unfinished(packages, dir);
    remove_if_there(&temporary)?;
    let written = write_all(&temporary, &content).and_then(|()| {
        remove_if_there(dir)?;
        fs::rename(&temporary, dir).map_err(PythonEnvError::file("make", dir))
    });
    if written.is_err() {
        // The first error is the one that matters.
        let _ = fs::remove_dir_all(&temporary);
    }
    written
}

fn write_all(dir: &Path, library: &[u8]) -> Result<(), PythonEnvError> {
    let package = dir.join("snakepit");
    let native = (NATIVE, library);
    for (name, content) in SOURCES.iter().copied().chain([native]) {
        let path = package.join(name);
        let parent = path.parent().unwrap_or(&package);
        fs::create_dir_all(parent).map_err(PythonEnvError::file("make the directory", parent))?;
        fs::File::create(&path)
            .and_then(|mut file| file.write_all(content))
            .map_err(PythonEnvError::file("write", &path))?;
    }
    Ok(())
}

fn remove_if_there(dir: &Path) -> Result<(), PythonEnvError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(PythonEnvError::file("remove", dir)(error))
        }
        _ => Ok(()),
    }
}
