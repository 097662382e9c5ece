//! Embeds the Python part of the worker package, so that the program finds it wherever it is moved to.
//!
//! The list is walked, not written by hand: a file added to `python/snakepit` is embedded by the next build.
//! A package fetched from a registry has no `python` directory; its list is empty, and the worker package comes
//! from the wheel then.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

/// What belongs to the package; bytecode, libraries and editor files do not.
const KINDS: [&str; 3] = ["py", "pyi", "typed"];

fn main() -> io::Result<()> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let package = root.join("python").join("snakepit");
    let mut files = Vec::new();
    if package.is_dir() {
        // A directory is watched with everything in it.
        println!("cargo::rerun-if-changed=python/snakepit");
        collect(&package, &package, &mut files)?;
    } else if root.join("python").is_dir() {
        // It may appear, as by a merge. A path that does not exist would be built anew each time.
        println!("cargo::rerun-if-changed=python");
    } else {
        println!("cargo::rerun-if-changed=build.rs");
    }
    files.sort();

    let mut list = String::from("&[\n");
    for file in &files {
        let absolute = package.join(file);
        let (name, absolute) = (text(file)?, text(&absolute)?);
        list.push_str(&format!(
            "    ({name:?}, include_bytes!({absolute:?}).as_slice()),\n"
        ));
    }
    list.push_str("]\n");

    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    fs::write(out.join("worker_sources.rs"), list)
}

/// Adds the package files below `dir`, as paths relative to `package`.
fn collect(package: &Path, dir: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            if name != "__pycache__" && !name.starts_with('.') {
                collect(package, &path, files)?;
            }
        } else if path
            .extension()
            .is_some_and(|kind| KINDS.iter().any(|known| kind == *known))
            || name == "py.typed"
        {
            files.push(path.strip_prefix(package).unwrap_or(&path).to_path_buf());
        }
    }
    Ok(())
}

fn text(path: &Path) -> io::Result<&str> {
    path.to_str()
        .ok_or_else(|| io::Error::other(format!("{} is not UTF-8", path.display())))
}
