//! The order in which interpreters are looked for.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fmt, fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    PythonEnvError,
    cache::Cache,
    interpreter::{Interpreter, Unfit},
    memo,
    step::Observer,
    surroundings::Surroundings,
};

/// An interpreter that was looked at.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Candidate {
    /// Where it was found; a shim, perhaps.
    pub path: PathBuf,
    /// Why it was looked at, as in `PATH`.
    pub origin: &'static str,
    /// What it is, or why it does not serve.
    pub answer: Result<Interpreter, Unfit>,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}) ", self.path.display(), self.origin)?;
        match &self.answer {
            Ok(interpreter) => write!(f, "is Python {}", interpreter.version()),
            Err(unfit) => write!(f, "{unfit}"),
        }
    }
}

/// The first interpreter that serves; the given one or none if one is given.
pub(super) fn find(
    surroundings: &Surroundings,
    cache: Option<&Cache>,
    given: Option<&Path>,
    observer: &Observer,
) -> Result<Interpreter, PythonEnvError> {
    let named = given
        .map(|given| (given, "the given interpreter"))
        .or_else(|| Some((Path::new(surroundings.python.as_ref()?), "SNAKEPIT_PYTHON")));
    if let Some((name, origin)) = named {
        return resolve(name, surroundings)
            .and_then(|path| memo::ask(&path, surroundings, cache, observer))
            .map_err(|unfit| PythonEnvError::Interpreter {
                interpreter: name.to_path_buf(),
                origin,
                unfit,
            });
    }
    let mut rejected = Vec::new();
    for (path, origin) in places(surroundings) {
        match memo::ask(&path, surroundings, cache, observer) {
            Ok(interpreter) => return Ok(interpreter),
            answer => rejected.push(Candidate { path, origin, answer }),
        }
    }
    Err(PythonEnvError::NoInterpreter { rejected })
}

/// All of them, with what each is.
pub(super) fn survey(surroundings: &Surroundings, cache: Option<&Cache>) -> Vec<Candidate> {
    let named = surroundings.python.as_ref().map(PathBuf::from);
    let ask = |path: &Path| memo::ask(path, surroundings, cache, &Observer::default());
    let named = named.map(|name| Candidate {
        answer: resolve(&name, surroundings).and_then(|path| ask(&path)),
        path: name,
        origin: "SNAKEPIT_PYTHON",
    });
    let found = places(surroundings).map(|(path, origin)| Candidate {
        answer: ask(&path),
        path,
        origin,
    });
    named.into_iter().chain(found).collect()
}

/// The file that a user's words mean: a path, a virtual environment's directory, or a name in `$PATH`.
fn resolve(name: &Path, surroundings: &Surroundings) -> Result<PathBuf, Unfit> {
    if name.components().count() == 1 && !name.is_dir() && !name.has_root() {
        return surroundings
            .path_dirs()
            .into_iter()
            .map(|dir| dir.join(name))
            .find(|path| is_program(path))
            .ok_or(Unfit::NotOnPath);
    }
    let path = std::path::absolute(name).map_err(not_executable)?;
    if path.is_dir() {
        let python = path.join("bin/python");
        return if python.exists() {
            Ok(python)
        } else {
            Err(Unfit::NoEnvironment)
        };
    }
    fs::metadata(&path).map_err(not_executable)?;
    Ok(path)
}

fn not_executable(error: io::Error) -> Unfit {
    Unfit::NotExecutable(Arc::new(error))
}

/// Where to look, in order, each file once however many names it has. Lazy: as a rule the first one serves.
fn places(surroundings: &Surroundings) -> impl Iterator<Item = (PathBuf, &'static str)> {
    let dirs = surroundings.path_dirs();
    let venv = surroundings.virtual_env.iter();
    let active = venv.map(|venv| (venv.join("bin/python"), "VIRTUAL_ENV"));
    // What the user calls `python3` comes before any other version, wherever that stands.
    let plain: Vec<_> = dirs.iter().map(|dir| (dir.join("python3"), "PATH")).collect();
    let versioned = dirs.into_iter().flat_map(|dir| {
        let names = versioned_names(&dir);
        names.into_iter().map(move |name| (dir.join(name), "PATH"))
    });
    let mut seen = HashSet::new();
    active
        .chain(plain)
        .chain(versioned)
        .filter(move |(path, origin)| match fs::metadata(path) {
            Ok(found) => seen.insert((found.dev(), found.ino(), own_name(path))),
            Err(_) => *origin != "PATH",
        })
}

/// What tells two names of one file apart: a virtual environment's python is a link to another's and goes by where
/// it stands; shims are often links to one script that goes by the name it is called by.
fn own_name(path: &Path) -> Option<PathBuf> {
    let in_venv = path
        .parent()
        .and_then(Path::parent)
        .is_some_and(|root| root.join("pyvenv.cfg").exists());
    if in_venv {
        Some(path.to_path_buf())
    } else if memo::is_script(path) {
        path.file_name().map(PathBuf::from)
    } else {
        None
    }
}

/// The `python3.N` of a directory, newest first, leaving out those known to be too old by their name.
fn versioned_names(dir: &Path) -> Vec<String> {
    let minor = |name: &OsStr| -> Option<u32> { name.to_str()?.strip_prefix("python3.")?.parse().ok() };
    let mut minors: Vec<u32> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| minor(&entry.file_name()))
        .filter(|minor| *minor >= super::MINIMUM.minor)
        .collect();
    minors.sort_unstable_by(|a, b| b.cmp(a));
    minors
        .into_iter()
        .map(|minor| format!("python3.{minor}"))
        .collect()
}

fn is_program(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}
