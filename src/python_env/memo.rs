//! Remembers what interpreters answered, so that a second run asks none.

use std::{
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::Path,
};

use super::{
    cache::{self, Cache},
    interpreter::{Interpreter, PythonVersion, Unfit},
    probe,
    step::{Observer, Step},
    surroundings::Surroundings,
};

/// What identifies a file's content for our purpose.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Stamp {
    dev: u64,
    ino: u64,
    size: u64,
    mtime: (i64, i64),
}

impl Stamp {
    /// That of the file a path leads to.
    pub(super) fn of(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|found| Self {
            dev: found.dev(),
            ino: found.ino(),
            size: found.size(),
            mtime: (found.mtime(), found.mtime_nsec()),
        })
    }
}

/// An answer on file.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Record {
    asked: Stamp,
    /// What a shim goes by; empty for a program of its own.
    context: String,
    answer: Answer,
}

/// Answers that stay true while the files stay the same. That an interpreter is broken is not one of them.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
enum Answer {
    Fit { interpreter: Interpreter, stamp: Stamp },
    TooOld(PythonVersion),
    NotCPython(String),
}

/// What the interpreter at `path` is, from memory where possible.
pub(super) fn ask(
    path: &Path,
    surroundings: &Surroundings,
    cache: Option<&Cache>,
    observer: &Observer,
) -> Result<Interpreter, Unfit> {
    let asked = Stamp::of(path);
    let context = shim_context(path, surroundings);
    let file = cache.and_then(|cache| {
        let name = cache::name_of(&[env!("CARGO_PKG_VERSION").as_bytes(), path.as_os_str().as_bytes()]);
        Some(cache.dir("interpreters").ok()?.join(name + ".json"))
    });
    if let (Some(asked), Some(file)) = (&asked, &file)
        && let Some(answer) = recall(file, asked, &context)
    {
        return answer;
    }
    observer.tell(Step::AskInterpreter(path.to_path_buf()));
    let answer = probe::ask(path);
    if let (Some(asked), Some(file)) = (asked, &file) {
        let record = match &answer {
            Ok(interpreter) => Stamp::of(&interpreter.path).map(|stamp| Answer::Fit {
                interpreter: interpreter.clone(),
                stamp,
            }),
            Err(Unfit::TooOld(version)) => Some(Answer::TooOld(*version)),
            Err(Unfit::NotCPython(name)) => Some(Answer::NotCPython(name.clone())),
            Err(_) => None,
        };
        if let Some(answer) = record {
            remember(
                file,
                &Record {
                    asked,
                    context,
                    answer,
                },
            );
        }
    }
    answer
}

fn recall(file: &Path, asked: &Stamp, context: &str) -> Option<Result<Interpreter, Unfit>> {
    let record: Record = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    if record.asked != *asked || record.context != context {
        return None;
    }
    Some(match record.answer {
        Answer::Fit { interpreter, stamp } if Stamp::of(&interpreter.path)? == stamp => Ok(interpreter),
        Answer::Fit { .. } => return None,
        Answer::TooOld(version) => Err(Unfit::TooOld(version)),
        Answer::NotCPython(name) => Err(Unfit::NotCPython(name)),
    })
}

/// Memory is a convenience: without it (a full disk, a path that is not UTF-8) the next run asks again.
fn remember(file: &Path, record: &Record) {
    let written = serde_json::to_vec(record)
        .map_err(std::io::Error::other)
        .and_then(|text| cache::write_whole(file, &text));
    if let Err(error) = written {
        tracing::debug!(file = %file.display(), %error, "an interpreter's answer was not kept");
    }
}

/// What a script in front of the interpreter goes by when it chooses one: pyenv's shims read a variable, a
/// `.python-version` in the working directory or above it, and the global choice beside the shims.
fn shim_context(path: &Path, surroundings: &Surroundings) -> String {
    if !is_script(path) {
        return String::new();
    }
    let local = surroundings
        .cwd
        .iter()
        .flat_map(|cwd| cwd.ancestors())
        .map(|dir| dir.join(".python-version"))
        .find_map(|file| Some((Stamp::of(&file)?, file)));
    let global = path
        .parent()
        .and_then(Path::parent)
        .and_then(|root| Stamp::of(&root.join("version")));
    format!("{:?} {local:?} {global:?}", surroundings.pyenv_version)
}

pub(super) fn is_script(path: &Path) -> bool {
    let mut start = [0_u8; 2];
    fs::File::open(path)
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut start))
        .is_ok_and(|()| start == *b"#!")
}
