//! The Python that all systems share, with the peers' packages in a virtual environment of the benchmark's own.

use std::{
    env,
    path::{Path, PathBuf},
    process::Stdio,
};

use snakepit::{Backend, PythonEnv};
use tokio::process::Command;

use crate::{
    Result,
    kind::Kind,
    packages::{self, RAY},
};

/// Prints the real interpreter, if it is new enough and can make virtual environments. `base_prefix` leads
/// past both a virtual environment and a version manager's shim.
const PROBE: &str = "import ensurepip, os, sys, venv
assert sys.version_info >= (3, 11)
print(os.path.realpath(getattr(sys, '_base_executable', sys.executable)))";

/// The interpreter of the benchmark's environment and where things are.
#[derive(Clone, Debug)]
pub(crate) struct Interpreter {
    /// The environment's `python`.
    pub(crate) python: PathBuf,
    /// The same interpreter with this project's worker package.
    pub(crate) environment: PythonEnv,
    /// The generated grpcio code.
    pub(crate) stubs: PathBuf,
    /// `benches/peers/python`: what the systems run.
    pub(crate) programs: PathBuf,
    /// The interpreter and the packages, with their versions.
    pub(crate) versions: String,
}

impl Interpreter {
    /// Makes the environment under the target directory, or takes the one made before.
    pub(crate) async fn prepare() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        let home = target.join("bench-venv");
        let (python, stubs) = (home.join("bin/python"), home.join("stubs"));
        let programs = root.join("benches/peers/python");
        packages::install(&home, find_python).await?;
        tokio::fs::create_dir_all(&stubs).await?;
        run(Command::new(&python)
            .args(["-m", "grpc_tools.protoc", "-I"])
            .arg(root.join("proto"))
            .arg(format!("--python_out={}", stubs.display()))
            .arg(format!("--grpc_python_out={}", stubs.display()))
            .arg("snakepit/worker/v1/worker.proto"))
        .await?;
        // Nobody shall compile while a start is timed, whatever the environment says of bytecode.
        run(Command::new(&python)
            .args(["-m", "compileall", "-q"])
            .arg(&stubs)
            .arg(&programs))
        .await?;
        // Discovery happens once in a service's life; it is not part of any start that is timed here.
        let chosen = PythonEnv::builder()
            .interpreter(&python)
            .cache_dir(target.join("bench-cache"));
        Ok(Self {
            environment: tokio::task::spawn_blocking(|| chosen.build()).await??,
            versions: versions(&python).await?,
            python,
            stubs,
            programs,
        })
    }

    /// A command that runs one of the programs beside the adapter.
    pub(crate) fn program(&self, name: &str) -> std::process::Command {
        let mut command = std::process::Command::new(&self.python);
        command.arg(self.programs.join(name));
        command
    }

    /// Why a system cannot be measured here; `None` when it can, as far as one knows before it is tried.
    pub(crate) fn lacks(&self, kind: Kind) -> Option<String> {
        match kind.backend() {
            Some(backend) if Backend::compiled_in().all(|there| there != backend) => Some(format!(
                "the Cargo feature {} is not switched on",
                backend.feature()
            )),
            None if kind == Kind::Ray && !self.versions.contains(", ray ") => {
                Some(format!("{RAY} has no wheel for this interpreter and machine"))
            }
            _ => None,
        }
    }
}

/// `CPython 3.11.7, grpcio 1.85.1, protobuf 7.36.2`, and so on.
async fn versions(python: &Path) -> Result<String> {
    let ask = "import platform, importlib.metadata as m, sys
there = {d.name: d.version for d in m.distributions()}
print(', '.join([f'{platform.python_implementation()} {platform.python_version()}',
                 *(f'{name} {there[name]}' for name in sys.argv[1:] if name in there)]))";
    let output = Command::new(python)
        .args(["-c", ask])
        .args(packages::NAMED)
        .output()
        .await?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// The first suitable interpreter on the `PATH`.
async fn find_python() -> Result<PathBuf> {
    for name in [
        "python3",
        "python3.14",
        "python3.13",
        "python3.12",
        "python3.11",
        "/usr/bin/python3",
    ] {
        let mut probe = Command::new(name);
        let output = probe.args(["-c", PROBE]).stderr(Stdio::null()).output().await;
        if let Ok(output) = output
            && output.status.success()
        {
            return Ok(String::from_utf8(output.stdout)?.trim().into());
        }
    }
    Err(
        "no python3 of version 3.11 or newer with venv and ensurepip; on Debian: apt install python3-venv"
            .into(),
    )
}

/// Runs a command of the preparation to its end; its output is shown, on standard error.
pub(crate) async fn run(command: &mut Command) -> Result<()> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true);
    let status = command.status().await?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{:?} failed: {status}", command.as_std()).into())
    }
}
