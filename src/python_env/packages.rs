//! Virtual environments for packages that were asked for.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::{
    PythonEnvError,
    cache::{self, Cache},
    interpreter::Interpreter,
    memo,
    run::{self, Finished},
    step::{Observer, Step},
    surroundings::Surroundings,
};

/// Bound on making the environment; ensurepip unpacks pip, which takes seconds on a slow disk.
const MAKE_LIMIT: Duration = Duration::from_secs(120);
/// Bound on an installation: a gigabyte over a slow line.
const INSTALL_LIMIT: Duration = Duration::from_secs(1800);
/// Lines of a failed tool's output that are passed on. pip and uv tell the reason in the last few.
const LINES: usize = 12;
/// Arguments of an environment's own Python. -I: nothing in the working directory may pass for pip.
const PIP_INSTALL: [&str; 7] = [
    "-I",
    "-m",
    "pip",
    "install",
    "--quiet",
    "--disable-pip-version-check",
    "--no-input",
];
/// Written last: an environment without it is unfinished and made anew.
const DONE: &str = ".snakepit-done";

/// An environment with the packages in it.
#[derive(Debug)]
pub(super) struct Venv {
    pub(super) dir: PathBuf,
    pub(super) interpreter: Interpreter,
}

/// Refuses what is an option to the installer and not a package.
pub(super) fn validate(packages: &[String]) -> Result<(), PythonEnvError> {
    let why = |spec: &str| match spec {
        spec if spec.trim().is_empty() => Some("it is empty"),
        spec if spec.trim_start().starts_with('-') => Some("it begins with a dash, as an option does"),
        spec if spec.contains(['\0', '\n', '\r']) => Some("it has more than one line"),
        _ => None,
    };
    match packages.iter().find_map(|spec| Some((spec, why(spec)?))) {
        Some((spec, why)) => Err(PythonEnvError::BadPackage {
            spec: spec.clone(),
            why,
        }),
        None => Ok(()),
    }
}

/// The environment for these packages, made now unless it is there.
pub(super) fn ensure(
    surroundings: &Surroundings,
    cache: &Cache,
    base: &Interpreter,
    packages: &[String],
    observer: &Observer,
) -> Result<Venv, PythonEnvError> {
    let mut packages: Vec<String> = packages.iter().map(|spec| spec.trim().to_owned()).collect();
    packages.sort_unstable();
    packages.dedup();

    let version = base.version().to_string();
    let mut key = vec![base.path().as_os_str().as_bytes(), version.as_bytes()];
    key.extend(packages.iter().map(String::as_bytes));
    let name = cache::name_of(&key);
    let venvs = cache.dir("venvs")?;
    let dir = venvs.join(&name);
    let python = dir.join("bin/python");

    if !is_done(&dir) {
        let _alone = cache::lock_alone(&venvs.join(format!("{name}.lock")), &dir, observer)?;
        if !is_done(&dir) {
            let made = make(surroundings, base, &dir, &python, &packages, observer);
            made.inspect_err(|_| {
                // What is left is removed by whoever makes it next.
                let _ = fs::remove_dir_all(&dir);
            })?;
        }
    }
    let interpreter = memo::ask(&python, surroundings, Some(cache), observer).map_err(|unfit| {
        PythonEnvError::Interpreter {
            interpreter: python,
            origin: "the virtual environment's",
            unfit,
        }
    })?;
    Ok(Venv { dir, interpreter })
}

/// The interpreter in it is a link to the one it was made from, which may have been removed since.
fn is_done(dir: &Path) -> bool {
    dir.join(DONE).exists() && dir.join("bin/python").exists()
}

/// Makes it where it will stay: an environment's scripts hold its path.
fn make(
    surroundings: &Surroundings,
    base: &Interpreter,
    dir: &Path,
    python: &Path,
    packages: &[String],
    observer: &Observer,
) -> Result<(), PythonEnvError> {
    if dir.exists() {
        fs::remove_dir_all(dir).map_err(PythonEnvError::file("remove the unfinished", dir))?;
    }
    let uv = find_uv(surroundings);
    let tool = if uv.is_some() { "uv" } else { "python -m venv" };
    observer.tell(Step::MakeVenv {
        dir: dir.to_path_buf(),
        tool,
    });
    let base_path = base.path().as_os_str();
    let mut making = match &uv {
        Some(uv) => tool_command(uv, &["venv", "--quiet", "--python"], Some(base_path)),
        None => tool_command(base.path(), &["-I", "-m", "venv"], None),
    };
    let made = run_tool(making.arg(dir), MAKE_LIMIT);
    if let Err(output) = made {
        return Err(PythonEnvError::Venv {
            tool,
            remedy: remedy(&output, base),
            output,
        });
    }

    observer.tell(Step::InstallPackages(packages.to_vec()));
    let mut installing = match &uv {
        Some(uv) => tool_command(
            uv,
            &["pip", "install", "--quiet", "--python"],
            Some(python.as_os_str()),
        ),
        None => tool_command(python, &PIP_INSTALL, None),
    };
    let installed = run_tool(installing.arg("--").args(packages), INSTALL_LIMIT);
    installed.map_err(|output| PythonEnvError::Install {
        tool: if uv.is_some() { "uv" } else { "pip" },
        packages: packages.to_vec(),
        output,
    })?;
    let done = dir.join(DONE);
    fs::write(&done, packages.join("\n")).map_err(PythonEnvError::file("write", done))
}

fn tool_command(program: &Path, args: &[&str], last: Option<&OsStr>) -> Command {
    let mut command = Command::new(program);
    command
        .args(args)
        .args(last)
        // An active environment is not the one we make.
        .env_remove("VIRTUAL_ENV")
        .env_remove("PYTHONHOME");
    command
}

/// Runs a tool; the error is what it said, for people.
fn run_tool(command: &mut Command, limit: Duration) -> Result<(), String> {
    match run::run(command, limit) {
        Ok(Some(Finished { status, .. })) if status.success() => Ok(()),
        Ok(Some(finished)) => {
            let words = finished.last_words(LINES);
            Err(if words.is_empty() {
                finished.status.to_string()
            } else {
                words
            })
        }
        Ok(None) => Err(format!("it did not end within {limit:?}")),
        Err(error) => Err(error.to_string()),
    }
}

fn find_uv(surroundings: &Surroundings) -> Option<PathBuf> {
    let is_program =
        |path: &PathBuf| path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
    surroundings
        .path_dirs()
        .into_iter()
        .map(|dir| dir.join("uv"))
        .find(is_program)
}

/// What helps where an environment cannot be made. Debian and its descendants ship Python without the parts.
fn remedy(output: &str, base: &Interpreter) -> String {
    let version = base.version();
    let stripped = [
        "ensurepip",
        "No module named venv",
        "No module named 'venv'",
        "python3-venv",
    ]
    .iter()
    .any(|sign| output.contains(sign));
    if stripped {
        format!(
            "this Python comes without venv; install it (Debian: apt install python{}.{}-venv) or install uv, or give \
             an interpreter that has the packages",
            version.major, version.minor
        )
    } else {
        "give an interpreter that has the packages, or install uv".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python_env::PythonVersion;

    #[test]
    fn options_are_not_packages() {
        for spec in ["", " ", "--index-url=x", " -r", "numpy\n-r x"] {
            assert!(validate(&[spec.to_owned()]).is_err(), "{spec:?}");
        }
        validate(&["numpy".to_owned(), "pandas[excel]>=2,<3".to_owned()]).unwrap();
    }

    #[test]
    fn debians_missing_parts_are_recognised() {
        let base = Interpreter {
            path: "/usr/bin/python3".into(),
            version: PythonVersion {
                major: 3,
                minor: 11,
                patch: 2,
            },
            free_threaded: false,
            site_dirs: Vec::new(),
        };
        for output in [
            "The virtual environment was not created successfully because ensurepip is not\navailable.",
            "/usr/bin/python3: No module named venv",
        ] {
            assert!(
                remedy(output, &base).contains("apt install python3.11-venv"),
                "{output}"
            );
        }
        assert!(!remedy("No space left on device", &base).contains("apt"));
    }
}
