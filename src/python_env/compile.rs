//! Compiles the laid package once, so that each worker need not.

use std::{fs, path::Path, process::Command, time::Duration};

use super::{interpreter::Interpreter, run};

/// Bound on the compilation of a handful of small files.
const LIMIT: Duration = Duration::from_secs(30);

/// Leaves bytecode for this version of Python beside the package's files. Python does so by itself at the first
/// import unless `PYTHONDONTWRITEBYTECODE` is set; then every worker would compile anew. A failure costs only time.
pub(super) fn ensure(interpreter: &Interpreter, dir: &Path) {
    let package = dir.join("snakepit");
    let version = interpreter.version();
    let tag = format!("cpython-{}{}", version.major, version.minor);
    let first = package.join("__pycache__").join(format!("__init__.{tag}.pyc"));
    if fs::exists(&first).unwrap_or(false) || !package.join("__init__.py").exists() {
        return;
    }
    let mut command = Command::new(interpreter.path());
    // The directory is named by its content, so nobody needs to compare the bytecode with its source again.
    command
        .args([
            "-E",
            "-s",
            "-P",
            "-m",
            "compileall",
            "-q",
            "--invalidation-mode",
            "unchecked-hash",
        ])
        .arg(&package)
        .env_remove("PYTHONPYCACHEPREFIX");
    match run::run(&mut command, LIMIT) {
        Ok(Some(finished)) if finished.status.success() => {}
        outcome => tracing::debug!(package = %package.display(), ?outcome, "the package was not compiled"),
    }
}
