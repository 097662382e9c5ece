//! The Python that all systems share, with the peers' packages in a virtual environment of the benchmark's own.

use std::{
    env,
    path::{Path, PathBuf},
    process::Stdio,
};

use snakepit::PythonEnv;
use tokio::process::Command;

use crate::Result;

/// What the peers need; installed from the package index once.
const PACKAGES: [&str; 3] = ["grpcio", "grpcio-tools", "protobuf"];

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
}

impl Interpreter {
    /// Makes the environment under the target directory, or takes the one made before.
    pub(crate) async fn prepare() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        let home = target.join("bench-venv");
        let (python, stubs) = (home.join("bin/python"), home.join("stubs"));
        let programs = root.join("benches/peers/python");
        // Written last, so that an interrupted installation is begun again.
        let done = home.join("complete");
        if !done.exists() {
            eprintln!("making {} with {}", home.display(), PACKAGES.join(", "));
            let base = find_python().await?;
            run(Command::new(base).args(["-m", "venv", "--clear"]).arg(&home)).await?;
            let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
            run(Command::new(&python).args(pip).args(PACKAGES)).await?;
            tokio::fs::write(&done, "").await?;
        }
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

    /// `CPython 3.11.7, grpcio 1.80.0, protobuf 6.33.0`.
    pub(crate) async fn describe(&self) -> Result<String> {
        let ask = "import platform, importlib.metadata as m
print(', '.join([f'{platform.python_implementation()} {platform.python_version()}',
                 *(f'{name} {m.version(name)}' for name in ('grpcio', 'protobuf'))]))";
        let output = Command::new(&self.python).args(["-c", ask]).output().await?;
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }
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
async fn run(command: &mut Command) -> Result<()> {
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
