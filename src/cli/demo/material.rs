//! The adapter and the data of the tour. They are part of the program, so that it runs from anywhere.

use std::{
    env, fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use crate::cli::failure::Failure;

const FILES: [(&str, &str); 2] = [
    ("nile.py", include_str!("../../../examples/nile/nile.py")),
    ("nile.csv", include_str!("../../../examples/nile/nile.csv")),
];

/// A directory with the adapter in it, removed when this is dropped.
#[derive(Debug)]
pub(super) struct Material {
    dir: PathBuf,
}

impl Material {
    pub(super) fn lay() -> Result<Self, Failure> {
        let run = snakepit::core::RunId::current();
        let dir = env::temp_dir().join(format!("snakepit-demo-{run}"));
        lay(&dir).map_err(|error| {
            Failure::Failed(format!(
                "cannot write the demo's files to {}: {error}",
                dir.display()
            ))
        })?;
        Ok(Self { dir })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }
}

fn lay(dir: &Path) -> io::Result<()> {
    // Fails if anybody has made it: workers will execute what lies in it.
    fs::DirBuilder::new().mode(0o700).create(dir)?;
    for (name, content) in FILES {
        fs::write(dir.join(name), content)?;
    }
    Ok(())
}

impl Drop for Material {
    fn drop(&mut self) {
        // What is left of two small files in the temporary directory harms nobody.
        let _ = fs::remove_dir_all(&self.dir);
    }
}
