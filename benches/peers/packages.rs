//! The peers' packages, in versions that are pinned: another version is another measurement.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::{Result, interpreter::run};

/// What must be there.
const PACKAGES: [&str; 6] = [
    "grpcio==1.85.1",
    "grpcio-tools==1.85.1",
    "protobuf==7.36.2",
    "loky==3.7.0",
    "numpy==2.4.6",
    "pandas==3.1.1",
];

/// What may be missing: it has no wheels for some interpreters and machines.
pub(crate) const RAY: &str = "ray==2.60.0";

/// Makes a virtual environment at `home`, or takes the one made before with the same packages.
pub(crate) async fn install(home: &Path, base: impl AsyncFnOnce() -> Result<PathBuf>) -> Result<()> {
    // Written last, so that an interrupted installation is begun again, and so is one of other packages.
    let done = home.join("complete");
    let wanted = format!("{} {RAY}", PACKAGES.join(" "));
    if tokio::fs::read_to_string(&done)
        .await
        .is_ok_and(|there| there == wanted)
    {
        return Ok(());
    }
    eprintln!("making {} with {wanted}", home.display());
    run(Command::new(base().await?)
        .args(["-m", "venv", "--clear"])
        .arg(home))
    .await?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    let python = home.join("bin/python");
    run(Command::new(&python).args(pip).args(PACKAGES)).await?;
    if let Err(error) = run(Command::new(&python)
        .args(pip)
        .args(["--only-binary", ":all:", RAY]))
    .await
    {
        eprintln!("going on without {RAY}: {error}");
    }
    tokio::fs::write(&done, wanted).await?;
    Ok(())
}

/// The packages whose versions a document names.
pub(crate) const NAMED: [&str; 6] = ["grpcio", "protobuf", "loky", "numpy", "pandas", "ray"];
