//! What [`PythonEnv`] promises, with real interpreters and with fake ones.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in its helpers"
)]

#[path = "common/executable.rs"]
mod executable;

use std::{
    fs,
    num::NonZeroUsize,
    os::unix::fs::{MetadataExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use executable::write_executable;
use snakepit::{
    PythonEnv,
    python_env::{PythonEnvError, Step, WorkerPackageSource},
};
use tempfile::TempDir;
use tokio::time::Instant;

/// A directory for a cache and for fake interpreters.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn builder(&self) -> snakepit::python_env::PythonEnvBuilder {
        PythonEnv::builder().cache_dir(self.path("cache"))
    }

    fn script(&self, name: &str, body: &str) -> PathBuf {
        let path = self.path(name);
        write_executable(&path, &format!("#!/bin/sh\n{body}\n"));
        path
    }
}

/// The interpreter that these tests compare with: a real one, behind whatever stands in PATH.
fn real_python() -> PathBuf {
    let home = Home::new();
    home.builder().build().unwrap().interpreter().path().to_path_buf()
}

/// The steps that are told while the environment is built.
fn steps(builder: snakepit::python_env::PythonEnvBuilder) -> (PythonEnv, Vec<Step>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let teller = Arc::clone(&told);
    let built = builder
        .on_step(move |step| teller.lock().unwrap().push(step.clone()))
        .build()
        .unwrap();
    let told = told.lock().unwrap().clone();
    (built, told)
}

#[test]
fn the_laid_package_is_imported_from_the_cache() {
    let home = Home::new();
    let python = home.builder().build().unwrap();
    let WorkerPackageSource::Built(library) = python.worker_package().source() else {
        panic!("{:?}", python.worker_package());
    };
    let laid = python.worker_package().dir().join("snakepit/_native.abi3.so");
    assert!(laid.starts_with(home.path("cache")));
    assert_eq!(fs::read(library).unwrap(), fs::read(&laid).unwrap());

    // No worker compiles it again, whatever PYTHONDONTWRITEBYTECODE says.
    let version = python.interpreter().version();
    let compiled = format!(
        "snakepit/__pycache__/__init__.cpython-{}{}.pyc",
        version.major, version.minor
    );
    assert!(python.worker_package().dir().join(compiled).exists());

    let worker = python.command(NonZeroUsize::MIN);
    let answer = Command::new(&worker.program)
        .args([
            "-P",
            "-c",
            "import snakepit, snakepit._native as n; print(n.__file__)",
        ])
        .envs(worker.env)
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&answer.stdout).trim(),
        laid.to_str().unwrap()
    );
}

#[test]
fn every_python_file_of_the_checkout_is_laid() {
    let home = Home::new();
    let python = home.builder().build().unwrap();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/snakepit");
    let mut compared = 0;
    for entry in fs::read_dir(&sources).unwrap().flatten() {
        let path = entry.path();
        let name = path.file_name().unwrap();
        let kind = path.extension().and_then(|kind| kind.to_str());
        if matches!(kind, Some("py" | "pyi" | "typed")) {
            let laid = python.worker_package().dir().join("snakepit").join(name);
            assert_eq!(fs::read(&path).unwrap(), fs::read(laid).unwrap(), "{name:?}");
            compared += 1;
        }
    }
    assert!(compared > 3);
}

#[test]
fn a_second_run_asks_and_lays_nothing_and_takes_no_time() {
    let home = Home::new();
    let (first, told) = steps(home.builder());
    assert!(told.contains(&Step::LayWorkerPackage), "{told:?}");
    let (second, told) = steps(home.builder());
    assert_eq!(told, []);
    assert_eq!(first.worker_package().dir(), second.worker_package().dir());
    let fastest = (0..10)
        .map(|_| {
            let began = Instant::now();
            home.builder().build().unwrap();
            began.elapsed()
        })
        .min()
        .unwrap();
    assert!(fastest < Duration::from_millis(10), "{fastest:?}");
}

#[test]
fn many_at_once_lay_the_package_once() {
    let home = Home::new();
    let laid: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| steps(home.builder()))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let layings = laid
        .iter()
        .flat_map(|(_, told)| told)
        .filter(|step| **step == Step::LayWorkerPackage);
    assert_eq!(layings.count(), 1);
    let dirs = fs::read_dir(home.path("cache/worker")).unwrap().flatten();
    assert_eq!(dirs.filter(|entry| entry.path().is_dir()).count(), 1);
}

#[test]
fn a_damaged_package_is_laid_again() {
    let home = Home::new();
    let first = home.builder().build().unwrap();
    let damaged = first.worker_package().dir().join("snakepit/__init__.py");
    let whole = fs::read(&damaged).unwrap();
    fs::write(&damaged, "").unwrap();
    drop(first);
    let (_, told) = steps(home.builder());
    assert!(told.contains(&Step::LayWorkerPackage), "{told:?}");
    assert_eq!(fs::read(&damaged).unwrap(), whole);
}

#[test]
fn what_is_kept_is_the_owners_alone() {
    let home = Home::new();
    home.builder().build().unwrap();
    let mode = fs::metadata(home.path("cache")).unwrap().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn a_shim_is_seen_through_and_asked_once() {
    let home = Home::new();
    let real = real_python();
    let count = home.path("count");
    let shim = format!(
        "echo x >> '{}'; exec '{}' \"$@\"",
        count.display(),
        real.display()
    );
    home.script("bin/python3", &shim);
    for _ in 0..3 {
        let python = home.builder().search_path(home.path("bin")).build().unwrap();
        assert_eq!(python.interpreter().path(), real);
        assert_eq!(python.command(NonZeroUsize::MIN).program, real);
    }
    assert_eq!(fs::read_to_string(count).unwrap().lines().count(), 1);
}

#[test]
fn a_shim_is_asked_again_when_it_has_changed() {
    let home = Home::new();
    let real = real_python();
    home.script("bin/python3", "echo snakepit-probe; echo version 3.9.18");
    let build = || home.builder().search_path(home.path("bin")).build();
    assert!(matches!(build(), Err(PythonEnvError::NoInterpreter { .. })));
    home.script(
        "bin/python3",
        &format!("exec '{}' \"$@\"  # another length", real.display()),
    );
    assert_eq!(build().unwrap().interpreter().path(), real);
}

#[test]
fn the_first_that_serves_is_taken_and_the_plain_name_comes_first() {
    let home = Home::new();
    let real = real_python();
    home.script("a/python3", "echo snakepit-probe; echo version 3.10.1");
    fs::create_dir_all(home.path("b")).unwrap();
    symlink(&real, home.path("b/python3")).unwrap();
    home.script("a/python3.99", "exit 1");
    let path = std::env::join_paths([home.path("a"), home.path("b")]).unwrap();
    let python = home.builder().search_path(path).build().unwrap();
    assert_eq!(python.interpreter().path(), home.path("b/python3"));
}

#[test]
fn a_given_interpreter_that_does_not_serve_says_why() {
    let home = Home::new();
    let old = home.script("old", "echo snakepit-probe; echo version 3.8.1");
    let plain = home.path("plain");
    fs::write(&plain, "").unwrap();
    let empty = home.path("empty");
    fs::create_dir(&empty).unwrap();
    let broken = home.script("broken", "echo 'libpython is gone' >&2; exit 127");
    for (interpreter, why) in [
        (old, "too old"),
        (plain, "Permission denied"),
        (broken, "libpython is gone"),
        (home.path("nowhere"), "No such file"),
        (empty, "without bin/python"),
        (PathBuf::from("no-such-python"), "not on PATH"),
    ] {
        let error = home.builder().interpreter(&interpreter).build().unwrap_err();
        assert!(matches!(error, PythonEnvError::Interpreter { .. }));
        let text = error.to_string();
        assert!(
            text.contains(why) && text.contains(interpreter.to_str().unwrap()),
            "{text}"
        );
    }
}

#[test]
fn without_any_interpreter_the_remedy_is_told() {
    let home = Home::new();
    let error = home
        .builder()
        .search_path(home.path("nothing"))
        .build()
        .unwrap_err()
        .to_string();
    assert!(error.contains("install Python 3.11"), "{error}");
}

#[test]
fn a_virtual_environment_is_kept_as_it_is_named() {
    let home = Home::new();
    let venv = home.path("venv");
    let made = Command::new(real_python())
        .args(["-m", "venv", "--without-pip"])
        .arg(&venv)
        .status();
    assert!(made.unwrap().success());
    let python = home.builder().interpreter(&venv).build().unwrap();
    assert_eq!(python.interpreter().path(), venv.join("bin/python"));
    let answer = Command::new(python.interpreter().path())
        .args(["-c", "import sys; print(sys.prefix)"])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&answer.stdout).trim(),
        venv.to_str().unwrap()
    );
}

#[test]
fn an_installed_package_of_another_version_is_passed_over() {
    let home = Home::new();
    let venv = home.path("venv");
    let made = Command::new(real_python())
        .args(["-m", "venv", "--without-pip"])
        .arg(&venv)
        .status();
    assert!(made.unwrap().success());
    let python = home.builder().interpreter(&venv).build().unwrap();
    let version = python.interpreter().version();
    let site = venv.join(format!(
        "lib/python{}.{}/site-packages",
        version.major, version.minor
    ));

    fs::create_dir_all(site.join("snakepit-0.0.1.dist-info")).unwrap();
    let other = home.builder().interpreter(&venv).build().unwrap();
    assert!(matches!(
        other.worker_package().source(),
        WorkerPackageSource::Built(_)
    ));

    fs::remove_dir(site.join("snakepit-0.0.1.dist-info")).unwrap();
    let ours = format!("snakepit-{}.dist-info", env!("CARGO_PKG_VERSION"));
    fs::create_dir_all(site.join(ours)).unwrap();
    let matching = home.builder().interpreter(&venv).build().unwrap();
    assert_eq!(
        *matching.worker_package().source(),
        WorkerPackageSource::Installed
    );
    let worker = matching.command(NonZeroUsize::MIN);
    let path = worker.env.iter().find(|(name, _)| name == "PYTHONPATH");
    assert!(path.is_none(), "{path:?}");
}

#[test]
fn packages_make_an_environment_once() {
    let home = Home::new();
    // A package of our own, so that no network is needed.
    let package = home.path("tiny");
    fs::create_dir_all(&package).unwrap();
    fs::write(package.join("tiny_snakepit_test.py"), "answer = 42\n").unwrap();
    let wheel = make_wheel(&home, &package);

    let with = || home.builder().with_packages([wheel.to_str().unwrap()]);
    let (python, told) = steps(with());
    assert!(
        told.iter().any(|step| matches!(step, Step::MakeVenv { .. })),
        "{told:?}"
    );
    assert_eq!(
        python.interpreter().path(),
        python.venv().unwrap().join("bin/python")
    );
    let worker = python.command(NonZeroUsize::MIN);
    let answer = Command::new(&worker.program)
        .args([
            "-P",
            "-c",
            "import snakepit, tiny_snakepit_test as t; print(t.answer)",
        ])
        .envs(worker.env)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&answer.stdout).trim(), "42", "{answer:?}");

    let (again, told) = steps(with());
    assert_eq!((again.venv(), told), (python.venv(), vec![]));

    // An unfinished environment, as a kill leaves it, is made anew.
    fs::remove_file(python.venv().unwrap().join(".snakepit-done")).unwrap();
    let (_, told) = steps(with());
    assert!(
        told.iter().any(|step| matches!(step, Step::MakeVenv { .. })),
        "{told:?}"
    );
}

#[test]
fn a_package_that_cannot_be_installed_is_told_with_the_tools_words() {
    let home = Home::new();
    let missing = home.path("no_such-1-py3-none-any.whl");
    let error = home
        .builder()
        .with_packages([missing.to_str().unwrap()])
        .build()
        .unwrap_err();
    let PythonEnvError::Install { packages, output, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(packages, &[missing.to_str().unwrap()]);
    assert!(output.contains("no_such"), "{output}");
    assert!(error.is_retryable());
    // Nothing is left of what could not be made, but the lock that those who make it take.
    for left in fs::read_dir(home.path("cache/venvs")).unwrap() {
        let left = left.unwrap().path();
        assert!(left.is_file(), "{}", left.display());
    }
}

#[test]
fn numeric_libraries_share_the_processors_out() {
    let home = Home::new();
    let python = home.builder().build().unwrap();
    let threads = |workers| {
        let env = python.command(NonZeroUsize::new(workers).unwrap()).env;
        let found = env.into_iter().find(|(name, _)| name == "OPENBLAS_NUM_THREADS");
        found.and_then(|(_, threads)| threads.to_str()?.parse::<usize>().ok())
    };
    if std::env::var_os("OMP_NUM_THREADS").is_none() && std::env::var_os("OPENBLAS_NUM_THREADS").is_none() {
        let cores = thread::available_parallelism().unwrap().get();
        assert_eq!(threads(1), Some(cores));
        assert_eq!(threads(10_000), Some(1));
    }
}

/// A wheel with one module, made by Python's zipfile.
fn make_wheel(home: &Home, package: &Path) -> PathBuf {
    const MAKE: &str = "
import sys, zipfile
source, wheel = sys.argv[1:]
info = 'tiny_snakepit_test-1.dist-info/'
with zipfile.ZipFile(wheel, 'w') as archive:
    archive.write(source + '/tiny_snakepit_test.py', 'tiny_snakepit_test.py')
    archive.writestr(info + 'METADATA', 'Metadata-Version: 2.1\\nName: tiny-snakepit-test\\nVersion: 1\\n')
    archive.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
    archive.writestr(info + 'RECORD', '')
";
    let wheel = home.path("tiny_snakepit_test-1-py3-none-any.whl");
    let made = Command::new(real_python())
        .args(["-c", MAKE])
        .args([package, &wheel])
        .status();
    assert!(made.unwrap().success());
    wheel
}
