//! Where the worker package `snakepit` comes from.

use std::path::{Path, PathBuf};

use super::{
    PythonEnvError,
    cache::{self, Cache},
    compile,
    interpreter::Interpreter,
    lay::{self, Laid},
    step::Observer,
    surroundings::Surroundings,
};

/// The library that cargo builds beside the program.
const LIBRARY: &str = "libsnakepit_native.so";
/// The version a package must have to be ours.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The worker package and where it came from.
#[derive(Clone, Debug)]
pub struct WorkerPackage {
    source: WorkerPackageSource,
    dir: PathBuf,
    /// Holds the lease of a package in the cache.
    _laid: Option<Laid>,
}

/// Where a worker package came from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WorkerPackageSource {
    /// Named by `$SNAKEPIT_WORKER_PACKAGE`.
    Named,
    /// Installed in the interpreter, as by pip.
    Installed,
    /// Laid into the cache from the library that cargo built at this path.
    Built(PathBuf),
}

impl WorkerPackage {
    /// Where it came from.
    pub fn source(&self) -> &WorkerPackageSource {
        &self.source
    }

    /// The directory that holds the directory `snakepit`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What has to be on Python's path; nothing for a package that Python finds by itself.
    pub(super) fn python_path(&self) -> Option<&Path> {
        (self.source != WorkerPackageSource::Installed).then_some(&self.dir)
    }
}

/// Chooses the package for an interpreter. `given` tells that the user chose the interpreter: what is installed
/// in it is taken as chosen along with it.
pub(super) fn choose(
    surroundings: &Surroundings,
    cache: Result<Cache, PythonEnvError>,
    interpreter: &Interpreter,
    given: bool,
    observer: &Observer,
) -> Result<WorkerPackage, PythonEnvError> {
    let package = find(surroundings, cache, interpreter, given, observer)?;
    // Python would say so with each worker's start, one after the other until their deadline.
    if cache::is_noexec(&package.dir) {
        return Err(PythonEnvError::NoexecWorkerPackage { dir: package.dir });
    }
    Ok(package)
}

fn find(
    surroundings: &Surroundings,
    cache: Result<Cache, PythonEnvError>,
    interpreter: &Interpreter,
    given: bool,
    observer: &Observer,
) -> Result<WorkerPackage, PythonEnvError> {
    if let Some(dir) = &surroundings.worker_package {
        return named(dir);
    }
    let mut looked = Vec::new();
    let installed = installed(interpreter, &mut looked);
    if given && let Some(package) = installed {
        return Ok(package);
    }
    if let Some(library) = built_library(surroundings, interpreter, &mut looked) {
        let laid = lay::ensure(&cache?, &library, observer)?;
        compile::ensure(interpreter, &laid.dir);
        return Ok(WorkerPackage {
            source: WorkerPackageSource::Built(library),
            dir: laid.dir.clone(),
            _laid: Some(laid),
        });
    }
    installed.ok_or_else(|| PythonEnvError::NoWorkerPackage {
        interpreter: interpreter.path().to_path_buf(),
        looked,
    })
}

fn named(dir: &Path) -> Result<WorkerPackage, PythonEnvError> {
    let bad = |missing| PythonEnvError::BadWorkerPackage {
        dir: dir.to_path_buf(),
        missing,
    };
    let absolute = std::path::absolute(dir).map_err(PythonEnvError::file("find", dir))?;
    let package = absolute.join("snakepit");
    if !package.join("__init__.py").is_file() {
        return Err(bad("snakepit/__init__.py"));
    }
    let is_native = |name: &std::ffi::OsStr| {
        let name = name.to_string_lossy();
        name.starts_with("_native.") && name.ends_with(".so")
    };
    let native = std::fs::read_dir(&package)
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| is_native(&entry.file_name()));
    if !native {
        return Err(bad("snakepit/_native.*.so"));
    }
    Ok(WorkerPackage {
        source: WorkerPackageSource::Named,
        dir: absolute,
        _laid: None,
    })
}

fn installed(interpreter: &Interpreter, looked: &mut Vec<String>) -> Option<WorkerPackage> {
    let Some(package) = interpreter.installed_package() else {
        looked.push("it is not installed in that interpreter".to_owned());
        return None;
    };
    if package.version != VERSION {
        looked.push(format!(
            "version {} is installed in {}, but this is version {VERSION}",
            package.version,
            package.dir.display()
        ));
        return None;
    }
    Some(WorkerPackage {
        source: WorkerPackageSource::Installed,
        dir: package.dir,
        _laid: None,
    })
}

/// The library that cargo built with the running program, where this build can make a package of it.
fn built_library(
    surroundings: &Surroundings,
    interpreter: &Interpreter,
    looked: &mut Vec<String>,
) -> Option<PathBuf> {
    if !lay::has_sources() {
        looked.push("this program was built without the package's Python files".to_owned());
        return None;
    }
    let places = library_places(surroundings.exe.as_deref());
    let Some(library) = places.iter().find(|path| path.is_file()) else {
        let places: Vec<_> = places.iter().map(|path| path.display().to_string()).collect();
        looked.push(format!("there is no {}", places.join(" or ")));
        return None;
    };
    if interpreter.is_free_threaded() {
        looked.push(format!(
            "{} cannot be loaded by a free-threaded Python; it needs a wheel of its own",
            library.display()
        ));
        return None;
    }
    Some(library.clone())
}

/// Where cargo leaves the library, seen from what it built: a program, a test in `deps` or an example. That in
/// `deps` is first, because cargo always refreshes it and the one beside the program only in a workspace build.
fn library_places(exe: Option<&Path>) -> Vec<PathBuf> {
    let Some(dir) = exe.and_then(Path::parent) else {
        return Vec::new();
    };
    let profile = match dir.file_name().and_then(|name| name.to_str()) {
        Some("deps" | "examples") => dir.parent().unwrap_or(dir),
        _ => dir,
    };
    vec![profile.join("deps").join(LIBRARY), profile.join(LIBRARY)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_tests_and_examples_find_the_same_library() {
        for exe in [
            "/t/debug/snakepit",
            "/t/debug/deps/cli-1a2b",
            "/t/debug/examples/tour",
        ] {
            let places = library_places(Some(Path::new(exe)));
            assert_eq!(
                places[0],
                Path::new("/t/debug/deps/libsnakepit_native.so"),
                "{exe}"
            );
            assert_eq!(places[1], Path::new("/t/debug/libsnakepit_native.so"), "{exe}");
        }
        assert!(library_places(None).is_empty());
    }

    #[test]
    fn a_named_directory_without_the_package_is_refused_with_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let error = named(dir.path()).unwrap_err().to_string();
        assert!(error.contains("snakepit/__init__.py"), "{error}");
        std::fs::create_dir(dir.path().join("snakepit")).unwrap();
        std::fs::write(dir.path().join("snakepit/__init__.py"), "").unwrap();
        let error = named(dir.path()).unwrap_err().to_string();
        assert!(error.contains("_native"), "{error}");
        std::fs::write(dir.path().join("snakepit/_native.abi3.so"), "").unwrap();
        assert_eq!(named(dir.path()).unwrap().python_path(), Some(dir.path()));
    }
}
