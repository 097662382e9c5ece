//! Python: the interpreters, the worker package, and whether one loads the other.

use std::{io, num::NonZeroUsize, process::Command};

use snakepit::{
    PythonEnv,
    python_env::{Candidate, WorkerPackageSource},
};

use super::Finding;
use crate::cli::{args::PythonArgs, failure};

const SECTION: &str = "Python";

/// Looks at Python; gives the environment a pool would use.
pub(super) fn look(args: &PythonArgs, findings: &mut Vec<Finding>) -> Option<PythonEnv> {
    let environment = match args.environment() {
        Ok(environment) => environment,
        Err(error) => {
            let text = failure::chain(&error);
            let (found, remedy) = match text.split_once("\nhelp: ") {
                Some((found, remedy)) => (found.to_owned(), remedy.to_owned()),
                None => (text, "name an interpreter with --python".to_owned()),
            };
            findings.push(Finding::missing(SECTION, "environment", found, remedy));
            others(None, findings);
            return None;
        }
    };
    let interpreter = environment.interpreter();
    let free_threaded = if interpreter.is_free_threaded() {
        ", free-threaded"
    } else {
        ""
    };
    findings.push(Finding::good(
        SECTION,
        "interpreter",
        format!(
            "{} (Python {}{free_threaded})",
            interpreter.path().display(),
            interpreter.version()
        ),
    ));
    let package = environment.worker_package();
    let source = match package.source() {
        WorkerPackageSource::Built(library) => format!("built with this program ({})", library.display()),
        WorkerPackageSource::Installed => "installed in the interpreter".to_owned(),
        WorkerPackageSource::Named => "named by SNAKEPIT_WORKER_PACKAGE".to_owned(),
        _ => "found".to_owned(),
    };
    findings.push(Finding::good(
        SECTION,
        "worker package",
        format!("{}, {source}", package.dir().display()),
    ));
    findings.push(import(&environment));
    others(Some(&environment), findings);
    Some(environment)
}

/// Whether the interpreter loads the package: the only proof that the library fits it.
fn import(environment: &PythonEnv) -> Finding {
    const NAME: &str = "import";
    let worker = environment.command(NonZeroUsize::MIN);
    let question =
        "import snakepit._native as native; print(getattr(native, '__version__', 'without a version'))";
    let answer = Command::new(&worker.program)
        .args(["-P", "-c", question])
        .envs(worker.env)
        .output();
    let remedy =
        "use another interpreter (--python), or install the wheel made for this one (pip install snakepit)";
    match answer {
        Ok(answer) if answer.status.success() => {
            let version = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
            let ours = env!("CARGO_PKG_VERSION");
            if version == ours {
                Finding::good(SECTION, NAME, format!("snakepit {version} loads"))
            } else {
                Finding::missing(
                    SECTION,
                    NAME,
                    format!("snakepit {version} loads, but this program is {ours}"),
                    format!("install the same version (pip install snakepit=={ours})"),
                )
            }
        }
        Ok(answer) => Finding::missing(SECTION, NAME, last_line(&answer.stderr), remedy),
        Err(error) => Finding::missing(SECTION, NAME, error.to_string(), remedy),
    }
}

fn last_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    last.unwrap_or("it failed without a word").to_owned()
}

/// The interpreters that were not chosen, and why not.
fn others(chosen: Option<&PythonEnv>, findings: &mut Vec<Finding>) {
    let chosen = chosen.map(|environment| environment.interpreter().path().to_path_buf());
    let is_chosen = |candidate: &Candidate| {
        let answer = candidate.answer.as_ref();
        answer.is_ok_and(|interpreter| Some(interpreter.path()) == chosen.as_deref())
    };
    for candidate in PythonEnv::candidates() {
        if !is_chosen(&candidate) && !is_absent(&candidate) {
            findings.push(Finding::note(SECTION, "not used", candidate.to_string()));
        }
    }
}

fn is_absent(candidate: &Candidate) -> bool {
    use snakepit::python_env::Unfit;
    matches!(&candidate.answer, Err(Unfit::NotExecutable(error)) if error.kind() == io::ErrorKind::NotFound)
}
