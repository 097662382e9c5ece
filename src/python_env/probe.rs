//! Asks an interpreter what it is.

use std::{
    ffi::OsString, os::unix::ffi::OsStringExt as _, path::Path, path::PathBuf, process::Command, sync::Arc,
    time::Duration,
};

use super::{
    interpreter::{Interpreter, MINIMUM, PythonVersion, Unfit},
    run,
};

/// Bound on one question. A cold interpreter on a busy machine with a slow disk needs a second or two.
const LIMIT: Duration = Duration::from_secs(20);

/// Runs on any Python since 2.6, so that an old one is told as old and not as broken. Paths travel as hex: they may
/// hold any byte. `sys.executable` is the interpreter behind whatever shim was started.
const QUESTION: &str = r#"
import sys
print("snakepit-probe")
print("version %d.%d.%d" % tuple(sys.version_info[:3]))
if sys.version_info >= (3, 11):
    import os, site
    hexed = lambda path: os.fsencode(path).hex()
    print("implementation " + sys.implementation.name)
    print("executable " + hexed(sys.executable or ""))
    print("free-threaded %d" % ("t" in getattr(sys, "abiflags", "")))
    dirs = site.getsitepackages()
    if site.ENABLE_USER_SITE:
        dirs.append(site.getusersitepackages())
    for path in dirs:
        print("site " + hexed(path))
"#;

/// What the interpreter at `path` is.
pub(super) fn ask(path: &Path) -> Result<Interpreter, Unfit> {
    let mut command = Command::new(path);
    // -E: a stray PYTHONHOME must not make every interpreter look broken.
    command.args(["-E", "-c", QUESTION]);
    let finished = run::run(&mut command, LIMIT)
        .map_err(|error| Unfit::NotExecutable(Arc::new(error)))?
        .ok_or(Unfit::NoAnswer(LIMIT))?;
    // The answer stands alone after its title; a sitecustomize may have printed before it.
    let answer = finished
        .stdout
        .split_once("snakepit-probe\n")
        .map(|(_, answer)| answer);
    let Some(answer) = answer.filter(|_| finished.status.success()) else {
        let words = finished.reason();
        let said = if words.is_empty() {
            String::new()
        } else {
            format!(", saying: {words}")
        };
        return Err(Unfit::Broken(format!(
            "asked what it is, it ended with {}{said}, and not as Python does",
            finished.status
        )));
    };
    read(answer)
}

fn read(answer: &str) -> Result<Interpreter, Unfit> {
    let fields = || answer.lines().filter_map(|line| line.split_once(' '));
    let field = |name: &str| fields().find_map(|(key, value)| (key == name).then_some(value));
    let version = field("version")
        .and_then(PythonVersion::parse)
        .ok_or_else(|| Unfit::Broken(format!("it answered {answer:?}")))?;
    if version < MINIMUM {
        return Err(Unfit::TooOld(version));
    }
    let implementation = field("implementation").unwrap_or("unknown");
    if implementation != "cpython" {
        return Err(Unfit::NotCPython(implementation.to_owned()));
    }
    let path = field("executable")
        .and_then(unhex)
        .filter(|path| path.is_absolute())
        .ok_or_else(|| Unfit::Broken("it does not know its own path (sys.executable)".to_owned()))?;
    Ok(Interpreter {
        path,
        version,
        free_threaded: field("free-threaded") == Some("1"),
        site_dirs: fields()
            .filter(|(key, _)| *key == "site")
            .filter_map(|(_, value)| unhex(value))
            .collect(),
    })
}

fn unhex(text: &str) -> Option<PathBuf> {
    let digits = text.as_bytes();
    if digits.is_empty() || !digits.len().is_multiple_of(2) {
        return None;
    }
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
    Some(PathBuf::from(OsString::from_vec(bytes?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read() {
        let python =
            read("version 3.12.1\nimplementation cpython\nexecutable 2f612062\nfree-threaded 0\nsite 2f73\n")
                .unwrap();
        assert_eq!(python.path, Path::new("/a b"));
        assert_eq!(python.site_dirs, [Path::new("/s")]);
    }

    #[test]
    fn answers_that_do_not_serve_say_why() {
        for (answer, why) in [
            ("version 2.7.18\n", "too old"),
            ("version 3.11.0\nimplementation pypy\n", "CPython"),
            (
                "version 3.11.0\nimplementation cpython\nexecutable \n",
                "sys.executable",
            ),
            ("nonsense\n", "nonsense"),
        ] {
            let error = read(answer).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
